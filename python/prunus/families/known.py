"""The architectures prunus knows: entries of data, read from the sources of transformers 4.45 to 5.23."""

from __future__ import annotations

from prunus.families.family import ATTENTION_NUMBERS, HF_CONFIG, Family

__all__ = ["FAMILIES"]

_BERT = Family(
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

_DISTILBERT = Family(
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

_GPT2 = Family(
    name="gpt2",
    blocks="h",
    qkv="attn.c_attn",
    o="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    act="mlp.act",
    attention="attn",
    norms=("ln_1", "ln_2"),
    out_bias="mlp.c_proj",
    index_dependent=("scale_attn_by_inverse_layer_idx",),
    config={
        **HF_CONFIG,
        "layers": ("n_layer",),
        "width": ("n_inner",),
        "heads": ("n_head",),
        "hidden": ("n_embd",),
    },
)

_OPT = Family(
    name="opt",
    blocks="layers",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    up="fc1",
    down="fc2",
    act="activation_fn",
    attention="self_attn",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    attention_numbers={**ATTENTION_NUMBERS, "embed_dim": "width"},
    config={**HF_CONFIG, "width": ("ffn_dim",)},
)

_LLAMA = Family(
    name="llama",
    blocks="layers",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    act="mlp.act_fn",
    attention="self_attn",
    norms=("input_layernorm", "post_attention_layernorm"),
    out_bias="mlp.down_proj",
    config={**HF_CONFIG, "head_size": ("head_dim",)},
)

_PHI3 = Family(
    name="phi3",
    blocks="layers",
    qkv="self_attn.qkv_proj",
    o="self_attn.o_proj",
    gate_up="mlp.gate_up_proj",
    down="mlp.down_proj",
    act="mlp.activation_fn",
    attention="self_attn",
    norms=("input_layernorm", "post_attention_layernorm"),
    out_bias="mlp.down_proj",
    config={**HF_CONFIG, "head_size": ("head_dim",)},
    even_heads=True,
)

# Parallel residual or not: nothing here depends on it.
_GPT_NEOX = Family(
    name="gpt_neox",
    blocks="layers",
    qkv="attention.query_key_value",
    qkv_by_head=True,
    o="attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    act="mlp.act",
    attention="attention",
    norms=("input_layernorm", "post_attention_layernorm"),
    out_bias="mlp.dense_4h_to_h",
    head_size=("head_size",),
)

_PHI = Family(
    name="phi",
    blocks="layers",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.dense",
    up="mlp.fc1",
    down="mlp.fc2",
    act="mlp.activation_fn",
    attention="self_attn",
    norms=("input_layernorm",),
    out_bias="mlp.fc2",
    config={**HF_CONFIG, "head_size": ("head_dim",)},
)

_MPNET = Family(
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

# As of transformers 5: before, its blocks were called `layer` and looked like BERT's.
_VIT = Family(
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

#: Known families, searched from the last to the first: a registered one wins over a built-in one.
FAMILIES: list[Family] = [_BERT, _DISTILBERT, _MPNET, _VIT, _GPT2, _GPT_NEOX, _OPT, _PHI, _PHI3, _LLAMA]
