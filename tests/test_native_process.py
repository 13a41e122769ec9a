"""The native backend among threads, devices and processes; wrong calls; leaks."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import AUTO, make_cell, random

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

#: The beginning of each script: a layer, an input, a function that gives values and gradients, and
#: its right results.
BEGINNING = """
import json, os, re, sys
import jax, jax.numpy as jnp, numpy as np, jax.tree_util as jtu
import noria as nr

layer = nr.LSTM(4, 24, key=jax.random.key(0))
xs = jax.random.normal(jax.random.key(1), (8, 40, 4))

def loss(layer, xs):
    return jnp.sum(layer(xs) ** 2)

def both(layer, xs):
    return layer.scan(None, xs), jax.grad(loss, argnums=(0, 1))(layer, xs)

def close(a, b):
    pairs = list(zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True))
    return all(np.allclose(x, y, rtol=1e-4, atol=1e-4) for x, y in pairs)

expected = jax.jit(both)(nr.with_backend(layer, "scan"), xs)
"""


def answer(script: str, **environment: str) -> Any:
    """What a script prints last, as JSON, in a process of its own."""
    environment = {**os.environ, "PYTHONWARNINGS": "default", **environment}
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- threads --------------------------------------------------------------------------------------


def test_threads_that_compile_and_call_at_once_give_the_same_bits():
    """Eight threads share three layers, and each compiles a function of its own."""
    layers = [nr.Recurrence(make_cell("gru", 3, 64 + n)) for n in range(3)]

    def work(n: int) -> list[Any]:
        function = jax.jit(
            lambda layer, xs: (layer.scan(None, xs), jax.grad(loss_of, argnums=(0, 1))(layer, xs))
        )
        found = [function(layers[n % 3], random(n, 24, 40, 3)) for _ in range(5)]
        return jtu.tree_leaves(jax.device_get(found))

    def loss_of(layer: Any, xs: Any) -> jax.Array:
        return jnp.sum(layer(xs) ** 2)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    for n, leaves in enumerate(found[:3]):
        for a, b in zip(leaves, work(n), strict=True):
            np.testing.assert_array_equal(a, b)


# --- devices and processes ------------------------------------------------------------------------


@pytest.mark.full
def test_four_devices():
    """Each has a part of the batch: `shard_map`, sharded arrays, `pmap`; gradients are summed."""
    script = """
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

def part(layer, xs):
    values, (of_layer, of_xs) = both(layer, xs)
    return values, (jax.lax.psum(of_layer, "data"), of_xs)

specs = dict(in_specs=(P(), P("data")), out_specs=(P("data"), (P(), P("data"))))
sharded = jax.shard_map(part, mesh=mesh, check_vma=False, **specs)
found = {"shard_map": close(jax.jit(sharded)(layer, xs), expected)}
text = jax.jit(sharded).lower(layer, xs).as_text()
found["kernels"] = len(re.findall("custom_call @noria_", text))

put = jax.device_put(xs, NamedSharding(mesh, P("data")))
found["sharded arrays"] = close(jax.jit(both)(layer, put), expected)
pieces = jax.pmap(both, in_axes=(None, 0))(layer, xs.reshape(4, 2, 40, 4))
found["pmap"] = close(jtu.tree_map(lambda a: a.reshape(8, *a.shape[2:]), pieces[0]), expected[0])
print(json.dumps(found))
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    found = answer(script, XLA_FLAGS=flags)
    assert found.pop("kernels") >= 2
    assert found == dict.fromkeys(("shard_map", "sharded arrays", "pmap"), True)


def test_a_fork_after_use():
    """The child has no threads of its parent: a kernel that shares its work computes all the same.

    In XLA's code, a scan waits for threads that do not exist (jaxlib 0.10.2). So this is inference
    only, which leaves nothing to XLA.
    """
    script = """
import signal, time, warnings
warnings.simplefilter("ignore")
function = jax.jit(lambda layer, xs: layer.scan(None, xs))
xs = jnp.tile(xs, (1, 20, 1))
before = jax.device_get(function(layer, xs))
child = os.fork()
if not child:
    signal.alarm(30)
    os._exit(0 if close(function(layer, xs), before) else 1)
status = os.waitpid(child, 0)[1]
print(json.dumps([status, close(function(layer, xs), before)]))
"""
    assert answer(script) == [0, True]


def test_the_first_function_of_a_process_is_traced_once():
    """The native backend is loaded while it is traced, which must not change JAX's cache key."""
    script = """
traces = []

@jax.jit
def function(layer, xs):
    traces.append(0)
    return layer(xs)

function(layer, xs), function(layer, xs)
print(json.dumps(len(traces)))
"""
    assert answer(script) == 1


@pytest.mark.full
def test_the_persistent_compilation_cache(tmp_path):
    """A second process takes what the first has compiled, and gives the same numbers."""
    script = """
hits = []
def listen(name, **_):
    if name.endswith("cache_hits"):
        hits.append(name)

jax.monitoring.register_event_listener(listen)
found = jax.jit(both)(layer, xs)
content = [np.asarray(a).tobytes().hex() for a in jtu.tree_leaves(found)]
print(json.dumps([content, close(found, expected), len(hits)]))
"""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    (first, right, _), (second, right_again, hits) = (
        answer(script, **environment) for _ in range(2)
    )
    assert right
    assert right_again
    assert first == second
    assert hits >= 1


# --- wrong calls ----------------------------------------------------------------------------------


def test_a_wrong_call_is_an_error_and_the_process_lives():
    """The kernel of an LSTM, called with other numbers, dtypes and sizes of arrays."""
    script = """
lowered = jax.jit(layer.scan).lower(None, xs)  # it keeps the kernel
found = lowered.as_text()
line = next(line for line in found.splitlines() if "custom_call @noria_" in line)
name, kernel = re.search(r'custom_call @(\\w+).*kernel = "(\\w+)"', line).groups()
dtypes = {"f32": "float32", "i32": "int32", "ui8": "uint8", "i1": "bool", "f64": "float64"}

def structs(text):
    shapes = [t.split("x") for t in re.findall(r"tensor<([^>]*)>", text)]
    return [jax.ShapeDtypeStruct(tuple(map(int, s[:-1])), dtypes[s[-1]]) for s in shapes]

inputs, results = map(structs, line.rsplit(" : ", 1)[1].split("->"))
operand = re.escape(re.findall(r"custom_call @\\w+\\((%\\w+)", line)[0])
constant = r" = stablehlo.constant dense<(.*?)> : tensor<(\\d+)xi32>"
sizes = re.search(operand + constant, found)
first = np.broadcast_to(np.array(json.loads(sizes[1]), np.int32), int(sizes[2]))
arrays = [first, *(np.ones(s.shape, s.dtype) for s in inputs[1:])]

def call(arrays, results, **attributes):
    attributes = attributes or {"kernel": kernel}
    try:
        run = jax.ffi.ffi_call(name, results, has_side_effect=True)
        jax.block_until_ready(jax.jit(lambda *a: run(*a, **attributes))(*arrays))
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return "fine"

def changed(items, i, change):
    return [change(a) if n == i else a for n, a in enumerate(items)]

longer = lambda a: np.concatenate([a, a[:1]])
wider = lambda s: jax.ShapeDtypeStruct((s.shape[0] + 1, *s.shape[1:]), s.dtype)
other = lambda s: jax.ShapeDtypeStruct(s.shape, "int8" if s.dtype != np.int8 else "int32")
found = {"right": call(arrays, results), "none": call([], results), "no results": call(arrays, [])}
found["one less"] = call(arrays[:-1], results)
found["one more"] = call([*arrays, arrays[-1]], results)
found["result less"] = call(arrays, results[:-1])
found["result more"] = call(arrays, [*results, results[-1]])
for i in range(len(arrays)):
    found[f"input {i} longer"] = call(changed(arrays, i, longer), results)
    found[f"input {i} shorter"] = call(changed(arrays, i, lambda a: a[:-1]), results)
    narrow = changed(arrays, i, lambda a: a.astype(np.int8))
    found[f"input {i} of another dtype"] = call(narrow, results)
for i in range(len(results)):
    found[f"output {i} longer"] = call(arrays, changed(results, i, wider))
    found[f"output {i} of another dtype"] = call(arrays, changed(results, i, other))
for i in range(2):
    for number in (-1, 0, first[i] - 1, first[i] + 1, 2**31 - 1):
        wrong = first.copy()
        wrong[i] = number
        found[f"size {i} is {number}"] = call([wrong, *arrays[1:]], results)
found["two names"] = call(arrays, results, kernel=kernel, another=kernel)
found["a number"] = call(arrays, results, kernel=1)
found["a long name"] = call(arrays, results, kernel=kernel + "0")
found["an unknown name"] = call(arrays, results, kernel=kernel[::-1])
found["right again"] = call(arrays, results)
print(json.dumps(found))
"""
    found = answer(script)
    assert (found.pop("right"), found.pop("right again")) == ("fine", "fine")
    assert len(found) > 30
    for what, message in found.items():
        assert "noria's native kernel: " in message, (what, message)


# --- nothing is left ------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is asked for otherwise")
def test_calls_leave_no_memory_behind():
    """A thousand training steps with threads, 20,000 small ones; 100 bytes each would show."""
    large, small = nr.Recurrence(make_cell("lstm", 3, 65)), nr.Recurrence(make_cell("rnn", 1, 2))
    step = jax.jit(jax.grad(lambda layer, xs: jnp.sum(layer(xs) ** 2)))
    many = jax.jit(
        lambda layer, xs: jax.lax.fori_loop(
            0, 20_000, lambda _, a: 0.5 * jnp.sum(layer(xs + a)), jnp.zeros(())
        )
    )
    assert "noria_" in many.lower(small, jnp.ones((2, 1))).as_text()
    inputs = random(0, 8, 20, 3)

    def calls() -> int:
        for _ in range(1000):
            gradient = step(large, inputs)
        jax.block_until_ready((gradient, many(small, jnp.ones((2, 1)))))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = [calls() for _ in range(2)][-1]
    assert calls() - before < 1.5 * 2**20
