"""An exact law: in a pre-LN model multiply gain and bias of a norm by s_j (powers of two) and divide column j
of every Linear it feeds by s_j. The function is unchanged, so the mask of a method that looks at activations
must be the same, bit for bit; plain magnitude is not that lucky."""

import pytest
import torch
from torch import nn

from prunus import methods
from prunus.allocation import OWL, Sensitivity
from prunus.families import weight_matrix
from prunus.methods import SNIP, Magnitude, SparseGPT, Taylor, Wanda
from prunus.patterns import NM, Block, Unstructured
from prunus.prune import prune_

FEEDS = {
    "gpt2": ("transformer.h", {"ln_1": ["attn.c_attn"], "ln_2": ["mlp.c_fc"]}),
    "llama": (
        "model.layers",
        {
            "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        },
    ),
}


def loss(model, batch):
    return model(batch, labels=batch).loss


INVARIANT = [
    Magnitude("column"),
    Wanda(),
    Wanda(steps=2),
    Wanda(repair=True),
    SparseGPT(),
    SparseGPT(repair=True),
    Taylor(loss),
    SNIP(loss, steps=2),
]
PATTERNS = [
    Unstructured(0.6),
    Unstructured(0.6, scope="row"),
    Unstructured(0.6, scope="column"),
    Unstructured(0.6, scope="model"),
    NM(2, 4),
    Block((2, 4), 0.6),
]


@torch.no_grad()
def rescale_(model: nn.Module, kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    path, feeds = FEEDS[kind]
    for block in model.get_submodule(path):
        for norm, linears in feeds.items():
            gain = block.get_submodule(norm)
            scale = 2.0 ** torch.randint(-6, 7, gain.weight.shape, generator=generator).float()
            for parameter in gain.parameters():
                parameter *= scale
            for linear in linears:
                weight_matrix(block.get_submodule(linear)).div_(scale)


def masks(model: nn.Module, pattern, method, batches) -> dict[str, torch.Tensor]:
    report = prune_(model, pattern, method, batches)
    return {name: weight_matrix(model.get_submodule(name)) != 0 for name in report.pruned}


@pytest.mark.parametrize("kind", list(FEEDS))
def test_the_function_is_unchanged(build, batches, kind):
    model = build(kind)
    with torch.no_grad():
        before = model(batches[0]).logits
        rescale_(model, kind)
        assert torch.equal(model(batches[0]).logits, before)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("method", INVARIANT, ids=str)
@pytest.mark.parametrize("kind", list(FEEDS))
def test_masks_do_not_see_the_scale(build, batches, kind, method, pattern):
    plain, scaled = build(kind), build(kind)
    rescale_(scaled, kind)
    expected = masks(plain, pattern, method, batches)
    found = masks(scaled, pattern, method, batches)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=str)
@pytest.mark.parametrize(
    "allocation", [OWL(Unstructured(0.6)), Sensitivity(Unstructured(0.6), levels=(0.3, 0.6, 0.9))], ids=str
)
@pytest.mark.parametrize("kind", list(FEEDS))
def test_shares_of_layers_do_not_see_the_scale(build, batches, kind, allocation, method):
    plain, scaled = build(kind), build(kind)
    rescale_(scaled, kind)
    expected = masks(plain, allocation, method, batches)
    found = masks(scaled, allocation, method, batches)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len({int(mask.sum()) / mask.numel() for mask in expected.values()}) > 1


def test_every_method_that_measures_is_here():
    """A new method has to join, or to say here why the law does not bind it."""
    every = {method for method in vars(methods).values() if isinstance(method, type)} - {methods.Method}
    measuring = {method for method in every if method.needs}
    assert measuring <= {type(method) for method in INVARIANT}
    assert every - measuring == {Magnitude, methods.Random}


@pytest.mark.parametrize("kind", list(FEEDS))
def test_plain_magnitude_does(build, batches, kind):
    plain, scaled = build(kind), build(kind)
    rescale_(scaled, kind)
    expected = masks(plain, Unstructured(0.6), Magnitude(), batches)
    found = masks(scaled, Unstructured(0.6), Magnitude(), batches)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)
