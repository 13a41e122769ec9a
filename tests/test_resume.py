"""`fit` with checkpoints: a run that is stopped, in any way, continues bit for bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import noria as nr

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(24, 4, 2)).astype(np.float32)
YS = XS.cumsum(axis=1)
DATA = nr.data.batches(XS, YS, batch_size=8, key=KEY)
PROGRAM = Path(__file__).parent / "resuming.py"

pytestmark = pytest.mark.usefixtures("plain_jax")


def make(size: int = 4) -> nr.Chain:
    return nr.Chain(nr.GRU(2, size, key=KEY), nr.Dropout(0.3), nr.Dense(size, 2, key=KEY))


def loss(model: Any, xs: Any, ys: Any, key: Any) -> Any:
    return nr.mse(model(xs, key=key), ys)


def fit(checkpoint: Any, data: Any = DATA, model: Any = None, **options: Any) -> Any:
    given = {"optimiser": optax.adam(0.01), "epochs": 3, "key": KEY, **options}
    model = make() if model is None else model
    return nr.fit(model, loss, data, checkpoint=checkpoint, **given)


def assert_equal(a: Any, b: Any) -> None:
    for one, other in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def steps_in(folder: Path) -> list[int]:
    names = (re.fullmatch(r"step-(\d+)\.safetensors", path.name) for path in folder.iterdir())
    return sorted(int(name[1]) for name in names if name)


def stop_at(step: int) -> Any:
    def on_step(model: Any, n: int, numbers: dict[str, float]) -> None:
        if n == step:
            raise LookupError

    return on_step


def test_a_run_that_failed_in_an_epoch_continues_bit_for_bit(tmp_path: Path):
    """With validation, patience, clipping and accumulated gradients."""
    options = {"valid": (XS[:4], YS[:4]), "patience": 2, "clip_norm": 0.1, "accumulate": 2}
    whole, history = fit(None, **options)
    with pytest.raises(LookupError) as caught:
        fit(tmp_path, on_step=stop_at(5), **options)
    error: Any = caught.value
    assert len(error.history.loss) == 1
    assert steps_in(tmp_path) == [0, 5]
    resumed, again = fit(tmp_path, **options)
    assert_equal(resumed, whole)
    assert (again.loss, again.valid, again.best_epoch) == (
        history.loss,
        history.valid,
        history.best_epoch,
    )
    assert len(again.seconds) == 3


def test_more_epochs_continue_and_no_more_return_the_same(tmp_path: Path):
    whole, history = fit(None)
    fit(tmp_path, epochs=1)
    steps = []
    resumed, again = fit(tmp_path, on_step=lambda model, step, _: steps.append(step))
    assert steps == [4, 5, 6, 7, 8, 9]
    assert_equal(resumed, whole)
    assert again.loss == history.loss
    finished, at_once = fit(tmp_path, on_step=lambda model, step, _: steps.append(step))
    assert_equal(finished, whole)
    assert at_once.loss == history.loss
    assert len(steps) == 6


def test_an_interrupt_leaves_a_checkpoint(tmp_path: Path):
    def interrupt(model: Any, step: int, numbers: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    _, history = fit(tmp_path, on_step=interrupt)
    assert history.stopped == "interrupted in epoch 1"
    assert steps_in(tmp_path) == [0, 4]
    assert_equal(fit(tmp_path)[0], fit(None)[0])


def test_a_bad_number_leaves_the_state_before_it(tmp_path: Path):
    """Run again, the same step is bad again, and the same model comes back."""
    options = {"optimiser": optax.sgd(1e30), "epochs": 2}
    with pytest.warns(RuntimeWarning, match="fit stopped: step") as first:
        model, history = fit(tmp_path, **options)
    with pytest.warns(RuntimeWarning, match="fit stopped: step") as second:
        again, _ = fit(tmp_path, **options)
    assert str(first[0].message) == str(second[0].message)
    assert history.stopped is not None
    assert_equal(model, again)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(model))


def test_how_often_and_how_many(tmp_path: Path):
    seen: list[list[int]] = []
    see = lambda model, step, _: seen.append(steps_in(tmp_path / "a"))  # noqa: E731
    fit(nr.Checkpoint(tmp_path / "a", every=2, keep=3), on_step=see, epochs=2)
    assert seen == [[0], [0], [0, 2], [0, 2], [0, 2, 4], [0, 2, 4]]
    assert steps_in(tmp_path / "a") == [2, 4, 6]
    fit(nr.Checkpoint(tmp_path / "b", seconds=1e-9, keep=99), epochs=1)
    assert steps_in(tmp_path / "b") == [0, 1, 2, 3]
    described = nr.describe(tmp_path / "b" / "step-000000002.safetensors")
    assert described["extra"]["position"] == [0, 2, 2]


def test_another_run_is_refused_by_name(tmp_path: Path):
    fit(tmp_path, epochs=1, valid=(XS, YS))
    other = nr.data.batches(XS, YS, batch_size=6, key=KEY)
    fewer = nr.data.batches(XS[:16], YS[:16], batch_size=8, key=KEY)
    changed = nr.data.batches(XS + 1, YS, batch_size=8, key=KEY)
    kept = {"valid": (XS, YS)}
    for options, message in (
        ({"data": other}, "another batch size: 8 there, 6 here"),
        ({"data": fewer}, "another number of batches: 3 there, 2 here"),
        ({"data": changed}, r"another first batch\. Pass the same arguments to continue it"),
        ({"valid": (XS, XS)}, r"another first batch of valid\."),
        ({"key": jax.random.key(1)}, r"another key\."),
        ({"clip_norm": 1.0}, "another clip_norm: None there, 1.0 here"),
        ({"accumulate": 2}, "another accumulate: 1 there, 2 here"),
        ({"compute_dtype": jnp.bfloat16}, "another compute_dtype: None there, 'bfloat16' here"),
        (
            {"model": make(5)},
            r"another model or optimiser: .*hidden_size is 4 in the file, 5 in the",
        ),
        ({"optimiser": optax.sgd(0.1)}, "another model or optimiser: .*the file has"),
    ):
        with pytest.raises(ValueError, match=r"fit\(checkpoint=.*: the run there has " + message):
            fit(tmp_path, **{**kept, **options})
    nr.save(tmp_path / "step-000000099.safetensors", make())
    with pytest.raises(ValueError, match="the checkpoints there were not written by fit"):
        fit(tmp_path, **kept)


@pytest.mark.parametrize("way", ["read-only", "full"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch):
    """The error has the model, and the checkpoints from before are still there."""
    written = []

    def no_space(handle: int) -> None:
        written.append(handle)
        if len(written) > 4:
            raise OSError(28, "No space left on device")

    where = nr.Checkpoint(tmp_path / "run", every=2)
    if way == "full":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        real, replaced = os.open, []

        def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            replaced.append(path)
            if str(path).endswith(".part") and len(replaced) > 4:
                raise PermissionError(13, "Permission denied")
            return real(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(
        OSError, match=r"fit\(checkpoint=.*the checkpoint of step 4 could not be written"
    ) as caught:
        fit(where)
    error: Any = caught.value
    assert "The checkpoint of step 2 is whole." in str(error)
    assert error.errno == {"full": 28, "read-only": 13}[way] or way == "read-only"
    assert not np.array_equal(error.model[2].W, make()[2].W)
    monkeypatch.undo()
    assert steps_in(tmp_path / "run") == [0, 2]
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []
    assert_equal(fit(where)[0], fit(None)[0])


def test_a_folder_that_cannot_be_made_is_noticed_before_the_first_step(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoint of step 0 could not be written"):
        fit(tmp_path / "file" / "run", data=Untouched())


class Untouched:
    """Data that nobody may iterate over."""

    def __iter__(self) -> Any:
        raise AssertionError


class Counted:
    """An iterable whose iterators have a state, as Grain's do."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __iter__(self) -> "CountedIterator":
        return CountedIterator(self)


class CountedIterator:
    def __init__(self, of: Counted):
        self.of, self.n = of, 0

    def __iter__(self) -> "CountedIterator":
        return self

    def __next__(self) -> Any:
        if self.n == 3:
            raise StopIteration
        self.n += 1
        self.of.made.append(self.n - 1)
        rows = slice(8 * self.n - 8, 8 * self.n)
        return XS[rows], YS[rows]

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.n}

    def set_state(self, state: dict[str, int]) -> None:
        self.n = state["next_index"]


def test_iterators_with_a_state_resume_from_it_and_others_are_skipped_through(tmp_path: Path):
    whole, _ = fit(None, Counted())
    for name, kind in (("a", Counted), ("b", lambda: list(iter(Counted())))):
        with pytest.raises(LookupError):
            fit(tmp_path / name, kind(), on_step=stop_at(5))
        data = kind()
        resumed, _ = fit(tmp_path / name, data)
        assert_equal(resumed, whole)
        if isinstance(data, Counted):
            assert data.made == [2, 0, 1, 2]


# --- signals ------------------------------------------------------------------------------------


def send_sigterm(model: Any, step: int, numbers: Any) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_ends_the_run_and_says_so(tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.warns(
            RuntimeWarning,
            match="SIGTERM in epoch 1; step 4 is saved, and the same call continues",
        ),
        pytest.raises(SystemExit) as caught,
    ):
        fit(tmp_path, on_step=send_sigterm)
    error: Any = caught.value
    assert (error.code, error.history.stopped) == (143, "SIGTERM in epoch 1")
    assert signal.getsignal(signal.SIGTERM) == before
    assert steps_in(tmp_path)[-1] == 4
    assert_equal(fit(tmp_path)[0], fit(None)[0])


def test_sigterm_goes_on_to_the_handler_of_the_user(tmp_path: Path):
    seen, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.warns(RuntimeWarning, match="SIGTERM in epoch 1"):
            _, history = fit(tmp_path, on_step=send_sigterm)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (seen, history.stopped) == ([signal.SIGTERM], "SIGTERM in epoch 1")


# --- a process that is killed -------------------------------------------------------------------


def started(folder: Path, epochs: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(PROGRAM), str(folder), str(epochs)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.full)])
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path: Path, kills: int):
    """At random moments; each restart continues from the last step that was saved."""
    chance, epochs = random.Random(kills), 3 * kills
    for n in range(kills):
        process = started(tmp_path, epochs)
        begun = steps_in(tmp_path)[-1] if n else -1
        while steps_in(tmp_path)[-1:] <= [begun] and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was over before"
    last, process = steps_in(tmp_path)[-1], started(tmp_path, epochs)
    found = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
    assert last < 8 * epochs
    import resuming

    expected = nr.fit(
        resuming.model(), resuming.loss, resuming.WINDOWS, epochs=epochs, **resuming.OPTIONS
    )
    assert found == resuming.told(*expected)
