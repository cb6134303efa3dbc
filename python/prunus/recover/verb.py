"""`recover_`: the verb."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus._tools.running import check_model, device_of
from prunus.families import FilterFn, weight_count
from prunus.recover.base import Recovery
from prunus.recover.check import check_pair
from prunus.recover.data import as_source
from prunus.recover.distill import Distill
from prunus.recover.report import RecoverReport
from prunus.recover.session import Session, trainable

__all__ = ["recover_"]

_DISTILL = Distill()


def recover_(
    model: nn.Module,
    teacher: nn.Module | str | os.PathLike[str],
    data: Any,
    method: Recovery | Sequence[Recovery] = _DISTILL,
    filter_fn: FilterFn | None = None,
) -> RecoverReport:
    """Bring a pruned model back to its teacher, in place and without labels.

    What is zero stays zero, what was removed stays removed; embeddings stay as they are. The model is never
    left half changed: an error or Ctrl-C leaves the best state so far, and says so.

    Parameters
    ----------
    model : pruned by `prune_` or `shrink_`, before `accelerate_`.
    teacher : the dense model, on the device of `model`, or the directory of one.
    data : batches (an iterable, see `Batches`), `Texts(path, tokenizer)`, the path of a text file when the
        teacher is a directory with a tokenizer, or a tokenised dataset of Hugging Face. Some of it is held
        out: quality is measured on that alone.
    method : `Distill`, `Refit`, `Reconstruct`, or several to run one after another.
    filter_fn : (module, name) -> bool; False leaves the module's own parameters as they are.

    Raises TypeError and ValueError for arguments that do not fit together, `RecoverError` when training
    stopped. Warns (UserWarning) when it was interrupted, and when the model is as dense as its teacher.

    >>> import copy, torch, prunus
    >>> teacher = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    >>> model = copy.deepcopy(teacher)
    >>> _ = prunus.prune_(model, prunus.Unstructured(0.5))
    >>> report = prunus.recover_(model, teacher, [torch.randn(4, 8)] * 9, prunus.Distill(steps=3))
    >>> report.summary["figure"], int((model[0].weight == 0).sum())
    ('cosine', 32)
    """
    methods = _methods(method)
    tokenizer = None
    if isinstance(teacher, (str, os.PathLike)):
        check_model(model)
        teacher, tokenizer = _load(teacher, data)
        device = device_of(model)
        teacher = teacher if device is None else teacher.to(device)
    check_pair(model, teacher)
    session = Session(model, teacher, as_source(data, _predicts_next(model), tokenizer), filter_fn)
    session.check(dense=getattr(methods[0], "gradual", None) is not None)
    first = before = session.present()
    session.add_to_curve("before", 0.0, first)
    rows = []
    for how in methods:
        start = time.perf_counter()
        done = how.run(session)
        after = session.present()
        session.seconds += time.perf_counter() - start
        minutes = (time.perf_counter() - start) / 60
        session.add_to_curve(type(how).__name__, 0.0, after)
        figure = first.goal
        values = {"before": before.figures[figure], "after": after.figures[figure]}
        rows.append({"method": str(how), "minutes": minutes} | values | done)
        before = after
        if done.get("interrupted"):
            break
    return _report(session, rows, first.figures, before.figures, first.goal)


def _methods(method: Any) -> list[Recovery]:
    methods = [method] if isinstance(method, Recovery) else method
    if not isinstance(methods, Sequence) or not all(isinstance(m, Recovery) for m in methods):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: expected Distill(), Refit(), Reconstruct() or a list of such, got {got}")
    if not methods:
        raise ValueError("method: expected at least one method, got an empty list")
    return list(methods)


def _load(path: str | os.PathLike[str], data: Any) -> tuple[nn.Module, Any]:
    """The teacher in a directory, and its tokenizer where `data` is a text file."""
    from prunus.checkpoint import load_pretrained

    teacher: nn.Module = load_pretrained(path)
    if not isinstance(data, (str, os.PathLike)):
        return teacher, None
    from transformers import AutoTokenizer

    folder = Path(path)
    sentence = f"data: expected a tokenizer in {os.fspath(path)!r} to read text, got none"
    # Without any file of one, `transformers` makes a tokenizer of no words.
    if not any(entry.name.startswith(("tokenizer", "vocab", "spiece")) for entry in folder.iterdir()):
        raise ValueError(sentence)
    try:
        return teacher, AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(sentence) from error


def _predicts_next(model: Any) -> bool:
    """Whether the model predicts the next token (and nothing else comes before it)."""
    can = getattr(model, "can_generate", None)
    return bool(can and can()) and not getattr(model.config, "is_encoder_decoder", False)


def _report(
    session: Session, rows: list[dict[str, Any]], first: dict[str, float], last: dict[str, float], goal: str
) -> RecoverReport:
    learners = trainable(session.model, session.filter_fn).values()
    summary: dict[str, Any] = {
        "figure": goal,
        "before": first[goal],
        "after": last[goal],
        "minutes": sum(row["minutes"] for row in rows),
        "tokens": sum(row.get("tokens", 0) for row in rows),
        "reached": sum(p.numel() for p in learners) / weight_count(session.model),
        "threads": torch.get_num_threads(),
        "notes": session.notes,
    }
    summary |= {f"before_{name}": value for name, value in first.items()}
    summary |= {f"after_{name}": value for name, value in last.items()}
    for note in session.notes:
        if note.startswith("model:"):
            warnings.warn(f"recover_: {note}", UserWarning, stacklevel=3)
    return RecoverReport(rows, summary, session.curve)
