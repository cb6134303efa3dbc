"""Attention by plain products, which bfloat16 training takes instead of torch's."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from prunus.recover.precision import attention, plain_attention

KEYS = 7
LEFT = torch.ones(5, KEYS, dtype=torch.bool).tril(2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": LEFT},
        {"attn_mask": torch.randn(2, 1, 5, KEYS)},
        {"enable_gqa": True},
        {"enable_gqa": True, "attn_mask": LEFT, "scale": 2.0},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_torchs_attention(options: dict[str, Any], dtype: torch.dtype) -> None:
    heads = 2 if "enable_gqa" in options else 4
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, h, t, 8).to(dtype) for h, t in ((4, 5), (heads, KEYS), (heads, KEYS)))
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        options = {**options, "attn_mask": mask.to(dtype)}
    q.requires_grad_(True)
    wanted = F.scaled_dot_product_attention(q, k, v, **options)
    (wanted_grad,) = torch.autograd.grad(wanted.float().square().sum(), q)
    found = attention(q, k, v, **options)
    (found_grad,) = torch.autograd.grad(found.float().square().sum(), q)
    assert found.dtype == dtype
    close = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found, wanted, **close)
    if dtype != torch.bfloat16:  # where torch's own is off by as much
        torch.testing.assert_close(found_grad, wanted_grad, **close)


@pytest.mark.parametrize("floats", [True, False])
def test_a_query_without_a_key_stays_finite(floats: bool) -> None:
    q = torch.randn(1, 1, 2, 4, requires_grad=True)
    mask: torch.Tensor = torch.tensor([[True, True], [False, False]])
    if floats:
        mask = torch.zeros(2, 2).masked_fill(~mask, torch.finfo(torch.float32).min)
    out = attention(q, q, q, attn_mask=mask)
    out.sum().backward()
    assert out.isfinite().all()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_dropout_falls_on_the_weights() -> None:
    q = torch.randn(1, 1, 3, 4)
    assert not attention(q, q, q, dropout_p=1.0).any()


def test_within_the_context_torchs_own_is_not_called() -> None:
    q = torch.randn(1, 1, 3, 4)
    wanted = F.scaled_dot_product_attention(q, q, q)
    with plain_attention(torch.device("cpu"), (1, 3)), torch.profiler.profile() as seen:
        found = F.scaled_dot_product_attention(q, q, q)
    assert not any("scaled_dot_product" in event.key for event in seen.key_averages())
    torch.testing.assert_close(found, wanted)


def test_long_texts_keep_the_attention_that_needs_no_memory() -> None:
    cpu = torch.device("cpu")
    assert not isinstance(plain_attention(cpu, (16, 512)), nullcontext)
    assert isinstance(plain_attention(cpu, (16, 513)), nullcontext)
    assert isinstance(plain_attention(torch.device("cuda"), (1, 8)), nullcontext)
