"""The meter of other processes' work."""

import subprocess
import sys
import time

from bench.load import LoadMeter
from bench.records import busiest

SPIN = "import time\nend = time.time() + {}\nwhile time.time() < end: pass"


def test_own_work_is_not_foreign(monkeypatch) -> None:
    own, busy = iter([10.0, 12.0]), iter([100.0, 102.0])
    monkeypatch.setattr("bench.load.own_seconds", lambda: next(own))
    monkeypatch.setattr("bench.load.busy_seconds", lambda: next(busy))
    assert LoadMeter().foreign() == 0.0


def test_another_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN.format(1.0)]):
        meter = LoadMeter()
        time.sleep(0.5)
        foreign = meter.foreign()
    assert foreign > 0.3


def test_busiest_of_a_file() -> None:
    assert busiest([{"record": "run"}, {"record": "linear", "foreign": 0.2}, {"foreign": 0.7}]) == 0.7
