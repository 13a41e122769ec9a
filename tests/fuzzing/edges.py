"""Operations with machine code at the edges: zeros, infinities, NaN, denormal and huge numbers.

Against XLA and not against the oracle, since denormal numbers are zero in both. Only values: at
kinks a derivative can be either of two.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from fuzzing.operations import BINARY, UNARY, named

#: Functions of one and of two vectors; whole numbers are made of theirs by a conversion.
OF_FLOATS = {
    name: arity
    for arity, groups in ((1, UNARY), (2, BINARY))
    for domains, (native, _) in groups.items()
    if not {"whole", "unsigned", "bits", "truth"} & {*np.atleast_1d(domains)}
    for name in native.split()
}
#: How close results must be, relative to each.
CLOSE = {"float64": 1e-12, "float32": 1e-5}
#: XLA's own results are imprecise for huge arguments.
_BOUNDED = frozenset("jnp.sin jnp.cos jnp.tan jnp.sinc lax.sin lax.cos lax.tan".split())


class EdgeCell(nr.Cell):
    """Emits functions of the input. They stay in the loop, since the state could replace it."""

    zero: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, state: jax.Array, x: jax.Array) -> jax.Array:
        return state

    def output(self, state: jax.Array, x: jax.Array) -> Any:
        n = len(self.zero)
        first, second = (jnp.where(state > 2, state, a) for a in (x[:n], x[n:]))
        with jax.numpy_dtype_promotion("standard"):
            found = {name: named(name)(*(first, second)[: OF_FLOATS[name]]) for name in self.names}
            return found | {"whole": first.astype(jnp.int32), "byte": second.astype(jnp.uint8)}

    def initial_state(self) -> jax.Array:
        return self.zero


def edges(dtype: Any) -> np.ndarray:
    """Numbers at which functions change their way."""
    info = np.finfo(dtype)
    some = [
        0.0,
        0.25,
        0.5,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        7.5,
        20.0,
        90.0,
        710.0,
        1e5,
        2.0**31,
        2.0**52,
        1e15,
        1e-8,
        1e-20,
    ]
    some += [
        info.tiny,
        info.tiny / 4,
        info.max,
        info.max / 3,
        np.sqrt(info.max),
        np.inf,
        np.nan,
        np.nextafter(1, 2, dtype=dtype),
    ]
    return np.asarray([*some, *(-a for a in some)], dtype)


def differences(seed: int) -> list[str]:
    """Some operations on some of the edges, as machine code and as XLA's."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(["float32", "float64"][seed % 2])
    names = tuple(str(name) for name in rng.choice([*OF_FLOATS], 6, replace=False))
    values = edges(dtype)
    if _BOUNDED & {*names}:
        values = values[~(np.abs(values) > 1e4) | ~np.isfinite(values)]
    xs = rng.permutation(np.stack([rng.choice(values, (3, 11)) for _ in range(4)], -1)).reshape(
        3, 2, -1
    )
    cell = EdgeCell(jnp.zeros(xs.shape[-1] // 2, dtype), names)
    native, scan = (
        nr.Recurrence(cell, backend=backend)(jnp.asarray(xs)) for backend in ("native", "scan")
    )
    return [
        line
        for name in native
        for line in _compared(name, xs, np.asarray(native[name]), np.asarray(scan[name]))
    ]


def _compared(name: str, xs: Any, found: Any, expected: Any) -> list[str]:
    rough = CLOSE.get(found.dtype.name, 0)
    with np.errstate(all="ignore"):
        same = np.isclose(found, expected, rough, np.finfo(xs.dtype).tiny, equal_nan=True)
        if found.dtype.kind == "f":
            same &= (np.signbit(found) == np.signbit(expected)) | (found != 0) | (expected != 0)
    half = xs.shape[-1] // 2
    first, second = xs[..., :half], xs[..., half:]
    return [
        f"{name}({float(first[at])}, {float(second[at])}): {found[at]} expected {expected[at]}"
        for at in zip(*np.nonzero(~same), strict=True)
    ]
