"""Random cells: a few primitives after one another, on vectors of random sizes, ending in the next state."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr

UNARY: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "exp": lambda a: jnp.exp(-jnp.abs(a)),
    "expm1": lambda a: jnp.expm1(-(a**2)),
    "log": lambda a: jnp.log(0.5 + jnp.abs(a)),
    "log1p": lambda a: jnp.log1p(a**2),
    "sqrt": lambda a: jnp.sqrt(0.3 + jnp.abs(a)),
    "rsqrt": lambda a: jax.lax.rsqrt(1 + a**2),
    "erf": jax.lax.erf,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "cube": lambda a: jnp.tanh(a) ** 3,
    "reciprocal": lambda a: (2 + jnp.cos(a)) ** -2,
    "negative": jnp.negative,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "floor": lambda a: jnp.floor(3 * a),
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "clip": lambda a: jnp.clip(a, -0.4, 0.6),
    "stop": jax.lax.stop_gradient,
    # Not 5: an activation that comes to 1 on one backend, and to the number below on the other, would be at a jump.
    "whole": lambda a: (4.7123 * a).astype(jnp.int32).astype(a.dtype),
    "finite": lambda a: jnp.where(jnp.isfinite(a), a, jnp.zeros_like(a)),
    "square": lambda a: a.reshape(1, -1)[0] * jnp.square(a),
    "halves": lambda a: jnp.tanh(a.reshape(2, -1)).reshape(-1) if a.size % 2 == 0 else a,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b**2),
    "max": jnp.maximum,
    "min": jnp.minimum,
    "pow": lambda a, b: (0.5 + a**2) ** jnp.tanh(b),
    "atan2": lambda a, b: jnp.arctan2(a, 1 + b**2),
    "where": lambda a, b: jnp.where(a > b, jnp.sin(a), b),
    "logic": lambda a, b: jnp.where(~(a > 0) & (b <= 0.5) | (a != a), a, 0.5 * b),
    "first": lambda a, b: jnp.where(a[0] > b[-1], a * b[-1], a[0] + b),
}
#: From a vector to one number, and back to a vector.
OVER_FEATURES: dict[str, Callable[[Any], Any]] = {
    "sum": lambda a: a * jnp.tanh(a.sum()),
    "mean": lambda a: a - a.mean(),
    "max": lambda a: a - a.max(),
    "min": lambda a: jnp.broadcast_to(a.min(), a.shape),
    "norm": lambda a: a / jnp.sqrt(1 + jnp.vdot(a, a)),
    "layer_norm": lambda a: (a - a.mean()) * jax.lax.rsqrt(a.var() + 0.3),
    "softmax": jax.nn.softmax,
    "logsumexp": lambda a: jnp.full_like(a, 0.3) * jax.nn.logsumexp(a),
}
#: What an instruction is, and how often.
KINDS = {"unary": 6, "binary": 6, "product": 5, "parameter": 2, "slice": 3, "concatenate": 3, "over": 3, "narrow": 1}

Instruction = tuple[Any, ...]


class FuzzedCell(nr.Cell):
    """Instructions on a growing list of vectors, which begins with the arrays of the state and the input."""

    parameters: list[jax.Array]
    zero: tuple[jax.Array, ...]
    instructions: tuple[Instruction, ...] = eqx.field(static=True)
    following: tuple[int, ...] = eqx.field(static=True)
    counts: bool = eqx.field(static=True)

    def values(self, state: Any, x: jax.Array) -> list[Any]:
        found = [*state[: len(self.following)], x]
        for instruction in self.instructions:
            found.append(self.one(found, *instruction))
        return found

    def one(self, found: list[Any], kind: str, what: Any, *operands: int) -> Any:
        values = [found[n] for n in operands]
        match kind:
            case "unary":
                return UNARY[what](*values)
            case "binary":
                return BINARY[what](*values)
            case "over":
                return OVER_FEATURES[what](*values)
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
            case _:  # through the other precision and back
                other = jnp.float32 if values[0].dtype == jnp.float64 else jnp.float64
                return jnp.sin(values[0].astype(other)).astype(values[0].dtype)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        found = self.values(state, x)
        new = tuple(jnp.tanh(found[n]) for n in self.following)
        if not self.counts:
            return new
        count = state[-1]  # the first array pauses in every other step
        return jnp.where(count & 1 == 0, new[0], state[0]), *new[1:], count + 1

    def output(self, state: Any, x: jax.Array) -> Any:
        return {"last": self.values(state, x)[-1], "first": state[0]}

    def initial_state(self) -> Any:
        return tuple(jnp.zeros_like(a) for a in self.zero)


def random_cell(seed: int, dtype: Any) -> tuple[FuzzedCell, int]:
    """A cell, and how many features it takes."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: int(rng.integers(low, high + 1))  # noqa: E731
    pick = lambda names: names[draw(0, len(names) - 1)]  # noqa: E731
    sizes = [draw(1, 9) for _ in range(draw(1, 2))]
    width, features = len(sizes), draw(1, 5)
    lengths = [*sizes, features]
    parameters: list[np.ndarray] = []
    instructions: list[Instruction] = []

    def add(length: int, *instruction: Any) -> int:
        instructions.append(instruction)
        lengths.append(length)
        return len(lengths) - 1

    def product(n: int, length: int) -> int:
        for index, matrix in enumerate(parameters):  # now and then a weight is used twice
            if matrix.ndim == 2 and rng.random() < 0.3:
                if matrix.shape == (length, lengths[n]):
                    return add(length, "product", (index, False), n)
                if matrix.shape == (lengths[n], length):
                    return add(length, "product", (index, True), n)
        parameters.append(rng.normal(size=(length, lengths[n])) / np.sqrt(lengths[n]))
        return add(length, "product", (len(parameters) - 1, False), n)

    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    for _ in range(draw(2, 9)):
        kind, n = pick(kinds), draw(0, len(lengths) - 1)
        length = lengths[n]
        match kind:
            case "unary":
                add(length, kind, pick(list(UNARY)), n)
            case "over":
                add(length, kind, pick(list(OVER_FEATURES)), n)
            case "binary":
                add(length, kind, pick(list(BINARY)), n, pick([m for m, size in enumerate(lengths) if size == length]))
            case "product":
                product(n, draw(1, 9))
            case "parameter":
                parameters.append(rng.normal(size=length))
                add(length, kind, len(parameters) - 1, n)
            case "slice":
                start = draw(0, length - 1)
                stop = draw(start + 1, length)
                add(stop - start, kind, (start, stop), n)
            case "concatenate":
                pieces = [n, *(draw(0, len(lengths) - 1) for _ in range(draw(1, 2)))]
                add(sum(lengths[m] for m in pieces), kind, None, *pieces)
            case _:
                add(length, kind, None, n)
    following = []
    for size in sizes:
        new = [n for n, length in enumerate(lengths) if length == size and n > width]
        following.append(new[-1] if new and rng.random() < 0.7 else product(len(lengths) - 1, size))
    zero = tuple(jnp.zeros(size, dtype) for size in sizes)
    counts = rng.random() < 0.2
    if counts:
        zero = (*zero, jnp.zeros((), jnp.int32))
    weights = [jnp.asarray(p, dtype) for p in parameters]
    return FuzzedCell(weights, zero, tuple(instructions), tuple(following), bool(counts)), features
