"""Attention of transformers models by our operator: chosen by measuring, right, and with a way back."""

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SMALL, build, small, tokens
from torch import Tensor, nn

import prunus
from prunus import _core
from prunus.accelerate import attention as racing
from prunus.nn.attention import (
    leave_attention,
    observing,
    other_attention,
    take_attention,
    uses_attention,
)
from prunus.ops import attention as op

FAMILIES = ("bert", "llama", "mistral", "qwen2", "gpt2", "modernbert", "roberta")
OURS = pytest.mark.skipif(not _core.has_fast_attention(), reason="no isa with a kernel of its own")


def hidden(model: nn.Module, ids: Tensor, **more: Any) -> Tensor:
    with torch.inference_mode():
        answer = model(input_ids=ids, **more)
    first: Tensor = answer.logits if hasattr(answer, "logits") else answer.last_hidden_state
    return first


@pytest.fixture(autouse=True)
def _always_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator on every machine: without tiles it is slow and right."""
    monkeypatch.setattr(_core, "has_fast_attention", lambda: True)


def close(got: Tensor, expected: Tensor) -> bool:
    return bool((got - expected).norm() <= 0.02 * expected.norm())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_answer_as_before(name: str, padded: bool) -> None:
    model, ids = build(name), tokens(1, rows=2, length=9)[0]
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 5:] = 0
    expected = hidden(model, ids, attention_mask=mask)
    assert other_attention(model)
    take_attention(model)
    calls = count_calls(model, ids)
    assert calls == 2  # a block each
    assert close(hidden(model, ids, attention_mask=mask)[mask.bool()], expected[mask.bool()])
    leave_attention(model)
    assert torch.equal(hidden(model, ids, attention_mask=mask), expected)


def count_calls(model: nn.Module, ids: Tensor) -> int:
    calls = []
    original = op.attention_op
    op.attention_op = lambda *given: calls.append(given) or original(*given)
    try:
        hidden(model, ids)
    finally:
        op.attention_op = original
    return len(calls)


def test_generation_with_a_cache() -> None:
    model, ids = build("llama"), tokens(1, rows=2, length=9)[0]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)  # type: ignore[operator]
    take_attention(model)
    assert torch.equal(model.generate(ids, **options), expected)  # type: ignore[operator]


def test_few_queries_go_on_as_before() -> None:
    """One token at a time would pack all keys for each."""
    model = build("llama")
    take_attention(model)
    assert [count_calls(model, tokens(1, length=length)[0]) for length in (1, 7, 8)] == [0, 0, 2]


def test_training_goes_on_as_before() -> None:
    """Dropout and gradients: what the operator does not know is left to torch."""
    model, ids = build("bert", attention_probs_dropout_prob=0.5), tokens(1)[0]
    take_attention(model)
    model.train()
    model(ids).last_hidden_state.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "pooler" not in name)
    with torch.no_grad():
        assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_keep_it(how: str) -> None:
    model, ids = build("bert"), tokens(1)[0]
    take_attention(model)
    expected = hidden(model, ids)
    if how == "deepcopy":
        again = copy.deepcopy(model)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert uses_attention(again)
    assert torch.equal(hidden(again, ids), expected)
    leave_attention(again)
    assert uses_attention(model)  # a config of its own


def test_a_pickle_registers_in_a_new_process(tmp_path: Path) -> None:
    import subprocess

    model, ids = build("bert"), tokens(1)[0]
    take_attention(model)
    torch.save((model, ids), tmp_path / "model.pt")
    text = (
        f"import torch; m, ids = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False); "
        "print(m(ids).last_hidden_state.shape)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert "torch.Size([3, 10" in done.stdout, done.stderr


def test_save_pretrained_says_nothing_of_it(tmp_path: Path) -> None:
    model = build("bert")
    take_attention(model)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert "prunus" not in (tmp_path / "config.json").read_text()
    again = type(model).from_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert not uses_attention(again)


@pytest.mark.parametrize("ours", [True, False])
def test_a_checkpoint_keeps_it(tmp_path: Path, ours: bool) -> None:
    model = build("bert")
    if ours:
        take_attention(model)
    prunus.save(model, tmp_path / "m.safetensors")
    again = prunus.load(build("bert"), tmp_path / "m.safetensors")
    assert bool(uses_attention(again)) == ours


def test_a_compiled_model() -> None:
    model, ids = build("bert"), tokens(1)[0]
    take_attention(model)
    expected = hidden(model, ids)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(hidden(compiled, ids), expected)


def test_observing_changes_nothing() -> None:
    model, ids = build("llama"), tokens(1)[0]
    expected, seen = hidden(model, ids), []
    with observing(model, seen.append):
        assert torch.equal(hidden(model, ids), expected)
    assert len(seen) == 2
    assert not uses_attention(model)


def test_models_of_one_config_are_two() -> None:
    one = build("bert")
    other = type(one)(one.config).eval()
    undo = take_attention(one)
    assert uses_attention(one)
    assert not uses_attention(other)
    undo()
    assert one.config is other.config
    assert not uses_attention(one)


def test_others_are_not_observed() -> None:
    """A model that another thread runs meanwhile."""
    one, other, ids, seen = build("bert"), build("bert"), tokens(1)[0], []
    take_attention(other)
    with observing(one, seen.append):
        hidden(other, ids)
    assert not seen


def faster(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Measured so, whatever the clock says."""
    monkeypatch.setattr(racing, "take_laps", lambda *given: None)
    monkeypatch.setattr(racing.Racer, "best_ms", lambda self, which: 1.0 if which == 0 else 1.0 / factor)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accelerate_takes_it_where_it_may(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    faster(monkeypatch, 2.0)
    model, ids = small("bert").to(dtype), tokens(1)[0]
    report = prunus.accelerate_(model, ids, precision=precision)
    may = precision != "float32" or dtype is torch.bfloat16
    kinds = [row["kind"] for row in report.summary["fused"]]
    assert bool(uses_attention(model)) == may
    assert kinds.count("attention") == may
    if may:
        assert "attention" in str(report)
        prunus.to_dense_(model)
        assert not uses_attention(model)


def test_a_prompt_is_reason_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of examples with a prompt and single tokens only the prompt races."""
    faster(monkeypatch, 2.0)
    model, prompt = small("llama").bfloat16(), tokens(1)[0]
    report = prunus.accelerate_(model, [prompt, prompt[:, :1]], precision="int8", min_speedup=1.5)
    assert [row["kind"] for row in report.summary["fused"]].count("attention") == 1
    model = small("llama").bfloat16()
    prunus.accelerate_(model, prompt[:, :1], precision="int8", min_speedup=1.5)
    assert not uses_attention(model)


def test_accelerate_leaves_what_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    faster(monkeypatch, 1.02)
    model = small("bert").bfloat16()
    assert not prunus.accelerate_(model, tokens(1)[0], precision="int8").summary["fused"]
    assert not uses_attention(model)


def test_an_error_puts_theirs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    faster(monkeypatch, 2.0)
    model = small("bert").bfloat16()

    def broken(*given: object) -> None:
        raise RuntimeError("late")

    monkeypatch.setattr("prunus.accelerate.verb._summary", broken)
    with pytest.raises(RuntimeError, match="late"):
        prunus.accelerate_(model, tokens(1)[0], precision="int8")
    assert not uses_attention(model)


def test_answers_that_change_too_much_put_theirs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    faster(monkeypatch, 2.0)
    model, original = small("bert").bfloat16(), op.attention_op
    monkeypatch.setattr(op, "attention_op", lambda *given: -original(*given))
    report = prunus.accelerate_(
        model, tokens(1)[0], precision="int8", filter_fn=lambda *_: False, max_error=0.1
    )
    assert not report.summary["fused"]
    assert not uses_attention(model)


@OURS
def test_real_times_are_in_the_report() -> None:
    torch.manual_seed(0)
    model = build("bert", positions_of(256)).bfloat16()
    ids = torch.randint(1, SMALL.vocabulary, (4, 256))
    report = prunus.accelerate_(model, ids, precision="int8", min_speedup=0.0)
    row = next(row for row in report.summary["fused"] if row["kind"] == "attention")
    assert row["ms_before"] > 0
    assert row["ms_after"] > 0


def positions_of(count: int) -> Any:
    import dataclasses

    return dataclasses.replace(SMALL, positions=count)


def test_what_transformers_does_not_know() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    assert other_attention(model) == uses_attention(model) == []
