"""Cases that are not linear layers: contenders with one call each, a common answer, the same timing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.load import LoadMeter
from bench.memory import peak_bytes
from bench.timing import Budget, interleave


@dataclass(frozen=True)
class Contestant:
    peer: str
    call: Callable[[], Any]
    right: Callable[[Any], bool]  # is this answer of `call` correct
    missing: str | None = None


def run_contest(
    case: dict[str, Any], nbytes: int, field: Sequence[Contestant], budget: Budget, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One record per contestant. nbytes: of the dense tensor, for GB/s."""
    for one in field:
        if one.missing:
            say(f"{one.peer}: skipped, {one.missing}")
    present = [one for one in field if not one.missing]
    verdicts = []
    for one in present:
        verdicts.append(bool(one.right(one.call())))
        if not verdicts[-1]:
            say(f"{one.peer}: WRONG answer in {case}")
    meter = LoadMeter()
    samples = interleave([[one.call] for one in present], budget)
    foreign = meter.foreign()
    for one, ok, sample in zip(present, verdicts, samples, strict=True):
        yield {
            **case,
            "peer": one.peer,
            "ok": ok,
            "foreign": foreign,
            **sample.record(),
            "gbs": nbytes / sample.median / 1e9,
            "peak_bytes": peak_bytes(one.call),
        }
