"""A peer that cannot live in our interpreter: DeepSparse, asked through pipes, timed by its own process."""

import functools
import json
import os
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.load import HELPERS
from bench.peers.base import Peer, Prepared, missing_package
from bench.peers.engines import onnx_model
from bench.problem import Problem
from bench.timing import Turn

VARIABLE = "PRUNUS_BENCH_DEEPSPARSE"
SCRIPT = Path(__file__).resolve().with_name("deepsparse_worker.py")


def environment() -> dict[str, str]:
    return os.environ | {"NM_DISABLE_ANALYTICS": "1"}  # a benchmark calls nobody


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@functools.cache
def look(python: str) -> tuple[str, str]:
    """Version of that interpreter's deepsparse and "", or "" and why there is none. Takes seconds."""
    code = "import deepsparse; print(deepsparse.__version__)"
    try:
        done = subprocess.run([python, "-c", code], env=environment(), capture_output=True, text=True)
    except OSError as error:
        return "", f"{python}: {error.strerror}"
    if done.returncode != 0:
        return "", f"{python}: {last_line(done.stderr) or f'exit status {done.returncode}'}"
    return last_line(done.stdout), ""


def deepsparse_version() -> str:
    """Empty where there is none."""
    return look(os.environ[VARIABLE])[0] if os.environ.get(VARIABLE) else ""


class Worker:
    """The child process, shared by the problems prepared in it; it ends with the last of them, or with us."""

    living: ClassVar[weakref.WeakValueDictionary[str, "Worker"]] = weakref.WeakValueDictionary()

    def __init__(self, python: str) -> None:
        folder = tempfile.TemporaryDirectory(prefix="prunus-bench-")
        self.folder = Path(folder.name)
        self.words = self.folder / "stderr"
        with self.words.open("w") as words:
            self.process = subprocess.Popen(
                [python, str(SCRIPT)], env=environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
            )  # fmt: skip
        HELPERS.add(self.process.pid)
        weakref.finalize(self, end, self.process, folder)

    def ask(self, request: str, **arguments: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps([request, arguments]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self.process.wait()
            words = last_line(self.words.read_text(errors="replace"))
            raise RuntimeError(f"deepsparse: {words} (exit status {status})")
        return json.loads(answer)

    def load(self, problem: Problem) -> int:
        import onnx

        model, x = self.folder / "model.onnx", self.folder / "x.npy"
        onnx.save(onnx_model(problem), model)
        np.save(x, problem.x)
        which: int = self.ask("load", model=str(model), x=str(x), threads=problem.threads)
        model.unlink()
        return which

    def call(self, which: int) -> Any:
        y = self.folder / "y.npy"
        self.ask("call", which=which, y=str(y))
        return np.load(y)


def end(process: "subprocess.Popen[str]", folder: "tempfile.TemporaryDirectory[str]") -> None:
    process.kill()
    process.communicate()
    HELPERS.discard(process.pid)
    folder.cleanup()


class DeepSparse(Peer):
    """deepsparse.compile_model and Engine.run, on the ONNX model that ONNX Runtime gets."""

    name = "deepsparse"
    patterns = ("unstructured",)
    slow = True
    on_request = True  # its licence allows evaluation only

    def missing(self) -> str | None:
        python = os.environ.get(VARIABLE)
        if not python:
            return f"{VARIABLE} not set"
        return missing_package("onnx") or look(python)[1] or None

    def prepare(self, problem: Problem) -> Prepared:
        python = os.environ[VARIABLE]
        worker = Worker.living.get(python)
        if worker is None or worker.process.poll() is not None:
            worker = Worker.living[python] = Worker(python)
        which = worker.load(problem)
        return Prepared(
            functools.partial(worker.call, which),
            # How it stores a weight is not public: the values alone, less than which it cannot read.
            4 * int(np.count_nonzero(problem.w)),
            turn=Turn(which, lambda calls: float(worker.ask("turn", calls=calls))),
        )
