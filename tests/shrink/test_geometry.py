"""A shrunk model's shape as data: a fresh dense model takes it and then the shrunk model's weights."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from shrink_models import CASES, FAMILY_OF, HIDDEN, WIDTH, batches, make, output

from prunus import FormatError
from prunus.families import find_stack
from prunus.shrink import Heads, Layers, Neurons, apply_geometry_, geometry, shrink_


def shrunk(name):
    """Uneven widths, fewer heads, one block dropped, biases added where the mean had no home."""
    model = make(name)
    for kind, what in (("neurons", Neurons(0.4, scope="model")), ("heads", Heads(0.5))):
        if (name, kind) in CASES:
            shrink_(model, what, batches())
    shrink_(model, Layers([1]))
    return model


@pytest.mark.parametrize("name", FAMILY_OF)
def test_a_fresh_model_takes_shape_and_weights(name):
    model, fresh = shrunk(name), make(name, seed=1)
    shape = json.loads(json.dumps(geometry(model)))
    apply_geometry_(fresh, shape)
    fresh.load_state_dict(model.state_dict())
    batch = batches(seed=4)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))
    assert geometry(fresh) == geometry(model)
    assert find_stack(fresh).config.to_dict() == find_stack(model).config.to_dict()


def test_widths_are_uneven_and_blocks_remembered():
    model = shrunk("bert")
    (entry,) = geometry(model)["stacks"]
    assert entry["kept"] == [0, 2]
    assert entry["total"] == 3
    assert len({block["neurons"] for block in entry["blocks"]}) == 2
    shrink_(model, Layers([0]))
    (entry,) = geometry(model)["stacks"]
    assert (entry["kept"], entry["total"]) == ([2], 3)


def test_a_model_built_from_the_shrunk_config_keeps_its_blocks():
    model = make("llama")
    shrink_(model, Layers([0]))
    shrink_(model, Heads(0.5), batches())
    shrink_(model, Neurons(0.5), batches())
    fresh = type(model)(copy.deepcopy(model.config)).double().eval()
    apply_geometry_(fresh, geometry(model))
    fresh.load_state_dict(model.state_dict())
    batch = batches(seed=4)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))


def test_applying_twice_and_undoing():
    model, fresh = shrunk("llama"), make("llama", seed=1)
    before = {name: (id(p), p.shape) for name, p in fresh.named_parameters()}
    config = copy.deepcopy(fresh.config.to_dict())
    undo = apply_geometry_(fresh, geometry(model))
    after = {name: id(p) for name, p in fresh.named_parameters()}
    apply_geometry_(fresh, geometry(model))
    assert {name: id(p) for name, p in fresh.named_parameters()} == after
    undo()
    assert {name: (id(p), p.shape) for name, p in fresh.named_parameters()} == before
    assert fresh.config.to_dict() == config
    assert [m.layer_idx for m in fresh.modules() if hasattr(m, "layer_idx")] == [0, 1, 2]


def damaged(change):
    shape = geometry(make("bert"))
    change(shape["stacks"][0])
    return shape


BAD = {
    "version": ({"version": 2, "stacks": []}, "expected version 1"),
    "stacks": ({"version": 1, "stacks": None}, "expected version 1 with a list of stacks"),
    "none": (None, "expected version 1"),
    "name": (damaged(lambda s: s.update(name="h")), r"stack of blocks at encoder\.layer, got 'h'"),
    "kept": (damaged(lambda s: s.update(kept=[0, 2, 1])), "ascending indices below 3"),
    "kept type": (damaged(lambda s: s.update(kept=["0"])), "total and kept .* as block numbers"),
    "kept range": (damaged(lambda s: s.update(kept=[0, 1, 3])), "ascending indices below 3"),
    "total": (damaged(lambda s: s.update(total=True)), "total and kept .* as block numbers"),
    "count": (damaged(lambda s: s.update(blocks=s["blocks"][:2])), "description of each of 3 blocks"),
    "width": (
        damaged(lambda s: s["blocks"][1].update(neurons=WIDTH + 1)),
        f"at most {WIDTH} inputs of .*1.output",
    ),
    "heads": (damaged(lambda s: s["blocks"][1].update(heads=HIDDEN - 1)), "in groups of 8"),
    "zero": (damaged(lambda s: s["blocks"][1].update(heads=0)), "width of heads"),
    "bias": (damaged(lambda s: s["blocks"][2].update(heads_bias=1)), "heads_bias in every block"),
}


@pytest.mark.parametrize("case", BAD)
def test_data_that_does_not_describe_the_model_is_refused_and_changes_nothing(case):
    shape, message = BAD[case]
    model = make("bert")
    before = [id(p) for p in model.parameters()]
    with pytest.raises(FormatError, match=message):
        apply_geometry_(model, shape)
    assert [id(p) for p in model.parameters()] == before


def test_the_wrong_number_of_blocks_is_refused():
    shape = geometry(shrunk("bert"))
    model = make("bert")
    shrink_(model, Layers([0, 1]))
    with pytest.raises(FormatError, match=r"expected 3 or 2 blocks in encoder\.layer, got 1"):
        apply_geometry_(model, shape)
