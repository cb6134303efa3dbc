"""parallel_for runs on torch's own thread pool once torch is there: thread counts, fork, callers."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import prunus
from prunus import _core
from prunus.ops.torch_ops import buffer_tensor

Floats = NDArray[np.float32]
SECONDS = 60  # far above what a call takes: a child that hangs is killed, the test fails


def layer() -> tuple[prunus.PackedWeight, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(512, 640, generator=generator)
    return prunus.pack(w, mask=w.abs() > 1.0), torch.randn(130, 640, generator=generator)


def run(code: str) -> dict[str, object]:
    """Runs code in a fresh interpreter; it prints one JSON object."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def in_child(work: object) -> int:
    """Exit code of work() in a forked child; a child that hangs is killed by its own alarm."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_torch_rules_the_thread_count(threads: int) -> None:
    assert _core.parallel_backend() == "torch"
    torch.set_num_threads(threads)
    assert _core.num_threads() == threads


def test_same_bits_for_any_thread_count() -> None:
    p, x = layer()
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        results.append(prunus.linear(x, p, activation="gelu"))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


COUNT_THREADS = """
import json, os
import torch, prunus
torch.set_num_threads({threads})
import numpy as np
w, x = np.ones((512, 640), np.float32), torch.from_numpy(np.ones((130, 640), np.float32))
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    prunus.linear(x, prunus.pack(w))
print(json.dumps({{"started": len(os.listdir("/proc/self/task")) - before}}))
"""


@pytest.mark.parametrize("count", [1, 3])
def test_threads_that_the_system_sees(count: int) -> None:
    """No torch function that would start the pool itself (torch.ones does) runs before."""
    assert run(COUNT_THREADS.format(threads=count))["started"] == count - 1


def test_concurrent_callers() -> None:
    p, x = layer()
    expected = prunus.linear(x, p)
    start = threading.Barrier(4)

    def call(_: int) -> bool:
        start.wait(SECONDS)
        return all(torch.equal(prunus.linear(x, p), expected) for _ in range(20))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(4)))


# In a forked child torch's own functions wait forever for the threads of the parent's pool, so the children
# below compare with numpy.


def same(p: prunus.PackedWeight, x: torch.Tensor, expected: Floats) -> bool:
    y, from_numpy = prunus.linear(x, p).numpy(), prunus.linear(x.numpy(), p)
    return np.array_equal(y, expected) and np.array_equal(from_numpy, expected)


def test_forked_child_runs_serially() -> None:
    p, x = layer()
    expected = prunus.linear(x, p).numpy()  # the parent's pool exists now, the child has none of its threads

    def child() -> None:
        assert _core.num_threads() == 1
        assert same(p, x, expected)

    assert in_child(child) == 0
    assert same(p, x, expected), "the parent goes on"
    assert _core.num_threads() == torch.get_num_threads()


def test_grandchild_of_fork() -> None:
    p, x = layer()
    expected = prunus.linear(x, p).numpy()

    def grandchild() -> None:
        assert same(p, x, expected)

    def child() -> None:
        grandchild()
        assert in_child(grandchild) == 0

    assert in_child(child) == 0


def row_sums(x: Floats) -> Floats:
    p = prunus.pack(np.eye(512, 640, dtype=np.float32))
    return prunus.linear(torch.from_numpy(x), p).numpy().sum(axis=1)


def test_multiprocessing_fork() -> None:
    x = layer()[1].numpy()
    expected = row_sums(x)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map_async(row_sums, [x] * 4).get(SECONDS)
    assert all(np.array_equal(sums, expected) for sums in results)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_called_on_the_inter_op_pool() -> None:
    p, x = layer()
    packed = buffer_tensor(p)
    futures = [torch.jit.fork(torch.ops.prunus.linear, x, packed, None, 512, 0) for _ in range(4)]
    expected = prunus.linear(x, p)
    assert all(torch.equal(torch.jit.wait(future), expected) for future in futures)
