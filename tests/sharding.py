"""The program of `test_sharding`, on four devices: prints the results of cases, as JSON.

python tests/sharding.py [NAME ...]
"""

import functools
import json
import math
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import noria as nr
from noria.backends.native.machine import Tuning, using

BATCH, TIME = 16, 6
#: The gradient of a memory computes matrices again, two steps at a time.
SEGMENTS = Tuning(
    matrix_state_bytes=1, recomputed_ratio=1, stored_bytes=0, segment_bytes=1, segment_steps=2
)
AUTO, EXPLICIT = (
    (jax.make_mesh((4,), ("data",), axis_types=(kind,)))
    for kind in (AxisType.Auto, AxisType.Explicit)
)
SQUARE = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
keys = iter(jax.random.split(jax.random.key(0), 20))


class Decay(nr.Cell):
    """A linear cell."""

    a: jax.Array

    def initial_state(self) -> jax.Array:
        return jnp.zeros(4)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.a) * h + x


class Memory(nr.Cell):
    """A matrix, and a decay that is a parameter."""

    W: jax.Array
    a: jax.Array

    def initial_state(self) -> jax.Array:
        return jnp.zeros((4, 4))

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = jnp.split(self.W @ x, 2)
        return jax.nn.sigmoid(self.a)[:, None] * S + k[:, None] * v

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return x @ S


def models() -> dict[str, Any]:
    both = nr.Bidirectional(nr.LSTM(3, 4, key=next(keys)), nr.GRU(3, 4, key=next(keys)))
    back = nr.GRU(8, 4, key=next(keys), learn_initial_state=True, reverse=True)
    deep = nr.Chain(both, back, nr.Dense(4, 1, key=next(keys)))
    linear = nr.Chain(nr.Recurrence(Decay(jnp.ones(4))), nr.Dense(4, 1, key=next(keys)))
    small = nr.LSTM(3, 4, key=next(keys))
    stored = [
        nr.GRU(3, 4, key=next(keys), save="states"),
        nr.GRU(4, 4, key=next(keys), checkpoint=2),
    ]
    weight = jax.random.normal(next(keys), (8, 4)) / 4
    memory = nr.Recurrence(Memory(weight, jnp.ones(4)))
    return {
        "deep": deep,
        "linear": linear,
        "small": small,
        "stored": nr.Chain(*stored),
        "memory": memory,
    }


MODELS = models()
xs = jax.random.normal(next(keys), (BATCH, TIME, 3))
lengths = jnp.arange(BATCH) % TIME + 1
resets = jax.random.bernoulli(next(keys), 0.2, (BATCH, TIME))
DATA = {
    "deep": (xs, lengths, resets),
    "linear": (jnp.tile(xs[..., :1], (1, 1, 4)),),
    "memory": (jax.random.normal(next(keys), (BATCH, TIME, 4)), lengths, resets),
    "small": (xs[:, :2],),  # the reference compiles each step of each example
}


def scan(model: Any, xs: Any, lengths: Any = None, resets: Any = None) -> Any:
    return model.scan(None, xs, lengths=lengths, resets=resets)


def loss(model: Any, *data: Any) -> jax.Array:
    return sum((jnp.mean(a**2) for a in jtu.tree_leaves(scan(model, *data))), jnp.zeros(()))


step = jax.value_and_grad(loss)


def facts(function: Any, args: Any, expected: Any, axis: int = 0) -> dict[str, Any]:
    """Collectives and kernels of a compiled function, and its distance from one device.

    Rows of the batch are along ``axis`` of the first result of a kernel, which is a state.
    """
    compiled = jax.jit(function).lower(*args).compile()
    text, found = str(compiled.as_text()), compiled(*args)
    pairs = zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True)
    collectives = re.findall(
        r" = (\(.*?\)|\S+) (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    kernels = re.findall(r" = (\(.*?\)|\S+) custom-call\([^\n]*custom_call_target=\"noria", text)
    return {
        "error": float(
            max(np.max(np.abs(1.0 * np.asarray(a) - np.asarray(b)), initial=0) for a, b in pairs)
        ),
        "all-reduce": [size(shape) for shape, name in collectives if name == "all-reduce"],
        "others": [name for _, name in collectives if name != "all-reduce"],
        "rows": sorted(
            {int(re.findall(r"\[([\d,]+)", shape)[0].split(",")[axis]) for shape in kernels}
        ),
        "types": sorted({str(jax.typeof(a).sharding.spec) for a in jtu.tree_leaves(found)}),
    }


def size(shapes: str) -> int:
    """Bytes of arrays of 32 bits."""
    return 4 * sum(
        math.prod(map(int, filter(None, dims.split(","))))
        for dims in re.findall(r"\[([\d,]*)\]", shapes)
    )


def put(tree: Any, mesh: Any, *spec: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


# --- a step of training ---------------------------------------------------------------------------


def by_jit(model: Any, data: Any) -> Any:
    return step, (put(model, AUTO), *put(data, AUTO, "data"))


def by_shard_map(model: Any, data: Any) -> Any:
    """Types do not say what varies: gradients are averaged by hand."""

    def part(model: Any, *data: Any) -> Any:
        return jax.lax.pmean(step(model, *data), "data")

    specs = P(), *[P("data")] * len(data)
    return jax.shard_map(part, mesh=AUTO, in_specs=specs, out_specs=P(), check_vma=False), (
        model,
        *data,
    )


def by_typed_shard_map(model: Any, data: Any) -> Any:
    """They do: what is averaged is the loss."""

    def part(model: Any, *data: Any) -> Any:
        return jax.value_and_grad(lambda model: jax.lax.pmean(loss(model, *data), "data"))(model)

    specs = P(), *[P("data")] * len(data)
    return jax.shard_map(part, mesh=AUTO, in_specs=specs, out_specs=P(), check_vma=True), (
        model,
        *data,
    )


def by_explicit_mesh(model: Any, data: Any) -> Any:
    return step, (put(model, EXPLICIT), *put(data, EXPLICIT, "data"))


WAYS = {way.__name__: way for way in (by_jit, by_shard_map, by_typed_shard_map, by_explicit_mesh)}


def training(way: str, name: str, backend: str) -> dict[str, Any]:
    model, data = nr.with_backend(MODELS[name], backend), DATA.get(name, (xs,))
    expected = jax.jit(step)(model, *data)
    function, args = WAYS[way](model, data)
    with using(SEGMENTS if name == "memory" else Tuning()):
        found = facts(function, args, expected)
    return found | {"parameters": sum(a.size for a in jtu.tree_leaves(model))}


# --- other cases ----------------------------------------------------------------------------------


def inference() -> dict[str, Any]:
    model, data = MODELS["deep"], DATA["deep"]
    return facts(scan, (put(model, AUTO), *put(data, AUTO, "data")), jax.jit(scan)(model, *data))


def explicit_inference() -> dict[str, Any]:
    model, data = MODELS["deep"], DATA["deep"]
    with jax.set_mesh(EXPLICIT):
        return facts(scan, (model, *put(data, EXPLICIT, "data")), jax.jit(scan)(model, *data))


def explicit_context() -> dict[str, Any]:
    """A step of training where the mesh is that of the context."""
    model, data = MODELS["deep"], DATA["deep"]
    with jax.set_mesh(EXPLICIT):
        return facts(step, (model, *put(data, EXPLICIT, "data")), jax.jit(step)(model, *data))


def values_and_gradients(model: Any, xs: Any) -> Any:
    return model.scan(None, xs), jax.grad(loss, argnums=(0, 1))(model, xs)


def small(function: Callable[..., Any], model: Any, args: Any, given: Any = xs) -> dict[str, Any]:
    return facts(function, (model, args), jax.jit(function)(MODELS["small"], given))


def uneven() -> dict[str, Any]:
    """63 examples on four devices."""
    many = jnp.tile(xs, (4, 1, 1))
    return small(
        lambda m, xs: values_and_gradients(m, xs[:63]),
        MODELS["small"],
        put(many, AUTO, "data"),
        many,
    )


def axes_of_two(*spec: Any) -> dict[str, Any]:
    return small(values_and_gradients, put(MODELS["small"], SQUARE), put(xs, SQUARE, *spec))


def sharded_weights() -> dict[str, Any]:
    return small(values_and_gradients, put(MODELS["small"], SQUARE, "b"), put(xs, SQUARE, "a"))


def two_meshes() -> dict[str, Any]:
    return small(values_and_gradients, put(MODELS["small"], AUTO), put(xs, SQUARE, "b"))


def in_shardings() -> dict[str, Any]:
    """Arrays of NumPy, of which only the call knows that they are sharded."""
    function = jax.jit(values_and_gradients, in_shardings=(None, NamedSharding(AUTO, P("data"))))
    return small(function, MODELS["small"], np.asarray(xs))


def constraint() -> dict[str, Any]:
    """The program's own words."""

    def spread(m: Any, xs: Any) -> Any:
        return values_and_gradients(m, jax.lax.with_sharding_constraint(xs, P("data")))

    expected = values_and_gradients(MODELS["small"], xs)
    with jax.set_mesh(AUTO):
        return facts(spread, (MODELS["small"], np.asarray(xs)), expected)


def mapped(mesh: Any) -> dict[str, Any]:
    """One example each."""
    return small(
        jax.vmap(values_and_gradients, (None, 0)), put(MODELS["small"], mesh), put(xs, mesh, "data")
    )


def mapped_batches(*spec: Any) -> dict[str, Any]:
    several = jnp.stack([xs, xs + 1])
    function = jax.vmap(values_and_gradients, (None, 0))
    return small(function, put(MODELS["small"], SQUARE), put(several, SQUARE, *spec), several)


def mapped_weights() -> dict[str, Any]:
    several = jtu.tree_map(lambda a: jnp.stack([a, a / 2]), MODELS["small"])
    function = jax.vmap(loss, (0, None))
    args, expected = (put(several, AUTO), put(xs, AUTO, "data")), function(several, xs)
    return facts(function, args, expected, axis=1)  # models come first


def single_steps(mesh: Any) -> dict[str, Any]:
    """Of four examples: machine code, one row on each device."""

    def function(model: Any, x: Any) -> Any:
        return model.step(None, x)

    return small(function, put(MODELS["small"], mesh), put(xs[:4, 0], mesh, "data"), xs[:4, 0])


def part_of_a_mesh(check_vma: bool) -> dict[str, Any]:
    """One axis by hand, the other left to XLA."""

    def part(model: Any, xs: Any) -> Any:
        return jax.lax.pmean(loss(model, xs), "a")

    function = jax.shard_map(
        part,
        mesh=SQUARE,
        in_specs=(P(), P("a")),
        out_specs=P(),
        axis_names={"a"},
        check_vma=check_vma,
    )
    return facts(
        function, (MODELS["small"], put(xs, SQUARE, ("a", "b"))), loss(MODELS["small"], xs)
    )


def second_derivatives() -> dict[str, Any]:
    """Of machine code they are those of the scan."""

    def sharpness(loss: Any, model: Any) -> Any:
        return sum((jnp.sum(a**2) for a in jtu.tree_leaves(jax.grad(loss)(model))), jnp.zeros(()))

    def part(model: Any, xs: Any) -> Any:
        return jax.grad(
            lambda model: sharpness(lambda model: jax.lax.pmean(loss(model, xs), "data"), model)
        )(model)

    function = jax.shard_map(part, mesh=AUTO, in_specs=(P(), P("data")), out_specs=P())
    expected = jax.jit(jax.grad(lambda model: sharpness(lambda model: loss(model, xs), model)))(
        MODELS["small"]
    )
    return facts(function, (MODELS["small"], xs), expected)


def without_jit() -> dict[str, Any]:
    """`jax.shard_map` outside of `jax.jit`."""
    function = jax.shard_map(scan, mesh=AUTO, in_specs=(P(), P("data")), out_specs=P("data"))
    found, expected = function(MODELS["small"], xs), scan(MODELS["small"], xs)
    pairs = zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True)
    return {"error": float(max(np.max(np.abs(np.asarray(a) - np.asarray(b))) for a, b in pairs))}


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    others = [
        ("deep", "scan"),
        ("deep", "plain"),
        ("linear", "associative"),
        ("small", "reference"),
    ]
    for way in WAYS:
        typed = way in ("by_typed_shard_map", "by_explicit_mesh")
        for name, backend in [("deep", "native"), *(others if typed else [])]:
            found[f"{way} {backend}"] = functools.partial(training, way, name, backend)
        found[f"{way} memory"] = functools.partial(training, way, "memory", "native")
        if typed:
            found[f"{way} stored"] = functools.partial(training, way, "stored", "native")
    simple = (
        inference,
        explicit_inference,
        explicit_context,
        uneven,
        sharded_weights,
        two_meshes,
        in_shardings,
        constraint,
    )
    found |= {
        case.__name__: case for case in (*simple, mapped_weights, second_derivatives, without_jit)
    }
    return found | {
        "two axes": functools.partial(axes_of_two, ("a", "b")),
        "the second axis": functools.partial(axes_of_two, "b"),
        "time too": functools.partial(axes_of_two, "a", "b"),
        "mapped": functools.partial(mapped, AUTO),
        "mapped explicit": functools.partial(mapped, EXPLICIT),
        "mapped outside": functools.partial(mapped_batches, "a"),
        "mapped inside": functools.partial(mapped_batches, "a", "b"),
        "steps": functools.partial(single_steps, AUTO),
        "steps explicit": functools.partial(single_steps, EXPLICIT),
        "part of a mesh": functools.partial(part_of_a_mesh, False),
        "part of a mesh, typed": functools.partial(part_of_a_mesh, True),
    }


if __name__ == "__main__":
    found, known = {}, cases()
    for name in sys.argv[1:] or known:
        try:
            found[name] = known[name]()
        except Exception as error:
            found[name] = {
                "raised": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
    print(json.dumps(found))
