"""What recovery trains on: batches of any kind, in an order that a seed fixes, and some held out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from torch import Tensor, nn

from prunus.recover.rows import Rows, row_batches, shuffled

__all__ = ["Batches", "Source", "Texts", "as_source", "count_tokens", "first_tensor"]

HELD_OUT = 16  # one of so many batches or texts is held out
MOST_BATCHES, MOST_ROWS = 16, 128
# Blocks of joined text: every token of them is measured, over a whole vocabulary.
MOST_BLOCKS = 32


class Source(Protocol):
    """Where batches come from. held_out: batches no step sees. forward, real: as in `Calibration`."""

    held_out: list[Any]
    forward: Callable[[nn.Module, Any], Any] | None
    real: Callable[[Any], Tensor] | None

    def epoch(self, seed: int, number: int) -> Iterator[Any]:
        """The batches of one pass, the same for the same seed and number; none where the data ran out."""


@dataclass
class Batches:
    """Batches of your own for `recover_`, with what is held out and how to run them.

    train: an iterable of batches (each a tensor, a mapping or a tuple, as in `Calibration`), read again for
    every pass; what can be read only once ends the training when it runs out. held_out: batches to measure
    on; None takes some from `train` that no step sees. forward, real: as in `Calibration`.

    >>> import torch
    >>> len(Batches([torch.zeros(2, 3)] * 4).train)
    4
    """

    train: Any
    held_out: Sequence[Any] | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    real: Callable[[Any], Tensor] | None = None


@dataclass
class Texts:
    """Plain text for `recover_`. source: a path to a UTF-8 file, one text a line, or a list of strings.

    tokenizer: of `transformers`, or callable like one. length: the most tokens of a row. batch: rows of a
    batch. An encoder gets one row a text, of similar lengths together; a model that predicts the next token
    gets blocks of exactly `length` tokens of the joined text.

    >>> Texts(["one", "two"], tokenizer=None).length
    128
    """

    source: str | os.PathLike[str] | Sequence[str]
    tokenizer: Any
    length: int = 128
    batch: int = 16

    def rows(self, joined: bool) -> Rows:
        """Token numbers, one list a row. Raises ValueError: too little text, no such file, not UTF-8."""
        texts = read_lines(self.source) if isinstance(self.source, (str, os.PathLike)) else list(self.source)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("data: expected texts as strings, got something else among them")
        options: dict[str, Any] = {"add_special_tokens": not joined, "verbose": False}
        if not joined:
            options |= {"truncation": True, "max_length": self.length}
        found: Rows = []
        for start in range(0, len(texts), 1024):  # a fast tokenizer works on many at once
            found += self.tokenizer(texts[start : start + 1024], **options)["input_ids"]
        if not joined:
            return [row for row in found if row]
        flat = [token for row in found for token in row]
        length = min(self.length, max(2, len(flat) // 2))  # two rows at least: one is held out
        return [flat[i : i + length] for i in range(0, len(flat) - length + 1, length)]


def as_source(data: Any, joined: bool, tokenizer: Any = None) -> Source:
    """`data` of `recover_` as a source. joined: texts follow each other (the model predicts the next token).
    tokenizer: for a path to a text file. TypeError and ValueError name `data`."""
    if isinstance(data, (str, os.PathLike)):
        if tokenizer is None:
            raise ValueError(
                "data: expected a tokenizer beside a text file, got none: give Texts(path, tokenizer), "
                "or the teacher as a directory that has one"
            )
        data = Texts(data, tokenizer)
    if isinstance(data, Texts):
        pad = getattr(data.tokenizer, "pad_token_id", None)
        return _RowSource(data.rows(joined), data.batch, pad, padded=not joined)
    if isinstance(data, Batches):
        return _BatchSource(data)
    if hasattr(data, "column_names") and hasattr(data, "__getitem__"):
        return _of_dataset(data)
    return _BatchSource(Batches(data))


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a UTF-8 file that are not blank; ValueError naming `data`."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"data: expected UTF-8 text in {os.fspath(path)!r}, got {error.reason}") from None
    except OSError as error:
        raise ValueError(f"data: expected a text file at {os.fspath(path)!r}, got {error.strerror}") from None
    return [line for line in lines if line]


def _of_dataset(data: Any) -> Source:
    """A dataset of Hugging Face, or anything with `column_names` whose items are mappings."""
    if "input_ids" not in data.column_names:
        raise ValueError(
            f"data: expected a dataset with a column input_ids, got {sorted(data.column_names)}; "
            "text goes in as Texts(dataset['text'], tokenizer)"
        )
    rows = [[int(token) for token in data[i]["input_ids"]] for i in range(len(data))]
    return _RowSource([row for row in rows if row], 16, None, padded=True)


class _RowSource:
    """Rows of token numbers, made into batches as they are needed."""

    forward: Callable[[nn.Module, Any], Any] | None = None
    real: Callable[[Any], Tensor] | None = None

    def __init__(self, rows: Rows, batch: int, pad: int | None, padded: bool) -> None:
        if batch < 1:
            raise ValueError(f"batch: expected >= 1, got {batch}")
        if len(rows) < 2:
            raise ValueError(f"data: expected at least 2 texts (some are held out), got {len(rows)}")
        rows = shuffled(rows, 0, 0)
        count = max(1, min(MOST_ROWS if padded else MOST_BLOCKS, len(rows) // HELD_OUT))
        self._rows, self._batch, self._pad, self._padded = rows[count:], batch, pad, padded
        self.held_out = list(row_batches(rows[:count], batch, pad, padded))

    def epoch(self, seed: int, number: int) -> Iterator[Any]:
        rows = shuffled(self._rows, seed, number)
        pool = 32 * self._batch
        for start in range(0, len(rows), pool):
            # Similar lengths together waste little on padding; pools keep the mixture of every stretch.
            made = list(row_batches(rows[start : start + pool], self._batch, self._pad, self._padded))
            yield from shuffled(made, seed, number)


class _BatchSource:
    """Batches as they come; those that can be counted are shuffled."""

    def __init__(self, data: Batches) -> None:
        self.forward, self.real = data.forward, data.real
        train = data.train
        if isinstance(train, (Tensor, Mapping, str, bytes)) or not isinstance(train, Iterable):
            kind = type(train).__name__
            raise TypeError(f"data: expected an iterable of batches, Texts or a text file, got {kind}")
        self._sequence: list[Any] | None = list(train) if isinstance(train, (list, tuple)) else None
        self._again = self._sequence is not None or iter(train) is not train
        self._train, self._skip = train, 0
        self._once: Iterator[Any] | None = None if self._again else iter(train)
        self.held_out = list(data.held_out) if data.held_out is not None else self._take()
        if not self.held_out:
            raise ValueError("data: expected at least one batch held out, got none")

    def _take(self) -> list[Any]:
        """Some batches from the front that no step will see."""
        if self._sequence is not None:
            self._skip = max(1, min(MOST_BATCHES, len(self._sequence) // HELD_OUT))
            taken = self._sequence[: self._skip]
            left = len(self._sequence) - self._skip
        else:
            self._skip = 4
            taken = list(islice(self._once if self._once is not None else iter(self._train), self._skip))
            left = len(taken) - self._skip + 1
        if left < 1:
            got = len(taken)
            raise ValueError(
                f"data: expected more than {self._skip} batches (some are held out), got {got}; "
                "Batches(train, held_out=...) says which"
            )
        return taken

    def epoch(self, seed: int, number: int) -> Iterator[Any]:
        if self._sequence is not None:
            yield from shuffled(self._sequence[self._skip :], seed, number)
        elif self._once is not None:
            yield from self._once
        else:
            yield from islice(iter(self._train), self._skip, None)


def strip_labels(batch: Any) -> tuple[Any, bool]:
    """The batch without labels, which would only make the model compute a loss nobody reads; whether it had
    any."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {key: value for key, value in batch.items() if key != "labels"}, True
    return batch, False


def first_tensor(batch: Any) -> Tensor:
    """What a batch is about: its `input_ids`, or what comes first.

    >>> import torch
    >>> first_tensor((torch.ones(2, 3), torch.ones(2))).shape
    torch.Size([2, 3])
    """
    first = batch
    if isinstance(batch, Mapping):
        first = batch.get("input_ids", next(iter(batch.values())))
    elif isinstance(batch, (tuple, list)):
        first = batch[0]
    found: Tensor = first
    return found


def count_tokens(batch: Any, real: Tensor | None) -> int:
    """Tokens of a batch that are no padding; rows where it has no tokens.

    >>> import torch
    >>> count_tokens({"input_ids": torch.ones(2, 3, dtype=torch.long)}, None)
    6
    >>> count_tokens(torch.ones(2, 3), None)
    2
    """
    if real is not None:
        return int(real.sum())
    first = first_tensor(batch)
    return int(first.numel() if not first.is_floating_point() else first[..., 0].numel())
