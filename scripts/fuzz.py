"""Compare many random cells on all backends with the definition.

    PYTHONPATH=src python scripts/fuzz.py 0 5000 --processes 2 --minutes 35
    PYTHONPATH=src python scripts/fuzz.py --only 1234 --settings avx2

Cases run in child processes, so that a crash or a hang ends one case and not the run. Results are
appended to a file, and the same command resumes an earlier run. Batches of cases alternate between
the settings: instruction sets, and JAX without 64-bit types.
"""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

TESTS = Path(__file__).resolve().parents[1] / "tests"
#: XLA options for programs that run once.
QUICK = " ".join(
    (
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_optimization_level=1",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    )
)
#: The time limit of a case in seconds, including the start of a child.
LIMIT = 90
#: Cases per child. The memory of a child grows with its compiled programs.
BATCH = 100

#: Environment variables of a child, by the name of the setting.
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    **{isa: {"NORIA_NATIVE_ISA": isa} for isa in ("avx512", "avx2", "sse")},
    "32bit": {"JAX_ENABLE_X64": "0"},
}

console = Console()


@dataclass(frozen=True)
class Work:
    """The seeds for one child and its setting, a key of `SETTINGS`."""

    seeds: tuple[int, ...]
    setting: str


# --- the child ----------------------------------------------------------------------------------


def child() -> None:
    """Read one seed per line from the input; write one line of JSON for each."""
    sys.path.insert(0, str(TESTS))
    import jax

    if jax.__version_info__ < (0, 11):  # an unknown option ends the process
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") == "1")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    from fuzzing.compare import verdict_of
    from schedules import check_all

    check_all()
    for line in sys.stdin:
        seed = int(line)
        began = time.process_time()
        try:
            found = asdict(verdict_of(seed))
        except Exception as error:
            found = {"seed": seed, "unusable": f"no case: {type(error).__name__}: {error}"}
        print(json.dumps(found | {"cpu": time.process_time() - began}), flush=True)


class Child:
    """A process that runs cases."""

    def __init__(self, setting: str):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **SETTINGS[setting]}
        command = [sys.executable, __file__, "--child"]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.errors: list[str] = []
        self.readers = [
            threading.Thread(target=f, daemon=True) for f in (self._read, self._read_errors)
        ]
        for reader in self.readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-20:], line]

    def run(self, seed: int) -> dict[str, Any]:
        """The result of a case. A child that hangs or crashes must be replaced."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seed}\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=LIMIT)
        except queue.Empty:
            self.close()
            return {"seed": seed, "hang": True}
        except OSError:
            line = None
        if line is None:
            code = self.process.wait()
            self.readers[1].join(1)
            return {"seed": seed, "crash": f"exit status {code}: {''.join(self.errors)[-1500:]}"}
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# --- the run ------------------------------------------------------------------------------------


def run_all(
    work: "queue.Queue[Work]", deadline: float, results: "queue.Queue[dict[str, Any] | None]"
) -> None:
    """A worker: start a child for each piece of work, and a new one after a hang or crash."""
    while time.monotonic() < deadline:
        try:
            piece = work.get_nowait()
        except queue.Empty:
            break
        child = Child(piece.setting)
        for seed in piece.seeds:
            if time.monotonic() >= deadline:
                break
            found = child.run(seed)
            results.put(found | {"setting": piece.setting})
            if "hang" in found or "crash" in found:
                child.close()
                child = Child(piece.setting)
        child.close()
    results.put(None)


def pieces(seeds: list[int], settings: list[str]) -> Iterator[Work]:
    """Batches of one setting each. The seeds determine it, so a resumed run uses the same."""
    for number, some in itertools.groupby(seeds, lambda seed: seed // BATCH):
        yield Work(tuple(some), settings[number % len(settings)])


def is_fault(found: dict[str, Any]) -> bool:
    return bool(found.get("differences") or found.get("hang") or found.get("crash"))


def show(found: dict[str, Any]) -> None:
    """Print a fault and the command that reproduces it."""
    console.rule(f"python scripts/fuzz.py --only {found['seed']} --settings {found['setting']}")
    if found.get("hang"):
        console.print(f"hangs: no answer in {LIMIT} s")
    if found.get("crash"):
        console.print("crashes:", found["crash"], markup=False)
    for line in found.get("differences", ()):
        console.print(line, markup=False)


def report(found: list[dict[str, Any]]) -> None:
    """Counts over all cases."""
    usable = [one for one in found if not one.get("unusable")]
    console.rule("report")
    console.print(f"{len(found)} cells, {len(usable)} of them comparable")
    reasons = Counter(str(one["unusable"]).split(":")[0] for one in found if one.get("unusable"))
    console.print("not comparable, by reason:", dict(reasons))
    native = sum(bool(one.get("native")) for one in usable)
    console.print(f"machine code: {native} ({native / max(1, len(usable)):.0%})")
    matrices = [one for one in usable if one.get("matrices")]
    native, chunks = (sum(bool(m.get(n)) for m in matrices) for n in ("native", "chunkwise"))
    console.print(f"with matrices: {len(matrices)}; machine code: {native}, chunkwise: {chunks}")
    for name in ("transformation", "dtype", "setting"):
        console.print(f"by {name}:", dict(Counter(one.get(name) or "none" for one in usable)))
    for name in ("differences", "hang", "crash"):
        console.print(f"{name}: {sum(bool(one.get(name)) for one in found)}")
    cpu = sum(one.get("cpu", 0) for one in found)
    console.print(f"processor time: {cpu:.0f} s, {cpu / max(1, len(found)):.2f} s a cell")


def main(
    first: Annotated[int, typer.Argument()] = 0,
    last: Annotated[int, typer.Argument(help="one past the last seed")] = 5000,
    only: Annotated[int | None, typer.Option(help="one seed, in this process")] = None,
    processes: int = 2,
    minutes: float = 35,
    settings: Annotated[
        str, typer.Option(help="those that take turns")
    ] = "default,default,avx2,sse,32bit",
    file: Annotated[Path, typer.Option(help="where results are kept")] = Path("fuzz.jsonl"),
) -> None:
    """Compare random cells with the definition."""
    if only is not None:
        setting = settings.split(",")[0]
        once = Child(setting)
        found = once.run(only) | {"setting": setting}
        once.close()
        console.print_json(json.dumps(found))
        raise typer.Exit(int(is_fault(found)))
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = [one for one in known if first <= one["seed"] < last]
    done = {one["seed"] for one in known}
    work: queue.Queue[Work] = queue.Queue()
    for piece in pieces(
        [seed for seed in range(first, last) if seed not in done], settings.split(",")
    ):
        work.put(piece)
    results: queue.Queue[dict[str, Any] | None] = queue.Queue()
    deadline = time.monotonic() + 60 * minutes
    workers = [
        threading.Thread(target=run_all, args=(work, deadline, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found_now = collect(results, processes, file, last - first, len(done))
    for worker in workers:
        worker.join()
    report(known + found_now)
    raise typer.Exit(int(any(map(is_fault, known + found_now))))


def collect(
    results: "queue.Queue[dict[str, Any] | None]", workers: int, file: Path, total: int, done: int
) -> list[dict[str, Any]]:
    """Collect all results and append them to the file; print faults immediately."""
    columns = (
        SpinnerColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    found: list[dict[str, Any]] = []
    with Progress(*columns, console=console) as progress, file.open("a") as kept:
        task = progress.add_task("", total=total, completed=done)
        while workers:
            one = results.get()
            if one is None:
                workers -= 1
                continue
            found.append(one)
            kept.write(json.dumps(one) + "\n")
            kept.flush()
            if is_fault(one):
                show(one)
            progress.update(task, advance=1, description=f"{sum(map(is_fault, found))} faults")
    return found


if __name__ == "__main__":
    child() if sys.argv[1:] == ["--child"] else typer.run(main)
