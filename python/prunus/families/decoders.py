"""Decoders: language models."""

from __future__ import annotations

from dataclasses import replace

from prunus.families.family import ATTENTION_NUMBERS, HF_CONFIG, Family

__all__ = ["DECODERS", "OPT"]

ALIBI = "the slope of each (ALiBi) follows from its place among all"

GPT2 = Family(
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

GPTJ = Family(
    name="gptj",
    blocks="h",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    o="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    act="mlp.act",
    attention="attn",
    norms=("ln_1",),
    out_bias="mlp.fc_out",
    attention_numbers={**ATTENTION_NUMBERS, "embed_dim": "width"},
    config=GPT2.config,
)

# Parallel residual or not: nothing here depends on it.
GPT_NEOX = Family(
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

BLOOM = Family(
    name="bloom",
    blocks="h",
    qkv="self_attention.query_key_value",
    qkv_by_head=True,
    o="self_attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    act="mlp.gelu_impl",
    attention="self_attention",
    norms=("input_layernorm", "post_attention_layernorm"),
    out_bias="mlp.dense_4h_to_h",
    config={**HF_CONFIG, "layers": ("n_layer",), "heads": ("n_head",)},
    fixed_heads=ALIBI,
)

# All three orders of q, k and v: head by head, one head of keys and values, several.
FALCON = Family(
    name="falcon",
    blocks="h",
    qkv="self_attention.query_key_value",
    qkv_by_head=True,
    o="self_attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    act="mlp.act",
    attention="self_attention",
    out_bias="mlp.dense_4h_to_h",
    config={**HF_CONFIG, "width": ("ffn_hidden_size",), "kv_heads": ("num_kv_heads",)},
    fixed_heads=ALIBI,
    fixed_heads_when=("alibi",),
)

OPT = Family(
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

PHI = Family(
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

PHI3 = Family(
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

LLAMA = Family(
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

# As Qwen3-MoE where every block has experts.
MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    gate="",
    up="",
    down="",
    experts="mlp.experts",
    act="mlp.experts.act_fn",
    out_bias="",
    config={**LLAMA.config, "width": ("moe_intermediate_size", "intermediate_size")},
)

#: In the order of `FAMILIES`: the last that matches counts.
DECODERS: tuple[Family, ...] = (GPT2, GPTJ, GPT_NEOX, BLOOM, FALCON, OPT, PHI, PHI3, MIXTRAL, LLAMA)
