"""Machine code on disk: what a process finds there, what it trusts, and how kernels are named."""

import errno
import gc
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from models import AUTO, random
from models import sum_of_squares as loss

import noria as nr
from noria.backends.environment import cache_folder

if AUTO != "native":
    pytest.skip("there is no machine code here", allow_module_level=True)

from noria.backends.native.machine import ISAS
from noria.backends.native.plan.fingerprint import NoFingerprint, fingerprint
from noria.backends.native.runtime import cache, kernels, target

LAYER = nr.RNN(2, 5, key=jax.random.key(0), backend="native")
XS = random(0, 3, 4, 2)


@pytest.fixture(autouse=True, scope="module")
def _resident_code():
    """It is compiled once in a process, and counted in no test."""
    kernels._resident()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, for the time of a test."""
    monkeypatch.setenv("NORIA_CACHE", str(tmp_path / "kernels"))
    cache._say_once.cache_clear()
    return tmp_path / "kernels"


@pytest.fixture
def compiled(monkeypatch):
    """The modules that LLVM compiles; no kernel of the process is used."""
    modules, original = [], target.object_code

    def spy(module: Any, isa: Any) -> bytes:
        modules.append(module)
        return original(module, isa)

    monkeypatch.setattr(kernels, "object_code", spy)
    forget()
    return modules


def forget() -> None:
    """Give up all kernels of the process. A thread of JAX may hold a program a moment longer."""
    end = time.monotonic() + 10
    while True:
        jax.clear_caches()
        gc.collect()
        kernels.release_unused()
        if not kernels.alive():
            return
        assert time.monotonic() < end


def value() -> np.ndarray:
    """The value of a layer, of which the process has no kernel."""
    forget()
    return np.asarray(jax.jit(lambda xs: LAYER(xs))(XS))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kernel"))


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NORIA_CACHE": ""}, None),
        ({"NORIA_CACHE": "off"}, None),
        ({"NORIA_CACHE": "0"}, None),
        ({"NORIA_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"NORIA_CACHE": "~/b", "HOME": "/h"}, "/h/b"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/noria"),
        ({"XDG_CACHE_HOME": "c", "HOME": "/h"}, "/h/.cache/noria"),
        ({"HOME": "/h"}, "/h/.cache/noria"),
    ],
)
def test_where_it_is(variables, expected, monkeypatch):
    for name in ("NORIA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, setting in variables.items():
        monkeypatch.setenv(name, setting)
    assert cache_folder() == (expected and Path(expected))


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("NORIA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", home)
    assert cache_folder() is None


def test_it_belongs_to_the_user_alone(folder):
    cache.save("a" * 24, b"code")
    assert folder.stat().st_mode & 0o777 == 0o700
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.sampled(2)
@pytest.mark.parametrize("setting", ["", "off"])
def test_switched_off(setting, compiled, monkeypatch, tmp_path):
    monkeypatch.setenv("NORIA_CACHE", setting)
    monkeypatch.chdir(tmp_path)
    value()
    value()
    assert len(compiled) == 2
    assert not [*tmp_path.iterdir()]


# --- what is found --------------------------------------------------------------------------------


def test_a_kernel_is_compiled_once(folder, compiled, caplog):
    with caplog.at_level(logging.DEBUG, logger="noria"):
        found = [value() for _ in range(3)]
    assert len(compiled) == 1
    assert len(files(folder)) == 1
    for again in found[1:]:
        np.testing.assert_array_equal(found[0], again)
    name = files(folder)[0].stem
    assert [r.getMessage() for r in caplog.records if f"{name}: not in" in r.getMessage()]
    assert [r.getMessage() for r in caplog.records if f"{name}: read from" in r.getMessage()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_compilation_is_not_searched_for_unused_objects(is_enabled, fails, folder, monkeypatch):
    """And leaves the collector as it was, even if it fails."""
    seen = []

    def object_code(module: Any, isa: Any) -> bytes:
        seen.append(gc.isenabled())
        if fails:
            raise MemoryError
        return original(module, isa)

    original = target.object_code
    monkeypatch.setattr(kernels, "object_code", object_code)
    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        with pytest.raises(MemoryError) if fails else nullcontext():
            value()
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert seen == [False]


def test_a_gradient(folder, compiled):
    gradients = []
    for _ in range(2):
        forget()
        gradients.append(jax.device_get(jax.jit(jax.grad(loss))(LAYER, XS)))
    assert len(compiled) == 2
    jax.tree.map(np.testing.assert_array_equal, *gradients)


#: Prints the value of a layer and of its gradient, and how many modules LLVM compiled.
SCRIPT = """
import json, jax, jax.numpy as jnp, noria as nr
from noria.backends.native.runtime import kernels
compiled, original = [], kernels.object_code
kernels.object_code = lambda *args: compiled.append(args) or original(*args)
layer = nr.LSTM(3, 20, key=jax.random.key(0), backend="native")
step = jax.jit(jax.value_and_grad(lambda layer, xs: jnp.sum(layer(xs) ** 2)))
found, gradient = step(layer, jnp.ones((2, 30, 3)))
print(json.dumps([float(found), float(jnp.sum(gradient.cell.U ** 2)), len(compiled)]))
"""


@pytest.mark.full
def test_several_processes_at_once(folder):
    """Each may compile a kernel, none meets half a file, and a later process compiles none.

    The names of kernels do not depend on the seed with which a process hashes its strings.
    """

    def start(seed: int) -> Any:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def answers(processes: Any) -> list[Any]:
        return [json.loads(process.communicate(timeout=120)[0]) for process in processes]

    together = answers([start(seed) for seed in range(3)])
    assert len(files(folder)) == len([*folder.iterdir()]) == 3  # two kernels and the resident code
    assert max(compiled for *_, compiled in together) == 3
    later = answers([start(4)])
    assert later[0][-1] == 0
    assert len({tuple(numbers) for *numbers, _ in together + later}) == 1


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        lambda data: b"\x7fELF" + data,
    ],
    ids=["empty", "header cut", "end cut", "too long", "one bit", "garbage"],
)
def test_a_damaged_file(harm, folder, compiled, caplog):
    """It is said, removed, and written anew."""
    expected = value()
    (file,) = files(folder)
    data = file.read_bytes()
    file.write_bytes(harm(data))
    np.testing.assert_array_equal(value(), expected)
    assert len(compiled) == 2
    assert "is damaged" in caplog.text
    assert file.read_bytes() == data


def test_a_file_of_another_kernel(folder):
    """A file counts under its own name only."""
    cache.save("a" * 24, b"code")
    files(folder)[0].rename(folder / f"{'b' * 24}.kernel")
    assert cache.load("b" * 24) is None


def test_the_oldest_files_are_removed(folder, monkeypatch):
    """Those that were not read or written for the longest time."""
    monkeypatch.setattr(cache, "MOST_BYTES", 3500)
    other = folder / "other.txt"
    for n, name in enumerate("abc"):
        cache.save(name, bytes(1000))
        os.utime(folder / f"{name}.kernel", (n, n))
    other.write_bytes(bytes(10_000))
    assert cache.load("a") is not None  # it was the oldest
    cache.save("d", bytes(1000))
    assert [file.stem for file in files(folder)] == ["a", "c", "d"]
    assert other.exists()


# --- names ----------------------------------------------------------------------------------------


def test_another_version(folder, compiled, monkeypatch):
    value()
    monkeypatch.setattr(cache, "code_version", lambda: "another")
    value()
    assert len(compiled) == len(files(folder)) == 2


@pytest.mark.skipif(len(target.available()) < 2, reason="there is one instruction set")
def test_another_instruction_set(folder, compiled, tune):
    expected = value()
    tune(isa=target.available()[-1].name)
    np.testing.assert_allclose(value(), expected, atol=1e-12)
    assert len(compiled) == len(files(folder)) == 2


def test_plans_with_one_fingerprint_have_the_same_code(plans, monkeypatch):
    """And the same plan has the same fingerprint when it is made again. Nothing is compiled."""
    none = object.__new__(kernels.Kernel)
    none.name = "a" * 24
    monkeypatch.setattr(kernels, "kernel_of", lambda plan, isa: none)
    for _ in range(2):
        jax.clear_caches()
        for kind, n, m in itertools.product((nr.RNN, nr.GRU), (3,), (5, 6)):
            layer, xs = kind(n, m, key=jax.random.key(0)), random(0, 2, 9, n)
            jax.jit(lambda layer, xs: layer(xs)).lower(layer, xs)
            jax.jit(lambda layer, xs: layer(xs)).lower(layer, xs[:, :3])  # few rows
        jax.jit(jax.grad(loss)).lower(LAYER, XS)
    found: dict[str, set[str]] = {}
    for planned in plans:
        text = str(kernels._module_of(planned.plan))
        found.setdefault(fingerprint(planned.plan), set()).add(text)
    assert all(len(texts) == 1 for texts in found.values())
    assert len(found) == len(plans) / 2
    assert len(set().union(*found.values())) == len(found)


class Scaled(nr.Cell):
    factor: float = eqx.field(static=True)

    def __call__(self, h: Any, x: Any) -> Any:
        return h * self.factor + x

    def initial_state(self) -> Any:
        return jax.numpy.zeros(3)


@pytest.mark.parametrize("number", [0.1, -0.0])
def test_numbers_in_a_cell_count(number, plans):
    prints = set()
    for factor in (number, 0.1 + 1e-16, 0.0):
        layer = nr.Recurrence(Scaled(factor), backend="native")
        jax.jit(lambda xs, layer=layer: layer(xs)).lower(random(0, 2, 9, 3))
        prints.add(fingerprint(plans[-1].plan))
    assert len(prints) == 3


def test_a_plan_without_a_fingerprint(folder, compiled, plans, monkeypatch):
    """An unknown object is not guessed at; the code itself names the kernel."""
    expected = value()
    plans[-1].plan.unknown = object()
    with pytest.raises(NoFingerprint, match="object"):
        fingerprint(plans[-1].plan)

    def none(plan: Any) -> str:
        raise NoFingerprint("an unknown object")

    monkeypatch.setattr(kernels, "fingerprint", none)
    for _ in range(2):
        np.testing.assert_array_equal(value(), expected)
    assert len(compiled) == len(files(folder)) == 2


# --- whom it trusts -------------------------------------------------------------------------------


def test_a_folder_that_others_may_write(folder, compiled, caplog):
    value()
    folder.chmod(0o770)
    value()
    value()
    assert len(compiled) == 3
    assert caplog.text.count("other users may write it; to use it: chmod go-w") == 1


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", ["may be written", "a link", "a pipe", "a folder"])
def test_a_file_that_others_may_have_written(kind, folder, compiled, caplog, tmp_path):
    """It is not read."""
    value()
    (file,) = files(folder)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    if kind == "may be written":
        elsewhere.rename(file)
        file.chmod(0o606)
    elif kind == "a link":
        file.symlink_to(elsewhere)
    elif kind == "a pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    value()
    assert len(compiled) == 2
    assert "is not used" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner")
def test_another_user(folder, compiled, monkeypatch, caplog):
    value()
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    value()
    assert len(compiled) == 2
    assert "it belongs to another user" in caplog.text


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_no_folder_can_be_made(what, folder, compiled, caplog, monkeypatch):
    folder.write_text("")
    if what == "below a file":
        monkeypatch.setenv("NORIA_CACHE", str(folder / "deeper"))
    value()
    value()
    assert len(compiled) == 2
    assert caplog.text.count("it is not used") == 1


def test_a_folder_that_cannot_be_written(folder, compiled, monkeypatch, caplog):
    """What is there is read."""
    value()

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache, "replace_file", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    value()
    assert len(compiled) == 1
    jax.device_get(jax.jit(jax.grad(loss))(LAYER, XS))
    assert len(compiled) > 1  # the reverse loop, and in some versions of JAX another forward loop
    assert caplog.text.count("it cannot be written") == 1
    assert np.isfinite(value()).all()


# --- what is said ---------------------------------------------------------------------------------


def test_a_slow_kernel_is_reported(folder, compiled, monkeypatch, caplog):
    """With the line of the cell, on the logger of the package."""
    monkeypatch.setattr(kernels, "SLOW_SECONDS", 0.0)

    class Leaky(nr.Cell):
        U: jax.Array

        def __call__(self, h: Any, x: Any) -> Any:
            return 0.5 * h + jax.numpy.tanh(self.U @ x)

        def initial_state(self) -> Any:
            return jax.numpy.zeros(len(self.U))

    layer = nr.Recurrence(Leaky(random(1, 5, 2)), backend="native")
    with caplog.at_level(logging.INFO, logger="noria"):
        jax.jit(lambda xs: layer(xs)).lower(XS)
    (record,) = [r for r in caplog.records if r.name == "noria"]
    assert record.levelno == logging.INFO
    assert "operations took" in record.getMessage()
    assert "test_native_cache.py:" in record.getMessage()


def test_all_instruction_sets_have_names():
    """A name is part of the key."""
    names = [isa.name for family in ISAS.values() for isa in family]
    assert len({*names}) == len(names)
