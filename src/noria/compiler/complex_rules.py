"""Complex arithmetic on pairs of real arrays: one rule for each primitive.

An imaginary part of ``None`` is zero, so a real number costs no arithmetic with zeros. With
``z = x + i y`` and ``w = u + i v``::

    z w       (x u - y v) + i (x v + y u)      two real products if one factor is real
    z / w     z conj(w) / |w|^2, with w and z divided by max(|u|, |v|), so that nothing overflows
    exp z     e^x (cos y + i sin y)
    log z     log |z| + i atan2(y, x)
    tanh z    (t + i s c (1 - t^2)) / (c^2 + t^2 s^2),  t = tanh x, c = cos y, s = sin y
    sigma z   p (p + q c + i q s) / ((p + q c)^2 + (q s)^2),  p = sigma(x), q = sigma(-x)
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria.ir.graph import Equation


class Pair(NamedTuple):
    """The real and the imaginary part of a complex value; ``im`` is ``None`` for zero."""

    re: Any
    im: Any = None


#: An operand or a result: a `Pair` if it is complex, an array if not.
Operand = Any

#: ``(equation, its operands) -> its results``; ``None`` if the equation has no form in pairs.
Rule = Callable[[Equation, list[Operand]], Sequence[Operand] | None]


def real_dtype(dtype: Any) -> Any:
    """The dtype of the parts of a complex number: float32 for complex64."""
    return jnp.finfo(dtype).dtype


def imaginary(pair: Pair) -> Any:
    """The imaginary part as an array."""
    return jnp.zeros_like(pair.re) if pair.im is None else pair.im


def _pair(operand: Operand) -> Pair:
    return operand if isinstance(operand, Pair) else Pair(operand)


def _unary(function: Callable[[Pair], Operand]) -> Rule:
    return lambda equation, operands: [function(_pair(operands[0]))]


# --- moves and linear operations ----------------------------------------------------------------


def _each_part(equation: Equation, operands: list[Operand]) -> list[Operand]:
    """The same operation on real parts and on imaginary parts; other operands go to both."""
    pairs = [o for o in operands if isinstance(o, Pair)]
    reals = equation.bind(*(o.re if isinstance(o, Pair) else o for o in operands))
    if all(pair.im is None for pair in pairs):
        return list(map(Pair, reals))
    parts = (imaginary(o) if isinstance(o, Pair) else o for o in operands)
    return list(map(Pair, reals, equation.bind(*parts)))


def _sum(equation: Equation, operands: list[Operand]) -> list[Operand]:
    left, right = map(_pair, operands)
    (re,) = equation.bind(left.re, right.re)
    if left.im is None and right.im is None:
        return [Pair(re)]
    if right.im is None:
        im = left.im
    elif left.im is None:
        im = -right.im if equation.name == "sub" else right.im
    else:
        (im,) = equation.bind(left.im, right.im)
    return [Pair(re, jnp.broadcast_to(im, re.shape))]


def _converted(equation: Equation, operands: list[Operand]) -> list[Operand] | None:
    dtype = equation.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.floating):  # as the derivative of a conversion to complex does
        return [_pair(operands[0]).re.astype(dtype)]
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return None  # such as to truth values
    parts = (None if a is None else a.astype(real_dtype(dtype)) for a in _pair(operands[0]))
    return [Pair(*parts)]


# --- products and quotients ---------------------------------------------------------------------


def _product(equation: Equation, operands: list[Operand]) -> list[Operand]:
    """A product of any kind: element-wise, a contraction, a convolution."""
    dtype = equation.params.get("preferred_element_type")
    if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        params = {**equation.params, "preferred_element_type": real_dtype(dtype)}
        equation = replace(equation, params=params)
    (x, y), (u, v) = map(_pair, operands)

    def times(a: Any, b: Any) -> Any:
        return None if a is None or b is None else equation.bind(a, b)[0]

    re, rest, crossed = times(x, u), times(y, v), [times(x, v), times(y, u)]
    found = [a for a in crossed if a is not None]
    im = sum(found[1:], found[0]) if found else None
    return [Pair(re if rest is None else re - rest, im)]


def _times(left: Pair, right: Pair) -> Pair:
    (x, y), (u, v) = left, right
    if y is None:
        return Pair(x * u, None if v is None else x * v)
    return Pair(x * u, y * u) if v is None else Pair(x * u - y * v, x * v + y * u)


def _quotient(equation: Equation, operands: list[Operand]) -> list[Operand]:
    (x, y), (u, v) = map(_pair, operands)
    if v is None:
        return [Pair(*(None if a is None else equation.bind(a, u)[0] for a in (x, y)))]
    # The scale cancels, so it needs no derivative.
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.abs(u), jnp.abs(v)))
    x, u, v = x / scale, u / scale, v / scale
    y = None if y is None else y / scale
    found, square = _times(Pair(x, y), Pair(u, -v)), u * u + v * v
    return [Pair(found.re / square, imaginary(found) / square)]


def _power(pair: Pair, exponent: int) -> Pair:
    """``pair ** exponent`` for a positive whole number, by repeated squaring."""
    result = None
    while exponent:
        if exponent % 2:
            result = pair if result is None else _times(result, pair)
        exponent //= 2
        pair = _times(pair, pair) if exponent else pair
    assert result is not None
    return result


def _integer_power(equation: Equation, operands: list[Operand]) -> list[Operand] | None:
    exponent = equation.params["y"]
    if exponent <= 0:
        return None
    return [_power(_pair(operands[0]), exponent)]


# --- functions ----------------------------------------------------------------------------------


@jax.custom_jvp
def _hypotenuse(x: Any, y: Any) -> Any:
    """``sqrt(x^2 + y^2)`` without overflow."""
    x, y = jnp.abs(x), jnp.abs(y)
    large, small = jnp.maximum(x, y), jnp.minimum(x, y)
    ratio = small / jnp.where(large == 0, 1, large)
    return large * jnp.sqrt(1 + ratio * ratio)


@_hypotenuse.defjvp
def _hypotenuse_jvp(primals: Any, tangents: Any) -> Any:
    """As JAX's derivative of the absolute value: zero at zero."""
    (x, y), (dx, dy) = primals, tangents
    length = _hypotenuse(x, y)
    safe = jnp.where(length == 0, 1, length)
    return length, x / safe * dx + y / safe * dy


def _absolute(pair: Pair) -> Any:
    return jnp.abs(pair.re) if pair.im is None else _hypotenuse(*pair)


def _sign(pair: Pair) -> Pair:
    """``z / |z|``; in JAX its derivative is zero."""
    if pair.im is None:
        return Pair(jnp.sign(pair.re))
    x, y = map(jax.lax.stop_gradient, pair)
    length = _hypotenuse(x, y)
    safe = jnp.where(length == 0, 1, length)
    return Pair(x / safe, y / safe)


def _exponential(pair: Pair) -> Pair:
    size = jnp.exp(pair.re)
    if pair.im is None:
        return Pair(size)
    return Pair(size * jnp.cos(pair.im), size * jnp.sin(pair.im))


def _exponential_minus_one(pair: Pair) -> Pair:
    x, y = pair.re, imaginary(pair)
    half = jnp.sin(y / 2)  # 1 - cos y = 2 sin^2(y / 2)
    return Pair(jnp.expm1(x) * jnp.cos(y) - 2 * half * half, jnp.exp(x) * jnp.sin(y))


def _logarithm(pair: Pair) -> Pair:
    return Pair(jnp.log(_absolute(pair)), jnp.arctan2(imaginary(pair), pair.re))


def _tanh(pair: Pair) -> Pair:
    t, y = jnp.tanh(pair.re), imaginary(pair)
    c, s = jnp.cos(y), jnp.sin(y)
    square = c * c + t * t * s * s
    return Pair(t / square, s * c * (1 - t * t) / square)


def _sigmoid(pair: Pair) -> Pair:
    p, q, y = jax.nn.sigmoid(pair.re), jax.nn.sigmoid(-pair.re), imaginary(pair)
    u, v = p + q * jnp.cos(y), q * jnp.sin(y)
    scale = p / (u * u + v * v)
    return Pair(scale * u, scale * v)


def _sine(pair: Pair) -> Pair:
    x, y = pair.re, imaginary(pair)
    return Pair(jnp.sin(x) * jnp.cosh(y), jnp.cos(x) * jnp.sinh(y))


def _cosine(pair: Pair) -> Pair:
    x, y = pair.re, imaginary(pair)
    return Pair(jnp.cos(x) * jnp.cosh(y), -jnp.sin(x) * jnp.sinh(y))


def _hyperbolic_sine(pair: Pair) -> Pair:
    x, y = pair.re, imaginary(pair)
    return Pair(jnp.sinh(x) * jnp.cos(y), jnp.cosh(x) * jnp.sin(y))


def _hyperbolic_cosine(pair: Pair) -> Pair:
    x, y = pair.re, imaginary(pair)
    return Pair(jnp.cosh(x) * jnp.cos(y), jnp.sinh(x) * jnp.sin(y))


def _equality(equation: Equation, operands: list[Operand]) -> list[Operand]:
    left, right = map(_pair, operands)
    (re,) = equation.bind(left.re, right.re)
    (im,) = equation.bind(imaginary(left), imaginary(right))
    return [re & im if equation.name == "eq" else re | im]


# --- the table ----------------------------------------------------------------------------------

#: Moves. They are also applied to parameters, so that a product meets a transposed real part and
#: no real part of a transpose.
MOVES: dict[str, Rule] = {
    **dict.fromkeys(
        "broadcast_in_dim concatenate copy copy_p dynamic_slice dynamic_update_slice expand_dims "
        "gather pad reshape rev select_n slice split squeeze stack stop_gradient tile transpose "
        "unstack".split(),
        _each_part,
    ),
    "complex": lambda equation, operands: [Pair(*operands)],
    "conj": _unary(lambda pair: Pair(pair.re, None if pair.im is None else -pair.im)),
    "convert_element_type": _converted,
    "imag": _unary(imaginary),
    "real": _unary(lambda pair: pair.re),
}

RULES: dict[str, Rule] = MOVES | {
    "abs": _unary(_absolute),
    "add": _sum,
    "add_any": _sum,
    "conv_general_dilated": _product,
    "cos": _unary(_cosine),
    "cosh": _unary(_hyperbolic_cosine),
    "cumsum": _each_part,
    "div": _quotient,
    "dot_general": _product,
    "eq": _equality,
    "exp": _unary(_exponential),
    "expm1": _unary(_exponential_minus_one),
    "integer_pow": _integer_power,
    "log": _unary(_logarithm),
    "logistic": _unary(_sigmoid),
    "mul": _product,
    "ne": _equality,
    "neg": _each_part,
    "reduce_sum": _each_part,
    "sign": _unary(_sign),
    "sin": _unary(_sine),
    "sinh": _unary(_hyperbolic_sine),
    "square": _unary(lambda pair: _power(pair, 2)),
    "sub": _sum,
    "tanh": _unary(_tanh),
}
