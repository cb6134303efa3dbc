"""The suites stay inside the memory that is free, and their records say so."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import linear, memory, run
from bench.cases import Layer, LinearSuite
from bench.environment import UNSET
from bench.linear import copies_of, run_group
from bench.memory import Room, free_bytes
from bench.peers import PEERS, Prepared
from bench.records import key, measured, read
from bench.timing import Budget

SHORT = Budget(rounds=2, turn=0.001, warm=0.0)
GIB = 1 << 30


def group(folder: Path, limit: int | str, used: int, old: bool, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = memory.FILES["memory" if old else ""]
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{'total_' if old else ''}inactive_file {cached}\n")


@pytest.mark.parametrize("old", [False, True], ids=["version 2", "version 1"])
def test_a_control_group_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    tree = tmp_path / ("memory" if old else "")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "GROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("3:cpu:/x\n4:memory:/a/b\n" if old else "0::/a/b\n")
    unbounded = free_bytes()
    group(tree / "a/b", 300 << 20, 100 << 20, old, cached=20 << 20)
    assert free_bytes() == 220 << 20
    group(tree / "a", 250 << 20, 200 << 20, old)  # that of the group above is nearer
    assert free_bytes() == 50 << 20
    group(tree / "a", 250 << 20, 300 << 20, old)
    assert free_bytes() == 0
    for folder in ("a", "a/b"):
        group(tree / folder, str(1 << 62) if old else "max", 0, old)
    assert free_bytes() > unbounded // 2


def test_what_a_process_may_take_is_a_limit() -> None:
    code = (
        "import resource; from bench.memory import free_bytes, status_bytes\n"
        "most = status_bytes('VmSize') + (64 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "assert 32 << 20 < free_bytes() <= 64 << 20, free_bytes()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_room_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [8 * GIB]
    monkeypatch.setattr(memory, "free_bytes", lambda: free[0])
    room = Room(4)
    assert room.left() == 4 * GIB
    assert room.next() == GIB
    free[0] -= 3 * GIB  # one takes three times its share: the others have less
    assert room.next() == GIB // 3
    free[0] = 0
    assert room.next() == 0


def test_so_many_copies_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Three:
        def prepare(self, problem: Any) -> Prepared:
            return Prepared(lambda: None, 3)

    def count(wanted: int, room: int) -> int:
        return len(copies_of(Three(), None, Prepared(lambda: None, 3), wanted, room))  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "free_bytes", lambda: GIB)
    assert [count(4, room) for room in (0, 5, 6, 11, 12, 99)] == [1, 1, 2, 3, 4, 4]
    taken = iter(range(GIB, 0, -5))  # a copy takes five bytes, whatever it says
    monkeypatch.setattr(linear, "free_bytes", lambda: next(taken))
    assert count(99, 20) == 4


def decode(monkeypatch: pytest.MonkeyPatch, free: int) -> tuple[list[dict[str, Any]], list[str]]:
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    monkeypatch.setattr(linear, "free_bytes", lambda: free)
    monkeypatch.setattr(linear, "cache_bytes", lambda level: 1 << 20)
    layer, said = Layer("test", "layer", 128, 256), list[str]()
    suite = LinearSuite("", (layer,), (1,), (1,), (0.5,), rotate=True)
    peers = [peer for peer in PEERS if peer.name in ("torch", "prunus")]
    return list(run_group(suite, layer, 1, 1, peers, SHORT, said.append)), said


def test_records_say_what_there_was_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    records, said = decode(monkeypatch, GIB)
    assert [r["copies"] for r in records] == [r["copies_wanted"] for r in records]
    assert records[0]["copies"] == 32
    assert not said
    records, said = decode(monkeypatch, 4 << 20)
    assert [r["record"] for r in records] == ["linear", "linear"]
    assert 1 < records[0]["copies"] <= 8 < records[0]["copies_wanted"] == 32
    assert "memory for fewer copies than wanted of 2 of 2 weights" in said[0]
    records, said = decode(monkeypatch, 1 << 20)
    assert [(r["record"], r["peer"]) for r in records] == [("left out", "torch"), ("left out", "prunus")]
    assert "0 MiB of memory left for it" in records[0]["why"]
    assert list(map(key, measured(records))) == []
    assert len(said) == 2


def test_a_weight_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda: GIB)
    assert run.shortage((4096, 4096)) is None
    assert run.shortage((4096, 4097)) == {
        "record": "left out",
        "n": 4096,
        "k": 4097,
        "why": "512 MiB of memory needed, 1024 free",
    }


UNDER_A_LIMIT = """
import resource, sys
import torch, prunus, scipy.sparse  # they take address space for their threads
from bench import environment, linear, memory
from bench.__main__ import main
linear.cache_bytes = environment.cache_bytes = lambda level: 504 << 20
most = memory.status_bytes("VmSize") + (600 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(main())
"""


def test_decode_on_a_machine_with_a_large_cache_and_little_memory(tmp_path: Path) -> None:
    """It kept copies of four times 504 MiB for every contender, and was killed at 24 GB."""
    out = tmp_path / "run.jsonl"
    command = ["run", "decode", "--shapes", "1024x1024", "--m", "1", "--threads", "1", "--sparsity", "0.8"]
    command += ["--peers", "torch,prunus,scipy-csr", "--rounds", "2", "--out", str(out)]
    # The bench restarts itself where these are set, and the limit would be gone.
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    program = [sys.executable, "-c", UNDER_A_LIMIT, *command]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stderr
    records = read(out)
    assert 0 < records[0]["memory"] <= 600 << 20
    measured_here = [r for r in records if r["record"] == "linear"]
    assert [r["peer"] for r in measured_here] == ["torch", "scipy-csr", "prunus"]
    assert all(1 < r["copies"] < r["copies_wanted"] for r in measured_here)
    assert sum(r["copies"] * r["bytes"] for r in measured_here) <= 300 << 20
    assert "weights from memory as far as it went" in done.stdout
