"""Random cells: a few operations on vectors of random sizes, which end in the next state."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from fuzzing.images import Filter
from fuzzing.operations import COMPLEX, table
from noria._parameters import complex_dtype

OPERATIONS = table()
NATIVE = [name for name, operation in OPERATIONS.items() if operation.native]
#: What an instruction is, and how often.
KINDS = {
    "operation": 12,
    "wrapped": 1,
    "product": 5,
    "parameter": 2,
    "slice": 2,
    "concatenate": 2,
    "narrow": 1,
}
#: Arrays of the state that are not floating-point numbers of the cell's type, by what they do.
EXTRAS = ("count", "flags", "bytes", "other", "complex")
#: Arrays of the state that need no loop: the last input, a value of it, a window of inputs, a
#: counter, and a value that is emitted only.
PEELED = ("before", "older", "window", "ticks", "shown")

#: Operations that have a conversion to 32 bits in them.
IN_32_BITS = frozenset(
    (
        "jnp.quantile jnp.linalg.det jnp.linalg.inv jnp.linalg.solve lax.convert_element_type "
        "nn.dot_product_attention"
    ).split()
)


def with_own_jvp(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with half of its derivative."""
    found = jax.custom_jvp(function)

    @found.defjvp
    def rule(values: Any, tangents: Any) -> Any:
        value, tangent = jax.jvp(function, values, tangents)
        return value, tangent * jnp.asarray(0.5, tangent.dtype)

    return found


def with_own_vjp(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with twice its derivative."""
    found = jax.custom_vjp(function)
    found.defvjp(
        lambda *values: jax.vjp(function, *values),
        lambda pull, cotangent: tuple(ct + ct for ct in pull(cotangent)),
    )
    return found


#: What stands around an operation in a cell.
WRAPPERS: dict[str, Callable[..., Any]] = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "own vjp": with_own_vjp,
    "own jvp": with_own_jvp,
}

Instruction = tuple[Any, ...]


class FuzzedCell(nr.Cell):
    """Instructions on a growing list of vectors, which begins with the state and the input."""

    parameters: list[jax.Array]
    zero: tuple[jax.Array, ...]
    instructions: tuple[Instruction, ...] = eqx.field(static=True)
    following: tuple[int, ...] = eqx.field(static=True)
    extras: tuple[str, ...] = eqx.field(static=True)
    emits: str = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    peeled: tuple[str, ...] = eqx.field(static=True)
    turns: tuple[str, ...] = eqx.field(static=True, default=())
    image: Filter | None = eqx.field(static=True, default=None)

    @property
    def is_rough(self) -> bool:
        """Whether some of it is computed in 32 bits, whatever the cell's own numbers are."""
        kinds = {kind for kind, *_ in self.instructions}
        names = {what[1] if kind == "wrapped" else what for kind, what, *_ in self.instructions}
        return "narrow" in kinds or "other" in self.extras or not IN_32_BITS.isdisjoint(names)

    def values(self, state: Any, x: jax.Array, key: Any = None) -> list[Any]:
        width = len(self.following)
        found = [*state[:width], self.mixed(state, x.astype(state[0].dtype))]
        with jax.numpy_dtype_promotion("standard"):
            for instruction in self.instructions:
                found.append(self.one(found, key, *instruction))
        return found

    def kept(self, state: Any) -> dict[str, jax.Array]:
        """The arrays that need no loop, by what they are."""
        return dict(zip(self.peeled, state[len(state) - len(self.peeled) :], strict=True))

    def mixed(self, state: Any, x: jax.Array) -> jax.Array:
        """The input with what the state keeps of earlier ones."""
        kept = self.kept(state)
        if "before" in kept:
            x = x + kept["before"] * jnp.asarray(0.5, x.dtype)
        if "older" in kept:
            x = x - kept["older"]
        if "window" in kept:
            x = x + jnp.tanh(kept["window"]).sum(0)
        return x * jnp.cos(kept["ticks"]) if "ticks" in kept else x

    def one(self, found: list[Any], key: Any, kind: str, what: Any, *operands: int) -> Any:
        values = [found[n] for n in operands]
        match kind:
            case "operation":
                return OPERATIONS[what].function(*values)
            case "wrapped":
                wrapper, name = what
                return WRAPPERS[wrapper](OPERATIONS[name].function)(*values)
            case "product":
                index, transposed = what
                matrix = self.parameters[index]
                return (matrix.T if transposed else matrix) @ values[0]
            case "parameter":
                return self.parameters[what] * values[0] + self.parameters[what]
            case "slice":
                start, stop = what
                return values[0][start:stop]
            case "concatenate":
                return jnp.concatenate(values)
            case "noise":
                return (
                    values[0]
                    if key is None
                    else values[0] + jax.random.normal(key, values[0].shape, values[0].dtype)
                )
            case _:  # through the other precision and back
                return jnp.sin(values[0].astype(_other(values[0].dtype))).astype(values[0].dtype)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return self.following_state(state, x, None)

    def following_state(self, state: Any, x: jax.Array, key: Any) -> Any:
        found, width = self.values(state, x, key), len(self.following)
        new = [found[n] for n in self.following]
        if self.linear:
            new = [jnp.tanh(a) * h + 0.5 * a for a, h in zip(new, state, strict=False)]
        else:
            new = [jnp.tanh(a) for a in new]
        extras = state[width : width + len(self.extras)]
        more = [self.extra(*pair, found[-1]) for pair in zip(self.extras, extras, strict=True)]
        more += self.next_kept(self.kept(state), x.astype(state[0].dtype), found[-1])
        if "count" in self.extras and not self.linear:  # the first array pauses in every other step
            new[0] = jnp.where(state[width + self.extras.index("count")] & 1 == 0, new[0], state[0])
        if "complex" in self.extras:
            turned = more[self.extras.index("complex")]
            new[0] = new[0] + jnp.tanh(turned.real - turned.imag).sum().astype(new[0].dtype)
        if self.image is not None:
            new[0] = new[0] + jnp.tanh(more[self.extras.index("image")]).mean()
        return *new, *more

    def extra(self, kind: str, old: jax.Array, last: jax.Array) -> jax.Array:
        """The next value of an array that the cell carries besides."""
        match kind:
            case "count":
                return old + jnp.ones_like(old)
            case "flags":
                return old ^ (last[0] > 0.1234)
            case "bytes":
                return old * jnp.asarray(3, old.dtype) + (jnp.abs(last[0]) * 1.7123).astype(
                    old.dtype
                )
            case "image":
                assert self.image is not None
                x = jnp.tanh(last[-1]).astype(old.dtype)
                return self.image(old, self.parameters[-1], x)
            case "complex":
                return self.turned(old, jnp.tanh(last[-1].astype(old.real.dtype)))
            case _:
                return jnp.tanh(old * jnp.asarray(0.5, old.dtype) + last[-1].astype(old.dtype))

    def next_kept(
        self, kept: dict[str, jax.Array], x: jax.Array, last: jax.Array
    ) -> list[jax.Array]:
        """The next values of arrays that need no loop."""
        following = {
            "before": lambda: x,
            "older": lambda: jnp.tanh(kept.get("before", x)),
            "window": lambda: jnp.concatenate([kept["window"][1:], x[None]]),
            "ticks": lambda: kept["ticks"] + jnp.ones_like(kept["ticks"]),
            "shown": lambda: jnp.sin(last),
        }
        return [following[kind]() for kind in self.peeled]

    def turned(self, old: jax.Array, last: jax.Array) -> jax.Array:
        """The next complex numbers, by some operations; they stay in the unit circle."""
        new = old
        with jax.numpy_dtype_promotion("standard"):
            for name in self.turns:
                new = COMPLEX[name](new, last)
            return new / (1 + jnp.abs(new))

    def output(self, state: Any, x: jax.Array) -> Any:
        if self.emits == "state":
            return state[0]
        last = self.values(state, x)[-1]
        if self.emits == "last":
            return last
        return {
            "last": last,
            "first": state[0],
            "truth": last > 0.1234,
            "rest": state[len(self.following) :],
        }

    def initial_state(self) -> Any:
        return tuple(jnp.zeros_like(a) for a in self.zero)


class NoisyCell(FuzzedCell):
    """A cell that draws random numbers."""

    def __call__(self, state: Any, x: jax.Array, *, key: Any) -> Any:  # type: ignore[override]
        return self.following_state(state, x, key)


class Draw:
    """The instructions of one cell while they are drawn."""

    def __init__(
        self, rng: np.random.Generator, sizes: Sequence[int], features: int, names: Sequence[str]
    ):
        self.rng, self.names, self.sizes, self.features = rng, names, sizes, features
        self.linear, self.noisy = bool(rng.random() < 0.06), bool(rng.random() < 0.08)
        self.first = len(sizes) if self.linear else 0  # operands are of the input alone
        self.lengths = [*sizes, features]
        self.parameters: list[np.ndarray] = []
        self.instructions: list[Instruction] = []
        self.following: list[int] = []

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, some: Sequence[Any]) -> Any:
        return some[self.number(0, len(some) - 1)]

    def add(self, length: int, *instruction: Any) -> int:
        self.instructions.append(instruction)
        self.lengths.append(length)
        return len(self.lengths) - 1

    def weight(self, *shape: int) -> int:
        self.parameters.append(
            self.rng.normal(size=shape) / np.sqrt(shape[-1] if len(shape) > 1 else 1)
        )
        return len(self.parameters) - 1

    def product(self, n: int, length: int) -> int:
        """Now and then a weight is used twice."""
        for index, matrix in enumerate(self.parameters):
            if matrix.ndim == 2 and self.rng.random() < 0.3:
                if matrix.shape == (length, self.lengths[n]):
                    return self.add(length, "product", (index, False), n)
                if matrix.shape == (self.lengths[n], length):
                    return self.add(length, "product", (index, True), n)
        return self.add(length, "product", (self.weight(length, self.lengths[n]), False), n)

    def operation(self, name: str, n: int, wrapper: str = "") -> int:
        operation, length = OPERATIONS[name], self.lengths[n]
        same = [m for m, size in enumerate(self.lengths) if size == length and m >= self.first]
        operands = [n, *(self.pick(same) for _ in range(operation.arity - 1))]
        length = length if operation.keeps else _length(name, length)
        return self.add(
            length, *(("wrapped", (wrapper, name)) if wrapper else ("operation", name)), *operands
        )

    def one(self, kind: str) -> int:
        n = self.number(self.first, len(self.lengths) - 1)
        length = self.lengths[n]
        match kind:
            case "operation" | "wrapped":
                return self.operation(
                    self.pick(self.names), n, "" if kind == "operation" else self.pick([*WRAPPERS])
                )
            case "product":
                return self.product(n, self.number(1, 9))
            case "parameter":
                return self.add(length, kind, self.weight(length), n)
            case "slice":
                start = self.number(0, length - 1)
                stop = self.number(start + 1, length)
                return self.add(stop - start, kind, (start, stop), n)
            case "concatenate":
                others = [
                    self.number(self.first, len(self.lengths) - 1) for _ in range(self.number(1, 2))
                ]
                pieces = [n, *others]
                return self.add(sum(self.lengths[m] for m in pieces), kind, None, *pieces)
            case _:
                return self.add(length, kind, None, n)


@functools.cache
def _length(name: str, length: int) -> int:
    """Of what an operation makes of vectors of this length."""
    operation = OPERATIONS[name]
    shapes = [jax.ShapeDtypeStruct((length,), jnp.float32)] * operation.arity
    with jax.numpy_dtype_promotion("standard"):
        return int(jax.eval_shape(operation.function, *shapes).shape[0])


def drawn(seed: int) -> Draw:
    """The instructions of a cell. A third of all cells have operations without machine code."""
    rng = np.random.default_rng(seed)
    names = NATIVE if rng.random() < 0.66 else [*OPERATIONS]
    most = 40 if rng.random() < 0.12 else 10  # more than one block of vectors
    sizes, features = (
        [int(rng.integers(1, most)) for _ in range(rng.integers(1, 3))],
        int(rng.integers(1, 6)),
    )
    draw = Draw(rng, sizes, features, names)
    if draw.noisy:
        draw.add(features, "noise", None, len(sizes))
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    for _ in range(draw.number(2, 7)):
        draw.one(draw.pick(kinds))
    for size in sizes:
        new = [n for n, length in enumerate(draw.lengths) if length == size and n > len(sizes)]
        last = len(draw.lengths) - 1
        draw.following.append(new[-1] if new and rng.random() < 0.7 else draw.product(last, size))
    return draw


def random_cell(seed: int, dtype: Any) -> tuple[FuzzedCell, int]:
    """A cell, and how many features it takes."""
    draw = drawn(seed)
    extras = tuple(kind for kind in EXTRAS if draw.rng.random() < 0.12 and not draw.linear)
    weights = [jnp.asarray(p, dtype) for p in draw.parameters]
    emits = draw.pick(["state", "last", "all", "all"])
    # From numbers of their own, so that the other choices of a seed stay as they were.
    rng = np.random.default_rng([seed, 1])
    if rng.random() < 0.12 and not draw.linear:
        extras += ("complex",)
    own = np.random.default_rng([seed, 4])
    some = own.random() < 0.3
    peeled = tuple(kind for kind in PEELED if some and own.random() < 0.4)
    image, pictures = None, np.random.default_rng([seed, 5])
    if pictures.random() < 0.05 and not draw.linear:
        image = Filter.drawn(pictures)
        weights.append(jnp.asarray(image.kernel(pictures), dtype))
        extras += ("image",)
    turns = tuple(str(rng.choice([*COMPLEX])) for _ in range(rng.integers(1, 5)))
    zero = (
        *(jnp.zeros(size, dtype) for size in draw.sizes),
        *(_extra(kind, dtype, image) for kind in extras),
        *(jnp.zeros(_kept_shape(kind, draw), dtype) for kind in peeled),
    )
    make = NoisyCell if draw.noisy else FuzzedCell
    instructions, following = tuple(draw.instructions), tuple(draw.following)
    options = extras, emits, draw.linear, peeled, turns, image
    return make(weights, zero, instructions, following, *options), draw.features


def _kept_shape(kind: str, draw: Draw) -> tuple[int, ...]:
    match kind:
        case "window":
            return (3, draw.features)
        case "ticks":
            return ()
        case "shown":
            return (draw.lengths[-1],)
        case _:
            return (draw.features,)


def _extra(kind: str, dtype: Any, image: Filter | None) -> jax.Array:
    match kind:
        case "image":
            assert image is not None
            return image.zeros(dtype)
        case "count":
            return jnp.zeros((), jnp.int32)
        case "flags":
            return jnp.zeros(3, jnp.bool_)
        case "bytes":
            return jnp.zeros(2, jnp.uint8)
        case "complex":
            return jnp.zeros(3, complex_dtype(dtype))
        case _:
            return jnp.zeros(2, _other(dtype))


def _other(dtype: Any) -> Any:
    """Another precision: 32 bits, and for these 64, if there are any."""
    return (
        jnp.float64 if dtype == jnp.float32 and jax.config.read("jax_enable_x64") else jnp.float32
    )
