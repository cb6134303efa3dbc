"""Families: every known architecture is found, its fused rows are known, its weights are seen as (n, k)."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from shrink_models import FAMILY_OF, HEADS, HIDDEN, LAYERS, WIDTH, make
from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from prunus.families import (
    Family,
    blocks,
    find_family,
    find_stack,
    fused_parts,
    register_family,
    stacks,
    weight_matrix,
)
from prunus.families.known import FAMILIES


@pytest.mark.parametrize("name", FAMILY_OF)
def test_family_is_found_and_every_path_resolves(name):
    model = make(name)
    stack = find_stack(model)
    assert stack.family.name == FAMILY_OF[name] == find_family(model).name
    found = blocks(model)
    assert list(found.values()) == list(stack.layers)
    assert all(model.get_submodule(path) is block for path, block in found.items())
    for block in found.values():
        for path in stack.family.norms:
            block.get_submodule(path)
    assert stack.number("layers") == LAYERS
    assert stack.number("width") == (None if name == "bloom" else WIDTH)
    assert stack.number("hidden") == HIDDEN


def test_a_wrapped_model_and_a_bare_encoder_are_found():
    model = make("bert")
    assert find_stack(nn.Sequential(model)).name == "0.encoder.layer"
    assert find_stack(nn.Sequential(model)).config is model.config
    assert find_stack(model.encoder).name == "layer"


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_fused_parts_are_the_rows_that_the_forward_pass_cuts(name):
    model = make(name)
    family = find_family(model)
    path, block = next(iter(blocks(model).items()))
    attention = block.get_submodule(family.attention)
    q, kv = HIDDEN, HIDDEN if name == "gpt2" else HIDDEN // 2
    parts = fused_parts(model, f"{path}.{family.qkv}")
    assert parts == {"q": range(q), "k": range(q, q + kv), "v": range(q + kv, q + 2 * kv)}
    # zeroing the value rows silences the context: only the output bias is left
    fused = block.get_submodule(family.qkv)
    with torch.no_grad():
        weight_matrix(fused)[parts["v"].start : parts["v"].stop] = 0
        if fused.bias is not None:
            fused.bias[parts["v"].start : parts["v"].stop] = 0
    seen = []
    out = block.get_submodule(family.o)
    out.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().max().item()))
    model(input_ids=torch.arange(3, 9).reshape(1, 6))
    assert seen == [0.0]
    assert attention is not None


def test_parts_that_alternate_head_by_head_are_row_numbers():
    model = make("gpt_neox")
    size = HIDDEN // HEADS
    parts = fused_parts(model, "gpt_neox.layers.1.attention.query_key_value")
    assert parts["v"] == tuple(row for row in range(3 * HIDDEN) if row % (3 * size) >= 2 * size)
    assert sorted(parts["q"] + parts["k"] + parts["v"]) == list(range(3 * HIDDEN))
    block = model.gpt_neox.layers[1]
    with torch.no_grad():
        block.attention.query_key_value.weight[list(parts["v"])] = 0
        block.attention.query_key_value.bias[list(parts["v"])] = 0
    seen = []
    block.attention.dense.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().max().item()))
    model(input_ids=torch.arange(3, 9).reshape(1, 6))
    assert seen == [0.0]


def test_parts_in_groups_of_several_queries_are_row_numbers():
    model = make("falcon")
    size, stride = HIDDEN // HEADS, 4 * HIDDEN // HEADS
    parts = fused_parts(model, "transformer.h.0.self_attention.query_key_value")
    assert parts["q"] == tuple(row for row in range(2 * HIDDEN) if row % stride < 2 * size)
    assert parts["v"] == tuple(row for row in range(2 * HIDDEN) if row % stride >= 3 * size)
    assert sorted(parts["q"] + parts["k"] + parts["v"]) == list(range(2 * HIDDEN))


def test_fused_parts_of_gate_up_and_of_plain_layers():
    model = make("phi3")
    assert fused_parts(model, "model.layers.1.mlp.gate_up_proj") == {
        "gate": range(WIDTH),
        "up": range(WIDTH, 2 * WIDTH),
    }
    assert fused_parts(model, "model.layers.1.mlp.down_proj") == {}
    assert fused_parts(model, "lm_head") == {}
    assert fused_parts(model, "model.layers.9.mlp.gate_up_proj") == {}
    assert fused_parts(nn.Linear(2, 2), "") == {}


def test_weight_matrix_is_a_writable_view_of_out_by_in():
    conv, linear = Conv1D(5, 3), nn.Linear(3, 5)
    for module in (conv, linear):
        matrix = weight_matrix(module)
        assert matrix.shape == (5, 3)
        matrix[4, 0] = 7.0
        assert 7.0 in module.weight
    x = torch.randn(2, 3)
    assert torch.allclose(conv(x), x @ weight_matrix(conv).T + conv.bias)


def test_weight_matrix_refuses_what_has_no_dense_weight():
    pruned = prune.l1_unstructured(nn.Linear(3, 5), "weight", amount=2)
    for module in (nn.LayerNorm(3), nn.Embedding(4, 4), pruned):
        with pytest.raises(TypeError, match=r"module: expected a Linear or Conv1D .* got "):
            weight_matrix(module)


def test_unknown_models_are_refused_by_name_and_blocks_fall_back_to_the_largest_list():
    model = nn.Module()
    model.small = nn.ModuleList([nn.Linear(2, 2)])
    model.large = nn.ModuleList([nn.Linear(9, 9), nn.Linear(9, 9)])
    with pytest.raises(ValueError, match=r"known family .*bert.*got Module; .*register_family"):
        find_family(model)
    assert list(blocks(model)) == ["large.0", "large.1"]
    assert blocks(nn.Linear(2, 2)) == {}


def test_two_stacks_are_refused_with_their_names():
    pair = nn.ModuleDict({"a": make("bert"), "b": make("gpt2")})
    assert [stack.family.name for stack in stacks(pair)] == ["bert", "gpt2"]
    with pytest.raises(ValueError, match=r"one stack of blocks, got a\.encoder\.layer, b\.transformer\.h"):
        find_stack(pair)


def test_a_registered_family_wins_and_replaces_its_namesake():
    before = list(FAMILIES)
    try:
        mine = Family(name="mine", blocks="layer", q="a", k="b", v="c", o="d", up="e", down="f")
        register_family(mine)
        register_family(mine)
        assert [family.name for family in FAMILIES].count("mine") == 1
        block = nn.ModuleDict({name: nn.Linear(2, 2) for name in "abcdef"})
        model = nn.ModuleDict({"layer": nn.ModuleList([block])})
        assert find_family(model) is mine
    finally:
        FAMILIES[:] = before


def test_an_incomplete_description_is_refused():
    with pytest.raises(ValueError, match="either qkv or all of q, k and v"):
        Family(name="x", blocks="layer", q="a", o="d", up="e", down="f")
    with pytest.raises(ValueError, match="either gate_up or up"):
        Family(name="x", blocks="layer", qkv="a", o="d", down="f")
    with pytest.raises(ValueError, match="expected qkv where qkv_by_head is set"):
        Family(name="x", blocks="layer", q="a", k="b", v="c", o="d", up="e", down="f", qkv_by_head=True)
    with pytest.raises(ValueError, match="expected down beside up"):
        Family(name="x", blocks="layer", qkv="a", o="d", up="e")
    with pytest.raises(ValueError, match="either experts or up and down"):
        Family(name="x", blocks="layer", qkv="a", o="d", up="e", down="f", experts="g")
    with pytest.raises(ValueError, match="expected q, k, v and o in attention where cross is set"):
        Family(name="x", blocks="layer", qkv="a", o="d", up="e", down="f", attention="self", cross="other")
    with pytest.raises(TypeError, match="family: expected a Family, got str"):
        register_family("bert")


def test_families_do_not_import_transformers():
    code = "import sys, prunus.families; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
