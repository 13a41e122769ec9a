"""Equations on matrices of any size, in the forms for which there are loops over rows.

Products become element-wise products of broadcasts, and a sum over one axis. Nothing of this is
stored: the loop over rows reads the numbers where they are::

    v M       sum over rows of (v[:, None] * M)
    M q       sum over features of (M * q[None, :])
    u wᵀ      u[:, None] * w[None, :]
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.native.lower.supported import is_sized, kind_of
from noria.ir.graph import Equation
from noria.ir.primitives import COMBINE, ELEMENTWISE

Function = Callable[..., list[Any]]


def on_rows(equation: Equation) -> Function | None:
    """A JAX function with the results of an equation; ``None`` if there is no such form."""
    name = equation.name
    if name == "dot_general":
        return _product(equation)
    if name in COMBINE and equation.inputs[0].aval.ndim > 1:
        return lambda a: [_reduced(equation, a)]
    if name in _MOVES:
        return _MOVES[name](equation)
    shape = equation.outputs[0].aval.shape
    if name in ELEMENTWISE and any(v.aval.shape not in ((), shape) for v in equation.inputs):
        return lambda *arrays: equation.bind(
            *(jnp.broadcast_to(a, shape) if a.ndim else a for a in arrays)
        )
    return None


def _reduced(equation: Equation, a: jax.Array) -> jax.Array:
    """One axis after the other, the last one first; axes of one element are dropped."""
    for axis in sorted(equation.params["axes"], reverse=True):
        if a.shape[axis] == 1:
            a = a.reshape(*a.shape[:axis], *a.shape[axis + 1 :])
        else:
            a = equation.primitive.bind(a, **{**equation.params, "axes": (axis,)})
    return a


def _product(equation: Equation) -> Function | None:
    """The axes are ordered so that the larger operand is read along its rows."""
    (left, right), batch = equation.params["dimension_numbers"]
    a, b = (v.aval for v in equation.inputs)
    dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
    if len(dtypes) > 1 or (left and kind_of(a.dtype) != "f"):
        return None
    # Names of axes: first the axes of the left operand by number, then of the right one.
    names_a = list(range(a.ndim))
    names_b = [a.ndim + n for n in range(b.ndim)]
    for one, two in (*zip(left, right, strict=True), *zip(*batch, strict=True)):
        names_b[two] = names_a[one]
    result = [names_a[n] for n in batch[0]]
    result += [n for n in names_a if n not in result and n not in left]
    result += [n for n in names_b if n not in names_a]
    shapes = dict(zip((*names_a, *names_b), (*a.shape, *b.shape), strict=True))
    summed = [names_a[n] for n in left]
    order = _order(names_a, names_b, [names_a[n] for n in batch[0]], summed)

    def product(x: jax.Array, y: jax.Array) -> list[jax.Array]:
        terms = _spread(x, names_a, order, shapes) * _spread(y, names_b, order, shapes)
        if summed:
            terms = terms.sum([order.index(n) for n in summed])
        kept = [n for n in order if n not in summed]
        turned = [kept.index(n) for n in result]
        return [terms if turned == sorted(turned) else terms.transpose(turned)]

    return product


def _order(
    a: Sequence[int], b: Sequence[int], batch: Sequence[int], summed: Sequence[int]
) -> list[int]:
    """The axes of a product in the order of the loops: heads, rows, features.

    The last axis should be the last of an operand with rows. For two matrices the summed axis is
    between the free ones, unless it is the last of both.
    """
    free_a, free_b = ([n for n in some if n not in batch and n not in summed] for some in (a, b))
    if not summed or not free_a or not free_b:
        whole = a if len(a) >= len(b) else b
        inner = [n for n in whole if n not in batch]
        rest = [n for n in (*free_a, *free_b) if n not in inner]
        return [*batch, *rest, *inner] if summed else [*batch, *free_a, *free_b]
    if a[-1] == b[-1] and a[-1] in summed:
        return [*batch, *free_a, *free_b, *summed]
    if b[-1] in free_b:
        return [*batch, *free_a, *summed, *free_b]
    return [*batch, *free_b, *summed, *free_a]


def _spread(
    x: jax.Array, names: Sequence[int], order: Sequence[int], shapes: dict[int, int]
) -> jax.Array:
    """An operand with all axes of a product, in order."""
    turned = sorted(range(x.ndim), key=lambda n: order.index(names[n]))
    if turned != sorted(turned):
        x = x.transpose(turned)
    places = [order.index(names[n]) for n in turned]
    return jax.lax.broadcast_in_dim(x, tuple(shapes[n] for n in order), places)


# --- moves ----------------------------------------------------------------------------------------


def pad(equation: Equation) -> Function | None:
    """One axis after the other; negative padding cuts."""
    config = equation.params["padding_config"]
    if not is_sized(equation):
        return None

    def padded(a: jax.Array, value: jax.Array) -> list[jax.Array]:
        for axis, (low, high, between) in enumerate(config):
            if between and a.shape[axis] > 1:
                a = _apart(a, value, axis, between)
            if min(low, high) < 0:
                stop = a.shape[axis] - max(0, -high)
                a = jax.lax.slice_in_dim(a, max(0, -low), stop, axis=axis)
            before, after = (
                [jnp.broadcast_to(value, (*a.shape[:axis], n, *a.shape[axis + 1 :]))]
                if n > 0
                else []
                for n in (low, high)
            )
            if before or after:
                a = jnp.concatenate([*before, a, *after], axis)
        return [a]

    return padded


def _apart(a: jax.Array, value: jax.Array, axis: int, between: int) -> jax.Array:
    """``between`` times a value after each element along an axis, but the last one."""
    count, after = a.shape[axis], axis + 1
    gaps = jnp.broadcast_to(value, (*a.shape[:after], between, *a.shape[after:]))
    both = jnp.concatenate([jnp.expand_dims(a, after), gaps], after)
    whole = both.reshape(*a.shape[:axis], count * (between + 1), *a.shape[after:])
    return jax.lax.slice_in_dim(whole, 0, count * (between + 1) - between, axis=axis)


def _stack(equation: Equation) -> Function:
    axis = equation.params["axis"]
    return lambda *arrays: [jnp.concatenate([jnp.expand_dims(a, axis) for a in arrays], axis)]


def _unstack(equation: Equation) -> Function:
    axis = equation.params["axis"]
    return lambda a: [
        jax.lax.index_in_dim(a, n, axis, keepdims=False) for n in range(a.shape[axis])
    ]


def _tile(equation: Equation) -> Function:
    """A broadcast along a new axis before each."""
    counts = equation.params["reps"]

    def tile(a: jax.Array) -> list[jax.Array]:
        shape = (1,) * (len(counts) - a.ndim) + a.shape
        wide = [n for pair in zip(counts, shape, strict=True) for n in pair]
        spread = jax.lax.broadcast_in_dim(
            a.reshape(shape), wide, [2 * n + 1 for n in range(len(shape))]
        )
        return [spread.reshape([math.prod(pair) for pair in zip(counts, shape, strict=True)])]

    return tile


def _on_the_right(equation: Equation) -> Function | None:
    """``A x = b`` for a triangle as ``x A = b`` with its transpose: right sides are rows."""
    if not equation.params["left_side"]:
        return None
    turned = not equation.params["transpose_a"]
    params = {**equation.params, "left_side": False, "transpose_a": turned}

    def solve(a: jax.Array, b: jax.Array) -> list[jax.Array]:
        found = equation.primitive.bind(a, jnp.swapaxes(b, -1, -2), **params)
        return [jnp.swapaxes(found, -1, -2)]

    return solve


_MOVES: dict[str, Callable[[Equation], Function | None]] = {
    "stack": _stack,
    "tile": _tile,
    "triangular_solve": _on_the_right,
    "unstack": _unstack,
}
