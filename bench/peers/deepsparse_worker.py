"""DeepSparse's side of bench/peers/elsewhere.py, run by an interpreter that has it (Python 3.8 to 3.11).

A request is a line of JSON on stdin, its answer a line of JSON on stdout. An error ends the process, and so
does the end of stdin: nobody is left to ask. Nothing of bench is imported here.
"""

from __future__ import annotations  # for Python 3.8

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def requests() -> dict[str, Callable[..., Any]]:
    """What can be asked for, by name."""
    import deepsparse
    import numpy as np

    runs = []

    def load(model: str, x: str, threads: int) -> int:
        inputs = [np.load(x)]
        engine = deepsparse.compile_model(model, batch_size=len(inputs[0]), num_cores=threads)
        # As in its timed_run: the input is not validated at every call.
        runs.append(lambda: engine.run(inputs, val_inp=False))
        return len(runs) - 1

    def call(which: int, y: str) -> None:
        np.save(y, runs[which]()[0])

    def turn(calls: list[int]) -> float:
        todo = [runs[which] for which in calls]
        start = time.perf_counter()
        for run in todo:
            run()
        return time.perf_counter() - start

    return {"load": load, "call": call, "turn": turn}


def serve(asked: TextIO, answers: TextIO) -> None:
    known = requests()
    gc.disable()  # as bench/timing.py does for the peers of its process
    for line in asked:
        name, arguments = json.loads(line)
        print(json.dumps(known[name](**arguments)), file=answers, flush=True)


if __name__ == "__main__":
    # The modules beside this file have names like `sparse`; they must not be found by anybody's import.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != here]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine prints is not an answer
    serve(sys.stdin, answers)
