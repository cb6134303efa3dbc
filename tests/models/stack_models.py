"""Random models with several stacks of blocks, and batches for them: an encoder and a decoder, two towers."""

from __future__ import annotations

from typing import Any

import torch
from shrink_models import HEADS, HIDDEN, LAYERS, VOCAB, WIDTH, random_
from small_models import ENDS
from torch import Tensor, nn

LENGTH, FRAMES, MELS = 10, 16, 8
PAIR = {
    **{f"{side}_layers": LAYERS for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": WIDTH for side in ("encoder", "decoder")},
    **{"vocab_size": VOCAB, "d_model": HIDDEN, "max_position_embeddings": 64, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None},
}
WHISPER = {
    **PAIR,
    **{"num_mel_bins": MELS, "max_source_positions": FRAMES, "max_target_positions": 64},
    **{"suppress_tokens": None, "begin_suppress_tokens": None},
}
T5 = {
    **{"vocab_size": VOCAB, "d_model": HIDDEN, "d_kv": 8, "d_ff": WIDTH, "num_layers": LAYERS},
    **{"num_decoder_layers": LAYERS - 1, "num_heads": HEADS, "decoder_start_token_id": 0},
    **{"pad_token_id": 0, "eos_token_id": 2},
}
TOWER = {
    **{"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
    **{"intermediate_size": WIDTH},
}
CLIP = {
    "text_config": {**TOWER, "vocab_size": VOCAB, "max_position_embeddings": 64, **ENDS},
    # Nine patches and one token more: as many as a text has.
    "vision_config": {**TOWER, "image_size": 6, "patch_size": 2, "num_channels": 1},
}
#: name -> config, class, options, families of the stacks in their order
MODELS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "bart": ("BartConfig", "BartForConditionalGeneration", PAIR, ("bart-encoder", "bart-decoder")),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", PAIR, ("bart-encoder", "bart-decoder")),
    "marian": ("MarianConfig", "MarianMTModel", PAIR, ("bart-encoder", "bart-decoder")),
    "whisper": (
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        WHISPER,
        ("bart-encoder", "bart-decoder"),
    ),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5, ("t5-encoder", "t5-decoder")),
    "t5-gated": (
        "T5Config",
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu"},
        ("t5-gated-encoder", "t5-gated-decoder"),
    ),
    "clip": ("CLIPConfig", "CLIPModel", CLIP, ("clip", "clip")),
    "albert-groups": (
        "AlbertConfig",
        "AlbertModel",
        {
            **TOWER,
            "vocab_size": VOCAB,
            "embedding_size": HIDDEN,
            "inner_group_num": 2,
            "num_hidden_groups": 2,
        },
        ("albert", "albert"),
    ),
}
GENERATE = ("bart", "mbart", "marian", "whisper", "t5", "t5-gated")
CASES = [(name, kind) for name in MODELS for kind in ("neurons", "heads")]


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A model in evaluation mode with random biases and norms."""
    import transformers

    torch.manual_seed(seed)
    config, kind, sizes, _ = MODELS[name]
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**{**sizes, **options}))
    return random_(model.eval().to(dtype))


def batches(
    name: str, count: int = 2, rows: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[dict[str, Tensor]]:
    """Inputs of both stacks, of one length: who takes the padding of one for that of the other is found."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(name, rows, generator, dtype) for _ in range(count)]


def _batch(name: str, rows: int, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    def texts(shorter: int) -> tuple[Tensor, Tensor]:
        ids = torch.randint(3, VOCAB, (rows, LENGTH), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(rows):
            mask[row, LENGTH - shorter * row :] = 0
        return ids * mask, mask

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64).to(dtype)

    ids, mask = texts(2)
    batch = {"input_ids": ids, "attention_mask": mask}
    if name == "clip":
        return {**batch, "pixel_values": noise(1, 6, 6)}
    if name == "albert-groups":
        return batch
    if name == "whisper":
        batch = {"input_features": noise(MELS, 2 * FRAMES)}
    ids, mask = texts(3)
    return {**batch, "decoder_input_ids": ids, "decoder_attention_mask": mask}


def real_of(name: str, stack: str, batch: dict[str, Tensor]) -> Tensor | None:
    """The tokens of that stack that are no padding; None where all are."""
    if "decoder" in stack:
        return batch["decoder_attention_mask"].bool()
    return batch["attention_mask"].bool() if "attention_mask" in batch and "vision" not in stack else None


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What the model says of the tokens that are no padding."""
    with torch.no_grad():
        result = model(**batch)
    if "pixel_values" in batch:
        return torch.cat([result.text_embeds, result.image_embeds])
    mask = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    values: Tensor = result[0][mask.bool()]  # type: ignore[union-attr]
    return values
