"""Workers side by side, taking turns."""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noria.bench.grid import Work
from noria.bench.peers import PEERS, cores

#: Settings of glibc by name. ``keep`` never returns memory to the system. By default blocks above
#: 32 MB are allocated anew at each call.
ALLOCATORS = {
    "default": {},
    "keep": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
}

#: Added when memory is measured. glibc never returns the last free block of another arena than the
#: first; its reuse would hide the memory of a call.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}

#: Sides of the products whose speed is the machine's peak.
PEAK_SIZES = (512, 1024, 2048)

#: Seconds after which a worker that does not answer is ended.
LIMIT = 600

#: Seconds between two turns, in which the threads of a library stop spinning.
PAUSE = 0.05


class Setting(NamedTuple):
    """The settings of processes: allocator, number of cores, and where Noria's sources are."""

    allocator: str = "default"
    cores: int = 0  # all
    sources: str = ""  # those that Python finds


class Lane(NamedTuple):
    """One process: a library under a setting."""

    peer: str
    setting: Setting = Setting()


@dataclass
class Point:
    """A work and, by lane, its value in SI units, or why there is none."""

    work: Work
    values: dict[Lane, float] = field(default_factory=dict)
    reasons: dict[Lane, str] = field(default_factory=dict)


class Failed(Exception):
    """A worker said why it could not, or died."""


class Worker:
    """The process of a lane, started when it is asked something and again after it died."""

    def __init__(self, lane: Lane, environment: Mapping[str, str]):
        self.lane = lane
        self.environment = {
            "JAX_PLATFORMS": "cpu",
            **ALLOCATORS[lane.setting.allocator],
            **({"PYTHONPATH": lane.setting.sources} if lane.setting.sources else {}),
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> float:
        """Its answer.

        Raises:
            Failed: if it answers with an error, dies, or takes longer than `LIMIT` seconds.
        """
        process = self.process or self._start()
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            words = self._last_words()
            raise Failed(f"took more than {LIMIT} s" if late else words)
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return float(answer["value"])

    def _start(self) -> "subprocess.Popen[str]":
        peer = PEERS[self.lane.peer]
        # It lives as long as the process.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "noria.bench.worker",
            peer.module,
            json.dumps(peer.options),
        ]
        with _on(self.lane.setting.cores):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, **self.environment},
                text=True,
            )
        return self.process

    def _last_words(self) -> str:
        code = self.process.wait() if self.process else None
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        self.close()
        return f"its process ended with code {code}{f': {lines[-1][:200]}' if lines else ''}"

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
        self.process = None


@contextmanager
def _on(number: int) -> Iterator[None]:
    """Processes started inside may run on so many of the cores; ``0`` is all."""
    mine = os.sched_getaffinity(0) if number else set()
    if number:
        os.sched_setaffinity(0, sorted(mine)[:number])
    try:
        yield
    finally:
        if number:
            os.sched_setaffinity(0, mine)


class Run:
    """Workers for lanes, as a context; `points` measures.

    Args:
        lanes: who takes part.
        quantity: ``"time"``, ``"memory"`` or ``"compile"``, the method of
            `noria.bench.worker.Bench` that a turn calls.
        seconds: for how long a turn repeats a call, at least once.
        rounds: turns of each lane at each point. The value is their median.
    """

    def __init__(self, lanes: Sequence[Lane], quantity: str, seconds: float, rounds: int):
        environment = ONE_ARENA if quantity == "memory" else {}
        self.workers = {lane: Worker(lane, environment) for lane in lanes}
        self.quantity, self.seconds, self.rounds = quantity, seconds, rounds

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.workers.values():
            worker.close()

    def peaks(self, sizes: Sequence[int] = PEAK_SIZES) -> dict[Setting, float]:
        """By setting, the highest speed of a matrix product in any library, in flop/s."""
        best: dict[Setting, float] = {}
        for lane, worker in self.workers.items():
            try:
                value = worker.ask(do="peak", sizes=list(sizes))
            except Failed:
                value = math.nan
            if not math.isnan(value):
                best[lane.setting] = max(best.get(lane.setting, 0), value)
        return best

    def points(self, works: Sequence[Work]) -> Iterator[Point]:
        """Each work on each lane: in every round each lane has a turn, in alternating order."""
        for work in works:
            point, found = Point(work), dict[Lane, list[float]]()
            for lane, worker in self.workers.items():
                try:
                    worker.ask(do="make", work=list(work))
                    found[lane] = []
                except Failed as error:
                    point.reasons[lane] = str(error)
            for turn in range(self.rounds):
                for lane in list(found)[:: -1 if turn % 2 else 1]:
                    time.sleep(PAUSE)
                    try:
                        found[lane].append(
                            self.workers[lane].ask(do=self.quantity, seconds=self.seconds)
                        )
                    except Failed as error:
                        point.reasons[lane] = str(error)
                        del found[lane]
            point.values = {lane: statistics.median(values) for lane, values in found.items()}
            yield point


def settings(allocator: str, threads: str) -> list[Setting]:
    """``allocator``: ``default``, ``keep``, ``both``; ``threads``: ``all``, ``one``, ``both``."""
    allocators = list(ALLOCATORS) if allocator == "both" else [allocator]
    counts = {"all": [0], "one": [1], "both": [0, 1]}[threads]
    return [Setting(a, n) for n in (counts if cores() > 1 else [0]) for a in allocators]
