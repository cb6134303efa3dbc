"""The harness times every contender equally often and walks over all copies."""

import pytest

from bench.linear import copies_needed
from bench.timing import Budget, Samples, Turn, interleave

SHORT = Budget(rounds=4, turn=0.0, warm=0.0, limit=10.0)


def test_every_contender_gets_every_round() -> None:
    counts = [0, 0]

    def call(i: int) -> None:
        counts[i] += 1

    samples = interleave([[lambda: call(0)], [lambda: call(1)]], SHORT)
    assert [len(s.seconds) for s in samples] == [4, 4]
    assert counts[0] == counts[1]


def test_a_turn_walks_over_all_copies() -> None:
    seen: list[int] = []
    copies = [lambda i=i: seen.append(i) for i in range(3)]
    (samples,) = interleave([copies], SHORT)
    assert samples.calls == 3
    assert seen == [i % 3 for i in range(len(seen))]


def test_a_turn_that_keeps_the_time_itself_is_believed() -> None:
    asked: list[list[int]] = []

    def run(calls: list[int]) -> float:
        asked.append(calls)
        return 0.25 * len(calls)

    budget = Budget(rounds=2, turn=1.0, warm=0.5, slow=1.0)
    (one,) = interleave([[Turn(7, run)]], budget)
    assert [len(calls) for calls in asked] == [
        1,
        1,
        1,
        1,
        4,
        1,
        1,
        4,
    ]  # calibrated; warmed up and timed twice
    assert one.seconds == [0.25, 0.25]
    asked.clear()
    (copies,) = interleave([[Turn(0, run), Turn(1, run)]], budget)
    walked = [which for calls in asked for which in calls]
    assert walked == [0, 1] * (len(walked) // 2)
    assert copies.seconds == [0.25, 0.25]


def test_a_slow_contender_stops_after_three_samples() -> None:
    slow, fast = interleave(
        [[lambda: None], [lambda: None]], Budget(rounds=9, turn=0.0, warm=0.0, limit=-1.0)
    )
    assert len(slow.seconds) == len(fast.seconds) == 3


def test_calls_of_seconds_are_made_twice() -> None:
    calls = []
    slow = Budget(rounds=9, turn=0.0, warm=1.0, limit=-1.0, slow=-1.0)
    (samples,) = interleave([[lambda: calls.append(1)]], slow)
    assert len(samples.seconds) == len(calls) == 2


def test_samples_record_is_in_microseconds() -> None:
    record = Samples([1e-6, 2e-6, 3e-6, 4e-6, 5e-6], calls=7).record()
    assert record["median_us"] == pytest.approx(3.0)
    assert record["min_us"] == pytest.approx(1.0)
    assert (record["q1_us"], record["q3_us"]) == (pytest.approx(2.0), pytest.approx(4.0))
    assert (record["samples"], record["calls"]) == (5, 7)


def test_copies_exceed_the_last_cache_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.linear.cache_bytes", lambda level: 32 << 20)
    assert copies_needed(64 << 20, rotate=True) == 2
    assert copies_needed(100 << 20, rotate=True) == 2
    assert copies_needed(7 << 20, rotate=True) == 19
    assert copies_needed(64 << 20, rotate=False) == 1
