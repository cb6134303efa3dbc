"""save and load bring a shrunk model back into a fresh dense one, pruned and accelerated layers included."""

from __future__ import annotations

import copy

import pytest
import torch
from shrink_models import CASES, FAMILY_OF, batches, make, output
from torch import nn

import prunus
from prunus import FormatError, SparseLinear, save
from prunus import load as load_
from prunus.families import find_stack, weight_matrix
from prunus.shrink import Heads, Layers, Neurons, geometry, shrink_


def shrunk(name, dtype=torch.float32):
    model = make(name, dtype=dtype)
    for kind, what in (("neurons", Neurons(0.3, scope="model")), ("heads", Heads(0.5))):
        if (name, kind) in CASES:
            shrink_(model, what, batches())
    shrink_(model, Layers([1]))
    return model


@pytest.mark.parametrize("name", FAMILY_OF)
def test_a_fresh_dense_model_becomes_the_shrunk_one(name, tmp_path):
    model, fresh = shrunk(name), make(name, seed=1, dtype=torch.float32)
    save(model, tmp_path / "m.safetensors")
    load_(fresh, tmp_path / "m.safetensors")
    batch = batches(seed=4)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))
    assert geometry(fresh) == geometry(model)
    if "generate" in dir(fresh):
        prompt = {
            "input_ids": torch.tensor([[5, 9, 3]]),
            "attention_mask": torch.ones(1, 3, dtype=torch.long),
        }
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(fresh.generate(**prompt, **options), model.generate(**prompt, **options))


def test_shrunk_then_accelerated(tmp_path):
    model = shrunk("bert")
    stack = find_stack(model)
    for block in stack.layers:
        up = block.get_submodule(stack.family.up)
        weight_matrix(up)[:, ::2] = 0
        block.intermediate.dense = SparseLinear.from_linear(up)
    save(model, tmp_path / "m.safetensors")
    fresh = load_(make("bert", seed=1, dtype=torch.float32), tmp_path / "m.safetensors")
    assert isinstance(fresh.encoder.layer[0].intermediate.dense, SparseLinear)
    batch = batches(seed=4)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))
    with pytest.raises(
        TypeError, match="expected a Linear or Conv1D with a dense 2-D weight, got SparseLinear"
    ):
        prunus.shrink_(fresh, Neurons(0.5))


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path):
    save(shrunk("bert"), tmp_path / "m.safetensors")
    for other, error in ((make("bert-mlm"), FormatError), (make("bert", seed=1), ValueError)):
        if error is ValueError:
            other.pooler = None  # the stack fits, the rest does not
        before = [(n, id(p)) for n, p in other.named_parameters()]
        config = copy.deepcopy(other.config.to_dict())
        with pytest.raises(error, match="expected"):
            load_(other, tmp_path / "m.safetensors")
        assert [(n, id(p)) for n, p in other.named_parameters()] == before
        assert other.config.to_dict() == config


def test_the_meta_device_will_do(tmp_path):
    model = shrunk("llama")
    save(model, tmp_path / "m.safetensors")
    fresh = make("llama", dtype=torch.float32)
    for module in fresh.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to("meta")))
    load_(fresh, tmp_path / "m.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), model.parameters(), strict=True))
