"""The process in which one library works: ``python -m noria.bench.worker MODULE OPTIONS``.

It reads one JSON object per line and answers with one:
``{"do": "make", "work": [cell, mode, shape]}``, then for that work ``time``, ``memory`` or
``compile``, and at any time ``peak``. An answer is ``{"value": ...}`` or ``{"error": "..."}``.
"""

import ctypes
import gc
import importlib
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noria.bench.grid import Work
from noria.bench.peers import Task, Unsupported


class Bench:
    """The requests, as methods; each takes the rest of its request."""

    def __init__(self, module: str, options: dict[str, Any]):
        self.module, self.options = module, options
        self.work: Work | None = None
        self.task: Task | None = None

    def make(self, work: list[Any]) -> float:
        """Prepare this work; return the seconds of the first call, with compilation."""
        self.work, self.task = Work.read(*work), None
        gc.collect()
        self.task = importlib.import_module(self.module).make(self.work, **self.options)
        if self.task.weights != self.work.weights:
            raise ValueError(
                f"its matrices hold {self.task.weights} numbers; expected {self.work.weights}"
            )
        first = _seconds(self.task.call)
        self.task.call()
        return first

    def time(self, seconds: float) -> float:
        """The median time of the calls in so many seconds, at least one, after a warm-up call."""
        call = self._call()
        call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(_seconds(call))
        return statistics.median(times)

    def memory(self, seconds: float) -> float:
        """Bytes by which resident memory grows in a call, at its highest."""
        call = self._call()
        call()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory kept for reuse would hide the growth
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before

    def compile(self, seconds: float) -> float:
        """Seconds of the first call after all compiled programs are dropped."""
        if self.work is None:
            raise ValueError("nothing was made")
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        return self.make(list(self.work))

    def peak(self, sizes: list[int]) -> float:
        """The highest speed of a square float32 product in NumPy or this library, in flop/s."""
        import numpy as np

        library = getattr(importlib.import_module(self.module), "matmul", None)
        best = 0.0
        for size in sizes:
            a = np.ones((size, size), np.float32)
            for call in [lambda a=a: a @ a, *([library(size)] if library else [])]:
                call()
                best = max(best, 2 * size**3 / min(_seconds(call) for _ in range(7)))
        return best

    def _call(self) -> Callable[[], Any]:
        if self.task is None:
            raise ValueError("nothing was made")
        return self.task.call


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _status(field: str) -> int:
    """A size in ``/proc/self/status``, in bytes."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of a library is not an answer
    bench = Bench(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(bench, request.pop("do"))(**request)}
        except Unsupported as error:
            answer = {"error": str(error)}
        except Exception as error:  # it must reach the table
            answer = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
