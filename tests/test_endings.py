"""The ends of a run with checkpoints: nothing is lost, and what cannot continue is refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import noria as nr

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(24, 4, 2)).astype(np.float32)
BATCHES = [(XS[n : n + 6],) for n in range(0, 24, 6)]
HERE = Path(__file__)

pytestmark = pytest.mark.usefixtures("plain_jax")


def make() -> nr.Chain:
    return nr.Chain(nr.GRU(2, 4, key=KEY), nr.Dense(4, 2, key=KEY))


def loss(model: Any, xs: Any) -> Any:
    return nr.mse(model(xs), xs)


def fit(checkpoint: Any, data: Any = BATCHES, **options: Any) -> Any:
    given = {"optimiser": optax.sgd(0.1), "epochs": 2, "key": KEY, **options}
    return nr.fit(make(), loss, data, checkpoint=checkpoint, **given)


def assert_equal(a: Any, b: Any) -> None:
    for one, other in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [2, 3])
def test_sigterm_in_the_callback_of_an_epoch_is_obeyed_also_after_the_last(
    tmp_path: Path, epochs: int
):
    def on_epoch(model: Any, history: nr.History) -> None:
        if len(history.loss) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with (
        pytest.warns(RuntimeWarning, match="SIGTERM in epoch .; step . is saved") as caught,
        pytest.raises(SystemExit),
    ):
        fit(tmp_path, on_epoch=on_epoch, epochs=epochs)
    assert [warning.filename for warning in caught] == [__file__]
    model, history = fit(tmp_path, epochs=epochs)
    assert len(history.loss) == epochs
    assert_equal(model, fit(None, epochs=epochs)[0])


@pytest.mark.parametrize("where", ["data", "valid"])
def test_a_bad_number_is_reported_at_the_line_of_the_call(where: str):
    with pytest.warns(RuntimeWarning, match="fit stopped") as caught:
        _, history = fit(None, **{where: [(np.nan * XS,)]})
    assert [warning.filename for warning in caught] == [__file__]
    assert str(caught[0].message) == f"fit stopped: {history.stopped}"


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)


def test_an_interrupt_on_a_full_disk_still_gives_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def on_step(model: Any, step: int, numbers: Any) -> None:
        if step == 3:
            full_disk(monkeypatch)
            raise KeyboardInterrupt

    with pytest.raises(OSError, match="the checkpoint of step 3 could not be written") as caught:
        fit(tmp_path, on_step=on_step)
    error: Any = caught.value
    assert not np.array_equal(error.model[1].W, make()[1].W)
    assert files(tmp_path) == ["step-000000000.safetensors"]


def test_a_second_interrupt_ends_the_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def on_step(model: Any, step: int, numbers: Any) -> None:
        if step == 3:
            monkeypatch.setattr(os, "fsync", interrupt)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, on_step=on_step)
    monkeypatch.undo()
    error: Any = caught.value
    assert not np.array_equal(error.model[1].W, make()[1].W)
    assert files(tmp_path) == ["step-000000000.safetensors"]
    assert_equal(fit(tmp_path)[0], fit(None)[0])


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of files")
def test_a_limit_of_the_system_in_a_process_of_its_own(tmp_path: Path):
    """No file may grow past 1 kB: the disk is full in earnest."""
    program = (
        "import resource, signal, sys, test_endings as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def limit(model, step, numbers):\n"
        "    if step == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: t.fit(t.nr.Checkpoint(sys.argv[1], every=1), on_step=limit)\n"
        "except OSError as error: print(error.errno, error.model[1].W.shape, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
    )
    assert done.stdout.startswith("27 (2, 4) "), done.stderr
    assert "The checkpoint of step 2 is whole." in done.stdout
    assert files(tmp_path) == ["step-000000001.safetensors", "step-000000002.safetensors"]
    assert_equal(fit(tmp_path)[0], fit(None)[0])


# --- what is saved ------------------------------------------------------------------------------


def test_a_position_is_saved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also at the end, by SIGTERM and of a run that is over: schedulers wait for seconds only."""
    fit(nr.Checkpoint(tmp_path, every=4))
    full_disk(monkeypatch)  # whatever would be written now is an error
    assert_equal(fit(tmp_path)[0], fit(None)[0])


class Counting:
    """An iterator with a state that JSON does not hold."""

    def __init__(self) -> None:
        self.left = list(BATCHES)

    def __iter__(self) -> "Counting":
        return Counting()

    def __next__(self) -> Any:
        if not self.left:
            raise StopIteration
        return self.left.pop()

    def get_state(self) -> Any:
        return {"left": np.arange(len(self.left))}


def test_a_state_of_the_data_that_cannot_be_saved_is_named(tmp_path: Path):
    with pytest.raises(
        TypeError, match=r"step 2 could not be written: .* Expected get_state\(\) of an iterator"
    ) as caught:
        fit(nr.Checkpoint(tmp_path, every=2), Counting())
    error: Any = caught.value
    assert not np.array_equal(error.model[1].W, make()[1].W)


def test_an_error_of_the_data_is_raised_though_no_checkpoint_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> Any:
        yield from BATCHES[:2]
        full_disk(monkeypatch)
        raise LookupError("row 12")

    with pytest.raises(LookupError, match="row 12") as caught:
        fit(tmp_path, broken(), epochs=1)
    error: Any = caught.value
    assert "noria.fit: no checkpoint could be written: " in error.__notes__[0]
    assert not np.array_equal(error.model[1].W, make()[1].W)


# --- what continues -----------------------------------------------------------------------------


def test_patience_may_be_left_out_of_a_run_and_not_be_added(tmp_path: Path):
    """The best model of a run without `patience=` is not kept, so that nobody could return it."""
    options: dict[str, Any] = {"valid": BATCHES, "optimiser": optax.sgd(-0.05)}
    fit(tmp_path / "with", patience=2, epochs=2, **options)
    model, history = fit(tmp_path / "with", epochs=4, **options)
    assert len(history.loss) == 4
    assert_equal(model, fit(None, epochs=4, **options)[0])
    fit(tmp_path / "without", epochs=2, **options)
    with pytest.raises(ValueError, match=r"the run there was begun without patience=, and its be"):
        fit(tmp_path / "without", patience=2, epochs=4, **options)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    fit(nr.Checkpoint(tmp_path, every=4), epochs=2)
    newest = tmp_path / "step-000000008.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"the newest checkpoint, of step 8, cannot be read: .* Remove it, and the"
    ):
        fit(tmp_path)
    newest.unlink()
    assert_equal(fit(tmp_path)[0], fit(None)[0])


def test_two_equal_runs_in_one_folder(tmp_path: Path):
    """As when a scheduler starts a job again before the first one has ended."""
    where, seconds = nr.Checkpoint(tmp_path, every=1), []

    def on_step(model: Any, step: int, numbers: Any) -> None:
        if step == 3:
            seconds.append(fit(where)[0])

    model, _ = fit(where, on_step=on_step)
    assert_equal(model, fit(None)[0])
    assert_equal(seconds[0], model)
    assert files(tmp_path) == ["step-000000007.safetensors", "step-000000008.safetensors"]


def test_a_run_that_orbax_saved_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As by one process, after several ones over which arrays were cut; and Ctrl-C saves it too."""
    pytest.importorskip("orbax.checkpoint")
    from noria.train import checkpoint, orbax

    def interrupt(model: Any, step: int, numbers: Any) -> None:
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "Files", orbax.OrbaxFolder)
    fit(tmp_path, on_step=interrupt)
    monkeypatch.undo()
    steps: list[int] = []
    model, _ = fit(tmp_path, on_step=lambda model, step, _: steps.append(step))
    assert steps == [7, 8]
    assert_equal(model, fit(None)[0])
    assert not list(tmp_path.glob("*.safetensors"))
