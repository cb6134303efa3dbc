"""Encoders with a decoder that reads what they give."""

from __future__ import annotations

from dataclasses import replace

from prunus.families.decoders import OPT
from prunus.families.family import ATTENTION_NUMBERS, HF_CONFIG, Family

__all__ = ["PAIRS"]

# As Marian, mBART, M2M100, Pegasus and Whisper. The norms stand before or behind what they belong to.
BART_ENCODER = replace(
    OPT,
    name="bart-encoder",
    marks=("activation_dropout",),
    config={
        **HF_CONFIG,
        "layers": ("encoder_layers", "num_hidden_layers"),
        "width": ("encoder_ffn_dim", "ffn_dim"),
        "heads": ("encoder_attention_heads", "num_attention_heads"),
    },
)

BART_DECODER = replace(
    BART_ENCODER,
    name="bart-decoder",
    cross="encoder_attn",
    config={
        **HF_CONFIG,
        "layers": ("decoder_layers",),
        "width": ("decoder_ffn_dim",),
        "heads": ("decoder_attention_heads",),
    },
)

T5_ENCODER = Family(
    name="t5-encoder",
    blocks="block",
    q="layer.0.SelfAttention.q",
    k="layer.0.SelfAttention.k",
    v="layer.0.SelfAttention.v",
    o="layer.0.SelfAttention.o",
    up="layer.1.DenseReluDense.wi",
    down="layer.1.DenseReluDense.wo",
    act="layer.1.DenseReluDense.act",
    inner_dropout=True,
    attention="layer.0.SelfAttention",
    norms=("layer.0.layer_norm", "layer.1.layer_norm"),
    out_bias="layer.1.DenseReluDense.wo",
    head_bias="layer.0.SelfAttention.relative_attention_bias",
    attention_numbers={**ATTENTION_NUMBERS, "inner_dim": "width"},
    config={
        **HF_CONFIG,
        "layers": ("num_layers",),
        "width": ("d_ff",),
        "heads": ("num_heads",),
        "head_size": ("d_kv",),
    },
    head_size=("key_value_proj_dim",),
    # The first block makes the position bias of all.
    even_heads=True,
    first_stays="its position bias serves all blocks",
)

T5_GATED_ENCODER = replace(
    T5_ENCODER,
    name="t5-gated-encoder",
    gate="layer.1.DenseReluDense.wi_0",
    up="layer.1.DenseReluDense.wi_1",
)

T5_DECODER = replace(
    T5_ENCODER,
    name="t5-decoder",
    cross="layer.1.EncDecAttention",
    up="layer.2.DenseReluDense.wi",
    down="layer.2.DenseReluDense.wo",
    act="layer.2.DenseReluDense.act",
    norms=("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
    out_bias="layer.2.DenseReluDense.wo",
    config={**T5_ENCODER.config, "layers": ("num_decoder_layers",), "own_layers": ("num_layers",)},
)

T5_GATED_DECODER = replace(
    T5_DECODER,
    name="t5-gated-decoder",
    gate="layer.2.DenseReluDense.wi_0",
    up="layer.2.DenseReluDense.wi_1",
)

#: In the order of `FAMILIES`: the last that matches counts.
PAIRS: tuple[Family, ...] = (
    BART_ENCODER,
    BART_DECODER,
    T5_ENCODER,
    T5_GATED_ENCODER,
    T5_DECODER,
    T5_GATED_DECODER,
)
