"""Encoders of words and of pictures."""

from __future__ import annotations

from prunus.families.family import ATTENTION_NUMBERS, HF_CONFIG, Family

__all__ = ["ENCODERS"]

BERT = Family(
    name="bert",
    blocks="layer",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    act="intermediate.intermediate_act_fn",
    attention="attention.self",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    out_bias="output.LayerNorm",
)

DISTILBERT = Family(
    name="distilbert",
    blocks="layer",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    o="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
    act="ffn.activation",
    attention="attention",
    norms=("sa_layer_norm", "output_layer_norm"),
    out_bias="output_layer_norm",
    attention_numbers={**ATTENTION_NUMBERS, "dim": "width"},
    config={
        **HF_CONFIG,
        "layers": ("n_layers",),
        "width": ("hidden_dim",),
        "heads": ("n_heads",),
        "hidden": ("dim",),
    },
)

MPNET = Family(
    name="mpnet",
    blocks="layer",
    q="attention.attn.q",
    k="attention.attn.k",
    v="attention.attn.v",
    o="attention.attn.o",
    up="intermediate.dense",
    down="output.dense",
    act="intermediate.intermediate_act_fn",
    attention="attention.attn",
    norms=("attention.LayerNorm", "output.LayerNorm"),
    out_bias="output.LayerNorm",
    fixed_heads="the encoder adds one position bias per head to the scores of all blocks",
)

ALBERT = Family(
    name="albert",
    blocks="albert_layers",
    q="attention.query",
    k="attention.key",
    v="attention.value",
    o="attention.dense",
    up="ffn",
    down="ffn_output",
    act="activation",
    attention="attention",
    norms=("attention.LayerNorm", "full_layer_layer_norm"),
    out_bias="full_layer_layer_norm",
    # The layers of the config are runs through the blocks that are there.
    config={**HF_CONFIG, "layers": ("inner_group_num",)},
)

DEBERTA_V2 = Family(
    name="deberta-v2",
    blocks="layer",
    q="attention.self.query_proj",
    k="attention.self.key_proj",
    v="attention.self.value_proj",
    o="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    act="intermediate.intermediate_act_fn",
    attention="attention.self",
    positions=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    out_bias="output.LayerNorm",
    # A convolution joins in behind the first block.
    index_dependent=("conv_kernel_size",),
)

MODERNBERT = Family(
    name="modernbert",
    blocks="layers",
    qkv="attn.Wqkv",
    o="attn.Wo",
    gate_up="mlp.Wi",
    down="mlp.Wo",
    act="mlp.act",
    inner_dropout=True,
    attention="attn",
    norms=("mlp_norm",),
    out_bias="mlp.Wo",
    first_stays="it is the only one without a norm before its attention",
    # Before transformers 5, where no list says which blocks look at a window.
    index_dependent=("global_attn_every_n_layers",),
)

# As of transformers 5: before, its blocks were called `layer` and looked like BERT's.
VIT = Family(
    name="vit",
    blocks="layers",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    o="attention.o_proj",
    up="mlp.fc1",
    down="mlp.fc2",
    act="mlp.activation_fn",
    attention="attention",
    norms=("layernorm_before", "layernorm_after"),
    out_bias="mlp.fc2",
    config={**HF_CONFIG, "head_size": ("head_dim",)},
)

# As SigLIP; both towers.
CLIP = Family(
    name="clip",
    blocks="layers",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    up="mlp.fc1",
    down="mlp.fc2",
    act="mlp.activation_fn",
    attention="self_attn",
    norms=("layer_norm1", "layer_norm2"),
    out_bias="mlp.fc2",
    attention_numbers={**ATTENTION_NUMBERS, "embed_dim": "width"},
)

#: In the order of `FAMILIES`: the last that matches counts.
ENCODERS: tuple[Family, ...] = (BERT, DISTILBERT, MPNET, ALBERT, DEBERTA_V2, MODERNBERT, VIT, CLIP)
