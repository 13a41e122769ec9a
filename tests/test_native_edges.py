"""Every element-wise operation of the native backend at the edges of its types, against XLA.

Both treat denormal numbers as zero in arithmetic and may return them as they are, or as zero. So
all numbers up to the smallest normal number count as equal here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from models import AUTO

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

from noria.backends.native.runtime.target import available  # noqa: E402
from noria.ir.primitives import ELEMENTWISE  # noqa: E402

TYPES = ("int8", "int32", "int64", "uint8", "uint32", "bool", "float32", "float64")

#: By JAX's name of the primitive, where that is not the name of a function of two arguments or one.
SPECIAL: dict[str, Any] = {
    "add_any": lambda x, y: jax.vjp(lambda a: (a, a), x)[1]((x, y))[0],
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "not": lambda x, y: lax.bitwise_not(x),
    "bitcast_convert_type": lambda x, y: [
        lax.bitcast_convert_type(x, t) for t in same_size(x.dtype)
    ],
    "round": lambda x, y: [lax.round(x, method) for method in lax.RoundingMethod],
    "integer_pow": lambda x, y: [
        lax.integer_pow(x, n) for n in (-3, -1, 0, 1, 2, 5) if n >= 0 or x.dtype.kind == "f"
    ],
    "clamp": lambda x, y: (lax.clamp(x, y, jnp.ones_like(x)), lax.clamp(jnp.ones_like(x), x, y)),
    "select_n": lambda x, y: lax.select(x != y, x, y),
    "convert_element_type": lambda x, y: [x.astype(t) for t in TYPES if jnp.dtype(t) != x.dtype],
}
SHIFTS = ("shift_left", "shift_right_arithmetic", "shift_right_logical")
BINARY = frozenset(
    ("add sub mul div rem max min eq ne lt le gt ge atan2 pow".split()) + list(SHIFTS)
)


#: Those that only newer versions of JAX have.
NEWER = frozenset(("one_minus_square",)) - frozenset(dir(lax))


def same_size(dtype: Any) -> list[str]:
    """The types as which the bits of a number can be read, its own included."""
    return [t for t in TYPES if t != "bool" and jnp.dtype(t).itemsize == dtype.itemsize]


def operation(name: str, x: Any, y: Any) -> Any:
    if name in SPECIAL:
        return SPECIAL[name](x, y)
    return getattr(lax, name)(x, y) if name in BINARY else getattr(lax, name)(x)


def values(dtype: Any) -> np.ndarray:
    """Ends of the range, zeros, ones, halves, whole numbers, and borders of conversions."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        small = [0, 1, 2, 3, 7, 31, 32, 33, *([-1, -2, -7] if dtype.kind == "i" else [])]
        return np.array([*small, info.max, info.max - 1, info.min, info.min + 1], dtype)
    limits, power = np.finfo(dtype), 2.0 ** np.array([7, 8, 31, 32, 63])
    ends = [
        np.inf,
        limits.max,
        limits.tiny,
        limits.tiny / 2,
        limits.smallest_subnormal,
        1 / limits.eps,
        1 / limits.eps - 1,
    ]
    near = [
        np.nextafter(dtype.type(0.5), dtype.type(0)),
        np.nextafter(dtype.type(1), dtype.type(0)),
    ]
    some = np.array(
        [0, 0.5, 1, 1.5, 2, 2.5, 3, 1e5, 1e30, *ends, *near, *power, *(power - 1)], dtype
    )
    return np.concatenate([some, -some, [dtype.type(np.nan)]])


def names_for(dtype: Any) -> list[str]:
    missing = {"f": (), "i": ("add_any",), "u": ("abs", "add_any"), "b": ()}[
        dtype.kind
    ]  # JAX makes none
    there = [name for name, kinds in ELEMENTWISE.items() if dtype.kind in kinds]
    return [name for name in there if name not in missing and name not in NEWER]


def is_right(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    if found.dtype.kind != "f":
        return found == right
    info, ends = np.finfo(found.dtype), np.isnan(found) & np.isnan(right)
    with np.errstate(all="ignore"):
        near = (found == right) | (np.abs(found - right) <= 1024 * info.eps * np.abs(right))
    near |= (np.abs(found) <= info.tiny) & (np.abs(right) <= info.tiny)
    return ends | (near & (np.signbit(found) == np.signbit(right)))


def test_the_table_names_every_element_wise_primitive():
    assert set(ELEMENTWISE) - NEWER == {
        name for dtype in ("f4", "i4", "b") for name in names_for(np.dtype(dtype))
    }
    assert all(name in SPECIAL or hasattr(lax, name) for name in set(ELEMENTWISE) - NEWER)


@pytest.mark.sampled(11)
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "bool"]
)
def test_element_wise_operations_give_what_xla_gives(dtype):
    """Every pair of values; all operations of a type in one step, as its next state."""
    names, edges = names_for(np.dtype(dtype)), values(np.dtype(dtype))
    x, y = (jnp.asarray(a.ravel()) for a in np.meshgrid(edges, edges, indexing="ij"))

    def all_of_them(x: Any, y: Any) -> Any:
        return {name: operation(name, x, y) for name in names}

    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(all_of_them, x, y))
    cell = lambda s, u: (s[0], s[1], all_of_them(s[0], s[1]))  # noqa: E731
    found, right = (
        nr.Recurrence(cell, (x, y, zeros), backend=backend).scan(None, jnp.zeros((1, 1)))[0][2]
        for backend in ("native", "plain")
    )
    # In XLA, the square root of a denormal number by pow is wrong by a factor of thousands.
    if dtype == "float32":
        with np.errstate(all="ignore"):
            base = np.asarray(x).astype(np.float64)
            exact = np.power(base, np.asarray(y).astype(np.float64)).astype(np.float32)
        denormal = (base != 0) & (np.abs(base) < np.finfo(np.float32).tiny)
        right["pow"] = np.where(denormal, exact, np.asarray(right["pow"]))
        # Without fused multiply-adds, 2**128 is the largest number in XLA.
        right["exp2"] = np.where(base == 128, np.inf, right["exp2"]).astype(np.float32)
    # In XLA, that of a denormal number is any number: it calls a function of another mode.
    if "cbrt" in names:
        base = np.asarray(x)
        denormal = (base != 0) & (np.abs(base) < np.finfo(dtype).tiny)
        right["cbrt"] = np.where(
            denormal, np.copysign(np.zeros_like(base), base), np.asarray(right["cbrt"])
        )
    for name in names:
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(right[name]), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            wrong = ~is_right(a, b)
            assert not wrong.any(), (
                name,
                a.dtype,
                [v[wrong][:5] for v in (np.asarray(x), np.asarray(y), a, b)],
            )


EXTREMES: dict[str, tuple[Any, Any]] = {
    "maximum": (lambda x, y: jnp.maximum(x, y), lambda x, y: np.maximum(x, y)),
    "minimum": (lambda x, y: jnp.minimum(x, y), lambda x, y: np.minimum(x, y)),
    "maximum, reversed": (lambda x, y: jnp.maximum(y, x), lambda x, y: np.maximum(y, x)),
    "minimum, reversed": (lambda x, y: jnp.minimum(y, x), lambda x, y: np.minimum(y, x)),
    "relu": (lambda x, y: jax.nn.relu(x), lambda x, y: np.maximum(x, 0)),
    "clip": (lambda x, y: jnp.clip(x, -0.5, 0.5), lambda x, y: np.clip(x, -0.5, 0.5)),
    "clamp": (lambda x, y: lax.clamp(-y, x, y), lambda x, y: np.clip(x, -y, y)),
    "reduce_max": (lambda x, y: jnp.max(x), lambda x, y: np.max(x, -1)),
    "reduce_min": (lambda x, y: jnp.min(x), lambda x, y: np.min(x, -1)),
}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("isa", [isa.name for isa in available()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [16, 5, 37])
def test_extremes_hand_on_nan(width, dtype, isa, tune):
    """In each lane of full registers and of the remainder; for reductions too, as in NumPy."""
    tune(isa=isa)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(width + 1, width)).astype(dtype)  # in the last example there is no NaN
    x[np.arange(width), np.arange(width)] = np.nan
    y = np.abs(rng.normal(size=x.shape)).astype(dtype)

    def cell(state: Any, u: Any) -> Any:
        return (*state[:2], {name: of[0](*state[:2]) for name, of in EXTREMES.items()})

    some = cell((x[0], y[0]), None)[2]
    zeros = jax.tree.map(lambda a: jnp.zeros((width + 1, *a.shape), a.dtype), some)
    layer = nr.Recurrence(cell, jax.tree.map(lambda a: a[0], (x, y, zeros)), backend="native")
    found = layer.scan((x, y, zeros), jnp.zeros((width + 1, 1, 1)))[0][2]
    for name, (_, of_numpy) in EXTREMES.items():
        np.testing.assert_array_equal(found[name], of_numpy(x, y), err_msg=name)


def test_numpy_keeps_denormal_numbers_after_a_call():
    """A kernel treats them as zero, and sets the mode back."""
    layer = nr.Recurrence(lambda h, x: h * 0.5 + x, jnp.zeros(3), backend="native")
    for _ in range(3):
        layer(jnp.ones((4, 3))).block_until_ready()
        assert (np.array([1e-310, 1e-320]) * 1.0 > 0).all()
        assert (np.array([1e-40, 1e-42], np.float32) * np.float32(1) > 0).all()
