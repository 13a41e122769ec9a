"""Kernels live as long as a program that uses them; then their memory is given back."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import serialize_executable
from models import AUTO, random
from models import sum_of_squares as loss
from test_native_process import answer

import noria as nr
from noria.backends.native.runtime import kernels, target

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

LAYER = nr.RNN(2, 5, key=jax.random.key(0), backend="native")
XS = random(0, 3, 4, 2)


@pytest.fixture
def eventually():
    """A check that so many new kernels are alive, soon: threads of XLA free executables."""
    before = set(kernels.alive())

    def check(count: int) -> None:
        end = time.monotonic() + 10
        while len(set(kernels.alive()) - before) != count and time.monotonic() < end:
            gc.collect()
            time.sleep(0.005)
        assert len(set(kernels.alive()) - before) == count

    return check


# --- who holds a kernel ---------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [jax.jit, eqx.filter_jit])
def test_a_compiled_function(transform, eventually):
    """It is compiled anew after its kernels were released."""
    function = transform(jax.grad(loss))
    found = [jax.device_get(function(LAYER, XS).cell.U) for _ in range(2)]
    eventually(2)
    jax.clear_caches()
    eventually(0)
    found.append(jax.device_get(function(LAYER, XS).cell.U))
    eventually(2)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    del function
    jax.clear_caches()
    eventually(0)


@pytest.mark.parametrize("where", ["at the top", "in a scan", "in a map", "in shard_map"])
def test_a_program_compiled_in_advance(where, eventually):
    """It is lowered, all else is forgotten, and then it is compiled."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    functions: dict[str, Any] = {
        "at the top": lambda xs: LAYER(xs),
        "in a scan": lambda xs: jax.lax.scan(
            lambda a, _: (a + jnp.sum(LAYER(xs + a)), None), jnp.zeros(()), None, length=2
        )[0],
        "in a map": lambda xs: jax.lax.map(lambda a: LAYER(xs + a), jnp.arange(2.0)),
        "in shard_map": jax.shard_map(
            lambda xs: LAYER(xs), mesh=mesh, in_specs=spec, out_specs=spec
        ),
    }
    program: Any = jax.jit(functions[where]).lower(XS)
    jax.clear_caches()
    gc.collect()
    eventually(1)
    program = program.compile()
    jax.clear_caches()
    gc.collect()
    eventually(1)
    found = program(XS)
    np.testing.assert_allclose(found, jax.jit(functions[where])(XS), atol=1e-12)
    del program
    jax.clear_caches()
    eventually(0)


def test_equal_kernels_are_one(eventually):
    one, two = (jax.jit(lambda xs: LAYER(xs)).lower(XS).compile() for _ in range(2))
    eventually(1)
    del one
    jax.clear_caches()
    gc.collect()
    eventually(1)
    assert np.isfinite(two(XS)).all()
    del two
    eventually(0)


def test_a_call_that_has_not_begun(eventually):
    """Its function is given up while it waits for its input."""
    large = jnp.eye(1200)
    wait = (
        jax.jit(lambda a: XS + 0 * jnp.linalg.matrix_power(a, 2**16)[0, 0]).lower(large).compile()
    )
    function = jax.jit(lambda xs: LAYER(xs)).lower(XS).compile()
    expected = function(XS)
    found = function(wait(large))
    assert not found.is_ready()
    del function
    jax.clear_caches()
    np.testing.assert_array_equal(found, expected)
    eventually(0)


def test_a_serialized_program(eventually):
    """It needs the kernel in the process, and keeps it there."""
    program = jax.jit(LAYER.__call__).lower(XS).compile()
    expected, parts = program(XS), serialize_executable.serialize(program)
    loaded = serialize_executable.deserialize_and_load(*parts)
    del program
    jax.clear_caches()
    gc.collect()
    eventually(1)
    np.testing.assert_array_equal(loaded(XS), expected)
    del loaded
    eventually(0)
    with pytest.raises(
        jax.errors.JaxRuntimeError,
        match=r"native kernel: this process does not have it, or has released",
    ):
        serialize_executable.deserialize_and_load(*parts)


def test_kernels_that_many_threads_take_and_give_up(plans, eventually):
    """One thread compiles a kernel, another gives it up at that moment, and a third runs it."""
    jax.jit(loss).lower(LAYER, XS)
    isa = target.chosen()

    def take(n: int) -> None:
        for _ in range(20):
            kernel = kernels.kernel_of(plans[-1].plan, isa)
            assert kernel.name in kernels.alive()
            time.sleep(n * 1e-4)
            del kernel

    def use(n: int) -> None:
        for k in range(4):
            value = (
                jax.jit(lambda layer, xs, k=k: loss(layer, xs) + k)
                .lower(LAYER, XS)
                .compile()(LAYER, XS)
            )
            np.testing.assert_allclose(value, expected + k, atol=1e-12)

    expected = loss(LAYER, XS)
    jax.clear_caches()
    with ThreadPoolExecutor(4) as pool:
        for job in [*(pool.submit(take, n) for n in range(3)), pool.submit(use, 0)]:
            job.result()
    jax.clear_caches()
    eventually(0)


# --- memory ---------------------------------------------------------------------------------------

#: Memory and maps of a process, without what the allocator keeps for later.
_MEASURE = """
import ctypes, gc, statistics
from noria.backends.native.runtime import kernels

def used():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(open("/proc/self/statm").read().split()[1])
    maps = sum(1 for _ in open("/proc/self/maps"))
    return np.array([pages * os.sysconf("SC_PAGE_SIZE") / 2**20, maps])
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory is asked for otherwise")
@pytest.mark.full
def test_memory_of_a_shape():
    """A training step takes less than plain `lax.scan`; giving up programs returns it all."""
    script = (
        _MEASURE
        + """
layer, xs, kept = nr.RNN(4, 8, key=jax.random.key(0)), np.asarray(xs), []

def grown(backend, time):
    before = used()
    step = jax.jit(jax.value_and_grad(loss))
    jax.block_until_ready(step(nr.with_backend(layer, backend), xs[:, :time]))
    kept.append(step)
    return used() - before

def all_grown(shapes):
    found = {b: [grown(b, time) for time in shapes] for b in ("native", "plain")}
    return [np.median(found[b], 0).tolist() for b in ("native", "plain")]

all_grown([2, 3])
medians = all_grown(range(4, 10))
alive = len(kernels.alive())
kept.clear()
jax.clear_caches()
before = used()
left = len(kernels.alive())
for time in range(10, 22):
    grown("native", time)
    kept.clear()
    jax.clear_caches()
print(json.dumps([medians, alive, left, (used() - before).tolist()]))
"""
    )
    ((memory, maps), (memory_of_scan, maps_of_scan)), alive, left, grown = answer(script)
    assert memory <= memory_of_scan
    assert maps <= maps_of_scan
    assert alive >= 2
    assert left == 0
    assert grown[0] < 3  # of twelve shapes, each of which took about two megabytes
    assert grown[1] < 40


def test_too_many_memory_maps(monkeypatch):
    """It is said before LLVM and XLA crash, and the function works when there are fewer."""
    function = jax.jit(lambda xs: LAYER(xs))
    with monkeypatch.context() as changed:
        changed.setattr(kernels, "memory_maps", lambda: (62_000, 65_530))
        with pytest.raises(
            RuntimeError, match=r"62000 memory maps; Linux allows 65530 .*Call jax.clear_caches\(\)"
        ):
            function(XS)
    assert np.isfinite(function(XS)).all()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no such limit")
def test_memory_maps_are_counted():
    count, most = kernels.memory_maps()
    assert 50 < count < most
