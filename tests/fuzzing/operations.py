"""The operations that random cells are made of: functions of vectors, by their names in JAX.

An operation is called on vectors of moderate numbers. A *domain* takes these to where the
operation is defined and well conditioned: far from poles, and from jumps at usual numbers:
0, 1 and 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]


#: What the oldest JAX that is supported does not have.
NEWER = frozenset(("lax.mulhi",))


def is_there(name: str) -> bool:
    """Whether this version of JAX has a function."""
    return name not in NEWER or hasattr(jax.lax, name.removeprefix("lax."))


def named(name: str) -> Function:
    """A function by its name: ``jnp.tanh``, ``lax.erf``, ``nn.relu``."""
    module, *path = name.split(".")
    found: Any = {"jnp": jnp, "lax": jax.lax, "nn": jax.nn}[module]
    return reduce(getattr, path, found)


@dataclass(frozen=True)
class Operation:
    """A function of ``arity`` vectors of one length; its result has that length if it ``keeps`` it.

    ``native`` operations have machine code, in the form that they have here.
    """

    function: Function
    arity: int = 1
    keeps: bool = True
    native: bool = True


# --- domains --------------------------------------------------------------------------------------

_WHOLE = jnp.int32


def whole(a: Any) -> Any:
    """Whole numbers. Not 5 times: 1 on one backend and the next below on another are at a jump."""
    return (4.7123 * a).astype(_WHOLE)


DOMAINS: dict[str, Function] = {
    "any": lambda a: a,
    "small": jnp.tanh,
    "unit": lambda a: 0.9 * jnp.sin(a),
    "positive": lambda a: 0.3 + jnp.abs(a),
    "above one": lambda a: 1.2 + jnp.abs(a),
    "away": lambda a: 2 + jnp.cos(a),
    "not zero": lambda a: a + 0.3,  # a state is often zero
    "stepped": lambda a: 3 * a + 0.1234,
    "whole": whole,
    "unsigned": lambda a: (4.7123 * jnp.abs(a)).astype(jnp.uint8),
    "bits": lambda a: (jnp.abs(a) * 1.7123).astype(_WHOLE) & 7,
    "truth": lambda a: a > 0.1234,
}

#: Element-wise functions of one vector.
UNARY: dict[str, tuple[str, str]] = {
    "any": (
        "jnp.abs jnp.absolute jnp.arctan jnp.arcsinh jnp.atan jnp.asinh jnp.copy jnp.cos "
        "jnp.isfinite jnp.isinf jnp.isnan jnp.isneginf jnp.isposinf jnp.isreal jnp.negative "
        "jnp.ones_like jnp.positive jnp.real jnp.sign jnp.sin jnp.square jnp.tanh "
        "jnp.zeros_like jnp.conj jnp.imag jnp.fabs jnp.deg2rad jnp.radians lax.abs lax.asinh "
        "lax.atan lax.cos lax.erf lax.erfc lax.is_finite lax.logistic lax.neg lax.sign lax.sin "
        "lax.square lax.stop_gradient lax.tanh lax.optimization_barrier nn.relu nn.relu6 "
        "nn.sigmoid nn.softplus nn.soft_sign nn.silu nn.swish nn.log_sigmoid nn.leaky_relu "
        "nn.hard_sigmoid nn.hard_silu nn.hard_swish nn.hard_tanh nn.elu nn.celu nn.selu "
        "nn.gelu nn.squareplus nn.mish nn.identity nn.sparse_plus nn.sparse_sigmoid nn.tanh",
        "lax.bessel_i0e lax.bessel_i1e jnp.sinc",
    ),
    "small": (
        "jnp.cosh jnp.degrees jnp.exp jnp.exp2 jnp.expm1 jnp.rad2deg jnp.sinh lax.cosh lax.exp "
        "lax.exp2 lax.expm1 lax.sinh",
        "",
    ),
    "unit": (
        "jnp.arccos jnp.arcsin jnp.arctanh jnp.acos jnp.asin jnp.atanh jnp.tan lax.acos "
        "lax.asin lax.atanh lax.tan",
        "lax.erf_inv",
    ),
    "positive": (
        "jnp.cbrt jnp.log jnp.log10 jnp.log1p jnp.log2 jnp.sqrt lax.cbrt lax.log lax.log1p "
        "lax.rsqrt lax.sqrt nn.log1mexp",
        "lax.digamma lax.lgamma",
    ),
    "above one": ("jnp.arccosh jnp.acosh lax.acosh", ""),
    "away": ("jnp.reciprocal lax.reciprocal", ""),
    # At zero, JAX's derivative of a value that `jax.vjp(jnp.i0, x)` returns is 1 instead of 0.
    "not zero": ("", "jnp.i0"),
    "stepped": (
        "jnp.ceil jnp.floor jnp.rint jnp.round jnp.trunc lax.ceil lax.floor lax.round jnp.signbit",
        "",
    ),
    "whole": (
        "jnp.bitwise_not jnp.invert lax.bitwise_not",
        "lax.clz lax.population_count jnp.bitwise_count",
    ),
    "unsigned": ("", ""),
    "truth": ("jnp.logical_not", ""),
}

#: Element-wise functions of two vectors.
BINARY: dict[tuple[str, str], tuple[str, str]] = {
    ("any", "any"): (
        "jnp.add jnp.subtract jnp.multiply jnp.maximum jnp.minimum jnp.fmax jnp.fmin "
        "jnp.logaddexp jnp.logaddexp2 jnp.equal jnp.not_equal jnp.less jnp.less_equal "
        "jnp.greater jnp.greater_equal jnp.isclose jnp.copysign lax.add lax.sub lax.mul "
        "lax.max lax.min lax.eq lax.ne lax.lt lax.le lax.gt lax.ge",
        "jnp.convolve",
    ),
    ("any", "away"): (
        "jnp.divide jnp.true_divide jnp.arctan2 jnp.atan2 jnp.fmod jnp.remainder jnp.mod "
        "jnp.floor_divide lax.div lax.atan2 lax.rem",
        "",
    ),
    ("any", "positive"): ("jnp.hypot", ""),
    ("positive", "small"): ("jnp.power jnp.pow jnp.float_power lax.pow", ""),
    ("positive", "positive"): ("", "lax.igamma lax.igammac"),
    ("any", "stepped"): ("jnp.heaviside", ""),
    ("whole", "whole"): (
        "jnp.bitwise_and jnp.bitwise_or jnp.bitwise_xor lax.bitwise_and lax.bitwise_or "
        "lax.bitwise_xor",
        "jnp.gcd jnp.lcm",
    ),
    ("unsigned", "unsigned"): ("lax.mulhi", ""),
    ("whole", "bits"): (
        "",
        "jnp.left_shift jnp.right_shift lax.shift_left lax.shift_right_arithmetic "
        "lax.shift_right_logical",
    ),
    ("small", "bits"): ("jnp.ldexp", ""),
    ("truth", "truth"): ("jnp.logical_and jnp.logical_or jnp.logical_xor", ""),
}
#: From a vector to one number.
REDUCING: dict[str, tuple[str, str]] = {
    "any": (
        "jnp.amax jnp.amin jnp.average jnp.max jnp.mean jnp.min jnp.nanmax jnp.nanmean "
        "jnp.nanmin jnp.nansum jnp.ptp jnp.sum jnp.trapezoid nn.logsumexp",
        "jnp.argmax jnp.argmin jnp.median jnp.nanmedian jnp.nanargmax",
    ),
    "positive": ("jnp.var jnp.nanvar", "jnp.prod jnp.nanprod"),
    "truth": ("", "jnp.all jnp.any jnp.count_nonzero"),
}


def _elementwise(name: str, *domains: str) -> Function:
    function, guards = named(name), [DOMAINS[domain] for domain in domains]

    def call(*vectors: Any) -> Any:
        found = function(*(guard(a) for guard, a in zip(guards, vectors, strict=True)))
        return found[: len(vectors[0])].astype(vectors[0].dtype)

    return call


def _reducing(name: str, domain: str) -> Function:
    def call(a: Any) -> Any:
        number = named(name)(DOMAINS[domain](a)).astype(a.dtype)
        return a * jnp.tanh(number)

    return call


def table() -> dict[str, Operation]:
    """Every operation by its name."""
    from fuzzing.shapes import MATRICES, SHAPES, SPECIAL

    found: dict[str, Operation] = {}

    def add(name: str, function: Function, **facts: Any) -> None:
        assert name not in found, name
        found[name] = Operation(function, **facts)

    for group, arity, make in (
        ({(k,): v for k, v in UNARY.items()}, 1, _elementwise),
        (BINARY, 2, _elementwise),
        ({(k,): v for k, v in REDUCING.items()}, 1, _reducing),
    ):
        for domains, names in group.items():
            for native, some in zip((True, False), names, strict=True):
                for name in filter(is_there, some.split()):
                    add(name, make(name, *domains), arity=arity, native=native)
    for others, keeps in ((SPECIAL, True), (SHAPES, False), (MATRICES, False)):
        for name, (native, function) in others.items():
            named(name)
            add(name, function, arity=function.__code__.co_argcount, keeps=keeps, native=native)
    return found


# --- complex numbers ------------------------------------------------------------------------------

#: Functions of three complex numbers of moderate size and of a real one between -1 and 1.
COMPLEX: dict[str, Function] = {
    "turn": lambda z, x: z * jnp.exp(0.3j * x) + x,
    "decay": lambda z, x: (0.6 + 0.5j) * z + 1j * x,
    "mix": lambda z, x: z @ ((0.1 - 0.05j) * jnp.arange(9).reshape(3, 3)).astype(z.dtype) + x,
    "gate": lambda z, x: jax.nn.sigmoid(z) * z + jax.nn.sigmoid(z.imag),
    "bend": lambda z, x: jnp.tanh(0.5 * z + x.astype(z.dtype)),
    "divide": lambda z, x: (z + 1j) / (2 + 0.3 * jnp.sin(z.real) + 0.4j * x),
    # At zero, where a state often is, the absolute value has no second derivative.
    "sizes": lambda z, x: jax.lax.complex(jnp.abs(z + 0.3), z.real * x),
    "angles": lambda z, x: z + jnp.cos(jnp.angle(z + 3)) + jnp.log(z + 3),
    "shift": lambda z, x: jnp.concatenate([z[1:], z[:1].conj()]) ** 2 + 0.1j,
    "choose": lambda z, x: jnp.where(z.real > 0.1234, z, x * z.conj()) + z.sum() / 3,
}
