"""A JAX function evaluated equation by equation in NumPy: an oracle that shares no code with XLA.

A random cell is run once: XLA would spend a hundred times longer on compiling it than on running
it. Numbers of 16 bits are computed in 32 and rounded after each equation. JAX runs the primitives
for which NumPy has no function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import scipy.special as special  # type: ignore[import-untyped]
from jax.interpreters import partial_eval as pe

from noria._jax import parts_of

Rule = Callable[..., Any]
Noise = Callable[[Any], Any]
#: What rounds nothing.
_EXACT = frozenset(
    "neg abs max min eq ne lt le gt ge and or xor not copy copy_p stop_gradient real imag conj "
    "sign clamp select_n floor ceil round convert_element_type broadcast_in_dim reshape squeeze "
    "complex expand_dims transpose rev concatenate slice pad iota reduce_max "
    "reduce_min argmax argmin cummax cummin".split()
)
#: Calls of functions.
_OPENED = frozenset(
    "jit pjit closed_call core_call checkpoint remat remat2 custom_jvp_call custom_vjp_call".split()
)


def evaluated(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, without what its results do not need."""
    return Evaluated(function, *arguments)(*arguments)


class Evaluated:
    """A function, traced for arguments like these."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        jaxpr, self.consts = parts_of(closed)
        self.jaxpr, self.used = pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        self.tree = jtu.tree_structure(shapes)

    def __call__(self, *arguments: Any, noise: Noise = np.asarray) -> Any:
        """``noise`` is what each result of arithmetic goes through."""
        leaves = [a for a, used in zip(jtu.tree_leaves(arguments), self.used, strict=True) if used]
        with np.errstate(all="ignore"):
            return jtu.tree_unflatten(self.tree, run(noise, self.jaxpr, self.consts, leaves))


def run(noise: Noise, jaxpr: Any, consts: Any, arguments: Any) -> list[Any]:
    """The results of a jaxpr."""
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]

    for names, arrays in ((jaxpr.constvars, consts), (jaxpr.invars, arguments)):
        values.update(zip(names, map(_known, arrays), strict=True))
    for equation in jaxpr.eqns:
        found = _results(noise, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _known(array: Any) -> Any:
    """As NumPy has it; random keys stay JAX's."""
    return array if _is_key(array) else np.asarray(array)


def _is_key(array: Any) -> bool:
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.extended)


def _results(noise: Noise, equation: Any, inputs: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _CALLS[name](
            lambda inner, arrays: run(noise, *parts_of(inner), arrays), equation, inputs
        )
    if name in _OPENED:
        inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)
        return run(noise, *parts_of(inner), inputs)
    if name in _RULES and not any(map(_is_key, inputs)):
        (output,) = equation.outvars
        dtype = output.aval.dtype
        found = np.asarray(_RULES[name](*map(_wide, inputs), **params))
        assert found.shape == output.aval.shape, (name, found.shape, output.aval.shape)
        noisy = name not in _EXACT and jnp.issubdtype(dtype, np.inexact)
        return [(noise(found) if noisy else found).astype(dtype, copy=False)]
    found = equation.primitive.bind(*inputs, **params)
    return [_known(a) for a in (found if equation.primitive.multiple_results else [found])]


def _wide(array: Any) -> Any:
    return (
        array.astype(np.float32)
        if array.dtype.itemsize == 2 and jnp.issubdtype(array.dtype, np.floating)
        else array
    )


# --- what calls -----------------------------------------------------------------------------------


def _cond(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    branches = equation.params["branches"]
    return run(branches[int(np.clip(int(inputs[0]), 0, len(branches) - 1))], inputs[1:])


def _while(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    params, one = equation.params, equation.params["cond_nconsts"]
    two = one + params["body_nconsts"]
    carry = inputs[two:]
    while np.any(go_on := np.asarray(run(params["cond_jaxpr"], [*inputs[:one], *carry])[0])):
        after = run(params["body_jaxpr"], [*inputs[one:two], *carry])
        # A condition with axes in front, from vmap: examples that have finished stay as they are.
        carry = [
            np.where(np.expand_dims(go_on, tuple(range(go_on.ndim, np.ndim(b)))), b, a)
            if go_on.ndim
            else b
            for a, b in zip(carry, after, strict=True)
        ]
    return carry


def _scan(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    """What has no axis of the rounds is the same in all of them, or carried."""
    params, (inner, _) = equation.params, parts_of(equation.params["jaxpr"])
    carried = sum(
        v.aval.ndim == w.aval.ndim for v, w in zip(equation.outvars, inner.outvars, strict=True)
    )
    first = sum(
        v.aval.ndim == w.aval.ndim for v, w in zip(equation.invars, inner.invars, strict=True)
    )
    known, carry, stacks = (
        inputs[: first - carried],
        inputs[first - carried : first],
        inputs[first:],
    )
    rounds: list[Any] = [None] * params["length"]
    for k in reversed(range(len(rounds))) if params["reverse"] else range(len(rounds)):
        found = run(params["jaxpr"], [*known, *carry, *(a[k] for a in stacks)])
        carry, rounds[k] = found[:carried], found[carried:]
    shapes = [v.aval for v in inner.outvars[carried:]]
    stacked = zip(*rounds, strict=True) if rounds else [[] for _ in shapes]
    return [*carry, *(_stack(some, s) for some, s in zip(stacked, shapes, strict=True))]


def _stack(some: Any, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jax.dtypes.extended):
        return jnp.stack(some)
    return np.stack(some) if len(some) else np.zeros((0, *like.shape), like.dtype)


def _split(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    places = np.cumsum(equation.params["sizes"])[:-1].tolist()
    return np.split(inputs[0], places, equation.params["axis"])


def _stacked(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    (output,), axis = equation.outvars, equation.params["axis"]
    if jnp.issubdtype(output.aval.dtype, jax.dtypes.extended):
        return [jnp.stack(inputs, axis)]
    return [np.stack(inputs, axis)]


def _unstacked(run: Rule, equation: Any, inputs: list[Any]) -> list[Any]:
    (array,), axis = inputs, equation.params["axis"]
    return [array[(slice(None),) * axis + (n,)] for n in range(array.shape[axis])]


_CALLS: dict[str, Rule] = {
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "split": _split,
    "stack": _stacked,
    "unstack": _unstacked,
    "optimization_barrier": lambda run, equation, inputs: inputs,
}


# --- one result -----------------------------------------------------------------------------------


def _dot_general(a: Any, b: Any, dimension_numbers: Any, **_: Any) -> Any:
    (of_a, of_b), (batch_a, batch_b) = dimension_numbers
    left, right = list(range(a.ndim)), [a.ndim + n for n in range(b.ndim)]
    for i, j in (*zip(of_a, of_b, strict=True), *zip(batch_a, batch_b, strict=True)):
        right[j] = left[i]
    free_a = [n for i, n in enumerate(left) if i not in of_a and i not in batch_a]
    free_b = [n for i, n in enumerate(right) if i not in of_b and i not in batch_b]
    return np.einsum(a, left, b, right, [left[i] for i in batch_a] + free_a + free_b)


def _broadcast(a: Any, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    front = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, a.shape, strict=True):
        front[axis] = size
    return np.broadcast_to(a.reshape(front), shape)


def _reshaped(a: Any, new_sizes: Any, dimensions: Any, **_: Any) -> Any:
    return (a if dimensions is None else np.transpose(a, dimensions)).reshape(new_sizes)


def _complex(a: Any, b: Any) -> Any:
    found = np.empty(np.broadcast(a, b).shape, np.result_type(a, 1j))
    found.real, found.imag = a, b
    return found


def _slice(a: Any, start_indices: Any, limit_indices: Any, strides: Any) -> Any:
    steps = strides or [1] * a.ndim
    return a[tuple(slice(*some) for some in zip(start_indices, limit_indices, steps, strict=True))]


def _select(which: Any, *cases: Any) -> Any:
    which = np.broadcast_to(which, cases[0].shape)
    return (
        np.choose(which.astype(np.int64), cases)
        if len(cases) > 2
        else np.where(which, cases[1], cases[0])
    )


def _divided(a: Any, b: Any) -> Any:
    if a.dtype.kind in "fc":
        return a / b
    quotient = np.where(
        b == 0, -1, np.abs(a) // np.abs(np.where(b == 0, 1, b)) * np.sign(a) * np.sign(b)
    )
    return quotient.astype(a.dtype)


def _remainder(a: Any, b: Any) -> Any:
    return (
        np.fmod(a, b)
        if a.dtype.kind == "f"
        else np.where(b == 0, a, np.fmod(a, np.where(b == 0, 1, b)))
    )


def _converted(a: Any, new_dtype: Any, **_: Any) -> Any:
    """Into the range of whole numbers, and NaN to zero, as XLA does."""
    if a.dtype.kind == "f" and np.dtype(new_dtype).kind in "iu":
        info = np.iinfo(new_dtype)
        inside = np.where((a > info.min) & (a < info.max), a, 0).astype(new_dtype)
        return np.where(a >= info.max, info.max, np.where(a <= info.min, info.min, inside))
    return (a if np.dtype(new_dtype).kind == "c" else a.real).astype(new_dtype)


def _rounded(a: Any, rounding_method: Any) -> Any:
    return (
        np.rint(a)
        if int(rounding_method)
        else np.trunc(a + np.copysign(np.asarray(0.5, a.dtype), a))
    )


def _sign(a: Any) -> Any:
    return np.where(a == 0, a, np.sign(a))


def _pad(a: Any, value: Any, padding_config: Any) -> Any:
    sizes = [
        n + low + high + max(n - 1, 0) * gap
        for n, (low, high, gap) in zip(a.shape, padding_config, strict=True)
    ]
    found = np.full(sizes, value, a.dtype)
    to, of = [], []
    for n, size, (low, _, gap) in zip(a.shape, sizes, padding_config, strict=True):
        places = low + np.arange(n) * (gap + 1)
        kept = (places >= 0) & (places < size)
        to.append(places[kept])
        of.append(np.arange(n)[kept])
    found[np.ix_(*to)] = a[np.ix_(*of)]
    return found


def _integer_pow(a: Any, y: int) -> Any:
    return np.power(a, y) if y >= 0 else 1 / np.power(a, -y)


def _cumulative(function: Any) -> Rule:
    def rule(a: Any, axis: int, reverse: bool, **_: Any) -> Any:
        return np.flip(function(np.flip(a, axis), axis), axis) if reverse else function(a, axis)

    return rule


def _reduction(function: Any) -> Rule:
    return lambda a, axes, **_: function(a, axis=tuple(axes))


def _iota(dtype: Any, shape: Any, dimension: int, **_: Any) -> Any:
    return np.broadcast_to(
        np.arange(shape[dimension]).reshape([-1] + [1] * (len(shape) - 1 - dimension)), shape
    )


def _special(function: Any) -> Rule:
    """SciPy, always in 64 bits."""
    return lambda *arrays, **_: function(*(a.astype(np.float64) for a in arrays))


def _plain(function: Any) -> Rule:
    return lambda *arrays, **_: function(*arrays)


#: NumPy's functions, by the names of primitives.
_NUMPY = {
    name: getattr(np, name)
    for name in (
        "add abs square sqrt cbrt exp exp2 log log1p expm1 floor sin cos tan sinh cosh tanh ceil "
        "real imag conj"
    ).split()
} | {
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "atan2": np.arctan2,
    "is_finite": np.isfinite,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "copy": np.asarray,
    "copy_p": np.asarray,
    "stop_gradient": np.asarray,
}
_RULES: dict[str, Rule] = {
    **{name: _plain(function) for name, function in _NUMPY.items()},
    "logistic": lambda a, **_: 1 / (1 + np.exp(-a)),
    "rsqrt": lambda a, **_: 1 / np.sqrt(a),
    "erf": _special(special.erf),
    "erfc": _special(special.erfc),
    "erf_inv": _special(special.erfinv),
    "lgamma": _special(special.gammaln),
    "digamma": _special(special.psi),
    "bessel_i0e": _special(special.i0e),
    "bessel_i1e": _special(special.i1e),
    "div": _divided,
    "rem": _remainder,
    "sign": _sign,
    "round": _rounded,
    "integer_pow": _integer_pow,
    "clamp": lambda low, a, high: np.minimum(np.maximum(a, low), high),
    "complex": _complex,
    "select_n": _select,
    "convert_element_type": _converted,
    "dot_general": _dot_general,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": lambda a, dimensions: np.squeeze(a, tuple(dimensions)),
    "expand_dims": lambda a, dimensions: np.expand_dims(a, tuple(dimensions)),
    "transpose": lambda a, permutation: np.transpose(a, permutation),
    "rev": lambda a, dimensions: np.flip(a, tuple(dimensions)),
    "concatenate": lambda *arrays, dimension: np.concatenate(arrays, dimension),
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "reduce_sum": _reduction(np.sum),
    "reduce_prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_and": _reduction(np.bitwise_and.reduce),
    "reduce_or": _reduction(np.bitwise_or.reduce),
    "reduce_xor": _reduction(np.bitwise_xor.reduce),
    "argmax": lambda a, axes, **_: np.argmax(a, axes[0]),
    "argmin": lambda a, axes, **_: np.argmin(a, axes[0]),
    "cumsum": _cumulative(np.cumsum),
    "cumprod": _cumulative(np.cumprod),
    "cummax": _cumulative(np.maximum.accumulate),
    "cummin": _cumulative(np.minimum.accumulate),
}
