"""Operations that need an expression of their own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: Whether there is machine code, and the function, whose arguments are vectors of one length.
Entries = dict[str, tuple[bool, Callable[..., Any]]]


def matrix(a: Any, rows: int = 2) -> Any:
    """A vector as rows; its first numbers again fill the last one."""
    missing = -a.size % rows
    return (jnp.concatenate([a] * (1 + missing))[: a.size + missing] if missing else a).reshape(
        rows, -1
    )


def _square(a: Any) -> Any:
    """A well conditioned matrix of two rows; no two of its elements are equal by construction."""
    m = jnp.stack([a[0], a[-1], -0.9 * a[-1], 0.8 * a[0]]).reshape(2, 2)
    return 0.3 * jnp.tanh(m) + jnp.eye(2, dtype=a.dtype)


def _interpolated(a: Any) -> Any:
    """Not in 16 bits, for which there is no `jnp.interp`."""
    wide = a.astype(jnp.float32) if a.dtype.itemsize == 2 else a
    return jnp.interp(
        wide, np.asarray([-1.1, 0.2, 0.9], wide.dtype), np.asarray([0.3, 1, 0.2], wide.dtype)
    ).astype(a.dtype)


def _rounds(a: Any, b: Any) -> Any:
    """An inner loop."""

    def one(carry: Any, number: Any) -> Any:
        carry = jnp.tanh(carry + number)
        return carry, carry.sum()

    return lax.scan(one, a, b)[0]


#: The result is as long as the arguments.
SPECIAL: Entries = {
    "jnp.where": (True, lambda a, b: jnp.where(a > b, jnp.sin(a), b)),
    "jnp.clip": (True, lambda a: jnp.clip(a, -0.4, 0.6)),
    "jnp.select": (True, lambda a, b: jnp.select([a > 0.7123, b > 0.1234], [a, a * b], b)),
    "jnp.piecewise": (
        False,
        lambda a: jnp.piecewise(a, [a < -0.3123, a > 0.4123], [jnp.sin, jnp.cos, jnp.tanh]),
    ),
    "jnp.interp": (False, lambda a: _interpolated(a)),
    "jnp.polyval": (
        True,
        lambda a: jnp.polyval(jnp.asarray([0.3, -0.2, 0.1], a.dtype), jnp.tanh(a)),
    ),
    "jnp.nan_to_num": (
        True,
        lambda a: jnp.nan_to_num(jnp.where(a > 0.7123, jnp.inf, a), posinf=0.3),
    ),
    # Before JAX 0.12, the second derivative of its first result is zero in a `jax.lax.scan`.
    "jnp.frexp": (False, lambda a: a * jnp.frexp(0.3 + jnp.abs(jax.lax.stop_gradient(a)))[0]),
    "jnp.modf": (True, lambda a: jnp.modf(3 * a + 0.1234)[0]),
    "jnp.divmod": (True, lambda a, b: jnp.divmod(a, 2 + jnp.cos(b))[1]),
    "jnp.vectorize": (True, lambda a, b: jnp.vectorize(lambda x, y: jnp.sin(x) * y)(a, b)),
    "jnp.apply_along_axis": (
        True,
        lambda a: jnp.apply_along_axis(lambda r: r * jnp.tanh(r.sum()), 0, a),
    ),
    "jnp.fill_diagonal": (
        False,
        lambda a: jnp.fill_diagonal(jnp.outer(a, a), 0.5, inplace=False)[0],
    ),
    "jnp.std": (True, lambda a: a / jnp.std(jnp.append(a, 4.5))),
    "jnp.nanstd": (True, lambda a: a / jnp.nanstd(jnp.append(a, 4.5))),
    "jnp.linalg.norm": (True, lambda a: a / jnp.linalg.norm(jnp.append(a, 0.7))),
    "jnp.correlate": (False, lambda a, b: jnp.correlate(a, b, "full")[: len(a)]),
    "jnp.vdot": (True, lambda a, b: a / jnp.sqrt(1 + jnp.vdot(a, b) ** 2)),
    "jnp.dot": (True, lambda a, b: b * jnp.tanh(jnp.dot(a, b))),
    "jnp.inner": (True, lambda a, b: a - jnp.tanh(jnp.inner(a, b))),
    "jnp.full_like": (True, lambda a, b: jnp.full_like(a, 0.3) * b),
    "jnp.array_equal": (False, lambda a, b: jnp.where(jnp.array_equal(a, b), a, b)),
    "jnp.allclose": (False, lambda a, b: jnp.where(jnp.allclose(a, b), a, 0.5 * b)),
    "jnp.cumsum": (False, lambda a: jnp.cumsum(a) / len(a)),
    "jnp.cumprod": (False, lambda a: jnp.cumprod(jnp.sin(a))),
    "jnp.flip": (True, lambda a: jnp.flip(a)),
    "jnp.roll": (True, lambda a: jnp.roll(a, 1)),
    "jnp.sort": (False, lambda a: jnp.sort(a)),
    "jnp.argsort": (False, lambda a: jnp.argsort(a).astype(a.dtype) * 0.1),
    "jnp.take": (False, lambda a, b: jnp.take(a, jnp.argmax(b)) * b),
    "jnp.searchsorted": (
        False,
        lambda a: (
            jnp.searchsorted(jnp.asarray([-0.5123, 0.1234], a.dtype), a).astype(a.dtype) * 0.1 * a
        ),
    ),
    "jnp.digitize": (
        False,
        lambda a: (
            jnp.digitize(a, jnp.asarray([-0.5123, 0.1234], a.dtype)).astype(a.dtype) * 0.1 * a
        ),
    ),
    "jnp.quantile": (False, lambda a: a - jnp.quantile(a.astype(jnp.float32), 0.3).astype(a.dtype)),
    "jnp.einsum": (True, lambda a, b: jnp.einsum("i,j->i", jnp.tanh(a), b)),
    "jnp.nextafter": (
        False,
        lambda a, b: (
            a + lax.stop_gradient(0 * jnp.nextafter(lax.stop_gradient(a), lax.stop_gradient(b)))
        ),
    ),
    "lax.select": (True, lambda a, b: lax.select(a > 0.1234, a, b)),
    "lax.select_n": (True, lambda a, b: lax.select_n(a > 0.1234, a, b)),
    "lax.clamp": (
        True,
        lambda a: lax.clamp(jnp.asarray(-0.4, a.dtype), a, jnp.asarray(0.6, a.dtype)),
    ),
    "lax.integer_pow": (True, lambda a: lax.integer_pow(jnp.tanh(a), 3)),
    "lax.convert_element_type": (
        True,
        lambda a: jnp.sin(lax.convert_element_type(a, jnp.float32)).astype(a.dtype),
    ),
    "lax.reduce_precision": (False, lambda a: lax.reduce_precision(a, 11, 52)),
    "lax.full_like": (True, lambda a, b: lax.full_like(a, 0.2) * b),
    "lax.cumlogsumexp": (False, lambda a: lax.cumlogsumexp(a)),
    "lax.cummax": (False, lambda a: lax.cummax(a)),
    "lax.cummin": (False, lambda a: lax.cummin(a, reverse=True)),
    "lax.cumsum": (False, lambda a: lax.cumsum(a, reverse=True) / len(a)),
    "lax.cumprod": (False, lambda a: lax.cumprod(jnp.sin(a))),
    "lax.rev": (True, lambda a: lax.rev(a, (0,))),
    "lax.sort": (False, lambda a: lax.sort(a)),
    "lax.argmax": (False, lambda a: lax.argmax(a, 0, jnp.int32).astype(a.dtype) * a * 0.1),
    "lax.argmin": (False, lambda a: lax.argmin(a, 0, jnp.int32).astype(a.dtype) * a * 0.1),
    "lax.betainc": (
        False,
        lambda a, b: lax.betainc(
            jnp.full_like(a, 0.7), jnp.full_like(a, 1.3), 0.5 + 0.4 * jnp.sin(a * b)
        ),
    ),
    "lax.dynamic_update_slice": (
        False,
        lambda a, b: lax.dynamic_update_slice(a, b[:1], (jnp.argmax(b),)),
    ),
    "lax.dynamic_update_index_in_dim": (
        False,
        lambda a, b: lax.dynamic_update_index_in_dim(a, b[0], jnp.argmin(b), 0),
    ),
    "lax.cond": (True, lambda a, b: lax.cond(a[0] > b[-1], lambda: jnp.sin(a), lambda: a * b)),
    "lax.switch": (
        True,
        lambda a, b: lax.switch((a[0] * 1.7123).astype(jnp.int32), [jnp.sin, jnp.cos, jnp.tanh], b),
    ),
    "lax.scan": (True, _rounds),
    "lax.fori_loop": (True, lambda a, b: lax.fori_loop(0, 2, lambda k, c: jnp.tanh(c + b), a)),
    "lax.map": (True, lambda a: lax.map(jnp.sin, a)),
    "lax.associative_scan": (True, lambda a: lax.associative_scan(jnp.add, a) / len(a)),
    "lax.reduce": (
        True,
        lambda a: a - lax.reduce(a, jnp.asarray(0, a.dtype), lax.add, (0,)) / len(a),
    ),
    "lax.reduce_max": (True, lambda a: a - lax.reduce_max(a, (0,))),
    "lax.reduce_min": (True, lambda a: a * lax.reduce_min(jnp.sin(a), (0,))),
    "lax.reduce_sum": (True, lambda a: a - lax.reduce_sum(jnp.tanh(a), (0,))),
    "lax.reduce_prod": (False, lambda a: a + lax.reduce_prod(jnp.sin(a), (0,))),
    "lax.reduce_window": (
        False,
        lambda a: lax.reduce_window(a, np.zeros((), a.dtype)[()], lax.add, (2,), (1,), "SAME"),
    ),
    "lax.iota": (True, lambda a: a * lax.iota(jnp.int32, len(a)).astype(a.dtype) * 0.1),
    "lax.bitcast_convert_type": (False, lambda a: _as_bits(a)),
    "lax.platform_dependent": (
        True,
        lambda a: lax.platform_dependent(a, cpu=jnp.sin, default=jnp.sin),
    ),
    "nn.softmax": (True, lambda a: jax.nn.softmax(a)),
    "nn.log_softmax": (True, lambda a: jax.nn.log_softmax(a)),
    "nn.standardize": (True, lambda a: jax.nn.standardize(a, epsilon=0.3)),
    "nn.one_hot": (False, lambda a: a * jax.nn.one_hot(jnp.argmax(a), len(a), dtype=a.dtype)),
    "nn.glu": (True, lambda a: jax.nn.glu(jnp.concatenate([a, jnp.sin(a)]))),
}


def _as_bits(a: Any) -> Any:
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[a.dtype.itemsize]
    whole = lax.bitcast_convert_type(a, bits)
    return jnp.where(whole >> (8 * a.dtype.itemsize - 1) == 1, -a, 0.5 * a)


#: The result has another length.
SHAPES: Entries = {
    "jnp.concatenate": (True, lambda a, b: jnp.concatenate([a, jnp.sin(b), a[:1]])),
    "jnp.append": (True, lambda a, b: jnp.append(a, b)),
    "jnp.hstack": (True, lambda a, b: jnp.hstack([b, a])),
    "jnp.split": (True, lambda a: jnp.split(a, [1])[0]),
    "jnp.array_split": (True, lambda a: jnp.array_split(a, 2)[0]),
    "jnp.pad": (True, lambda a: jnp.pad(a, (1, 2), constant_values=0.5)),
    "jnp.repeat": (False, lambda a: jnp.repeat(a, 2)),
    "jnp.tile": (True, lambda a: jnp.tile(a, 2)),
    "jnp.resize": (True, lambda a: jnp.resize(a, (len(a) + 2,))),
    "jnp.delete": (True, lambda a: jnp.delete(jnp.append(a, a[0]), 1)),
    "jnp.insert": (True, lambda a: jnp.insert(a, 0, 0.25)),
    "jnp.diff": (True, lambda a: jnp.diff(jnp.append(a, a[0]))),
    "jnp.ediff1d": (True, lambda a: jnp.ediff1d(jnp.append(a, a[0]))),
    "jnp.squeeze": (True, lambda a: jnp.squeeze(a[None, :1], 0)),
    "jnp.ravel": (True, lambda a: jnp.ravel(a[:, None])),
    "jnp.expand_dims": (True, lambda a: jnp.expand_dims(a, 0)[0, 1:] if len(a) > 1 else a),
    "lax.concatenate": (True, lambda a, b: lax.concatenate([a, b], 0)),
    "lax.pad": (True, lambda a: lax.pad(a, jnp.asarray(0.5, a.dtype), [(2, -1, 0)])),
    "lax.slice": (True, lambda a: lax.slice(a, (len(a) // 2,), (len(a),))),
    "lax.slice_in_dim": (False, lambda a: lax.slice_in_dim(a, 0, len(a), 2)),
    "lax.split": (True, lambda a: lax.split(a, (1, len(a) - 1))[0] if len(a) > 1 else a),
    "lax.dynamic_slice": (
        False,
        lambda a, b: lax.dynamic_slice(a, (jnp.argmax(b),), (1 + len(a) // 2,)),
    ),
    "lax.index_in_dim": (True, lambda a: lax.index_in_dim(a, 0)),
    "lax.dynamic_index_in_dim": (False, lambda a, b: lax.dynamic_index_in_dim(a, jnp.argmax(b), 0)),
    "lax.index_take": (False, lambda a, b: _taken(a, (jnp.argmax(b)[None],))),
    "lax.top_k": (False, lambda a: lax.top_k(a, 1 + len(a) // 3)[0]),
    "lax.broadcast_in_dim": (True, lambda a: lax.broadcast_in_dim(a[0], (3,), ())),
    "lax.collapse": (True, lambda a: lax.collapse(matrix(a), 0)),
    "lax.squeeze": (True, lambda a: lax.squeeze(a[None], (0,))[-1:]),
    "lax.reshape": (True, lambda a: lax.reshape(matrix(a), (a.size + a.size % 2,))),
}

#: By way of small matrices.
MATRICES: Entries = {
    "jnp.outer": (True, lambda a, b: jnp.outer(a[:2], b[:3]).ravel()),
    "jnp.kron": (True, lambda a, b: jnp.kron(a[:2], b[:3])),
    "jnp.matmul": (True, lambda a, b: jnp.matmul(matrix(a).T[:3], matrix(b)[:, :2]).ravel()),
    "jnp.tensordot": (True, lambda a, b: jnp.tensordot(matrix(a), matrix(b), ((1,), (1,))).ravel()),
    "jnp.matvec": (True, lambda a, b: jnp.matvec(matrix(a), matrix(b)[0])),
    "jnp.vecmat": (True, lambda a, b: jnp.vecmat(matrix(a)[:, 0], matrix(b))),
    "jnp.vecdot": (True, lambda a, b: jnp.vecdot(matrix(a), matrix(b))),
    "jnp.cross": (True, lambda a, b: jnp.cross(jnp.resize(a, (3,)), jnp.resize(b, (3,)))),
    "jnp.transpose": (True, lambda a: jnp.transpose(matrix(a)).ravel()),
    "jnp.matrix_transpose": (True, lambda a: jnp.matrix_transpose(matrix(a)).ravel()),
    "jnp.swapaxes": (True, lambda a: jnp.swapaxes(matrix(a)[None], 0, 2).ravel()),
    "jnp.moveaxis": (True, lambda a: jnp.moveaxis(matrix(a), 0, 1).ravel()),
    "jnp.stack": (True, lambda a, b: jnp.stack([a, b], 1).ravel()[: len(a) + 1]),
    "jnp.vstack": (True, lambda a, b: jnp.vstack([a, b])[:, 0]),
    "jnp.dstack": (True, lambda a, b: jnp.dstack([a, b]).ravel()[: len(a) + 1]),
    "jnp.column_stack": (True, lambda a, b: jnp.column_stack([a, b])[0]),
    "jnp.fliplr": (True, lambda a: jnp.fliplr(matrix(a)).ravel()),
    "jnp.flipud": (True, lambda a: jnp.flipud(matrix(a)).ravel()),
    "jnp.rot90": (True, lambda a: jnp.rot90(matrix(a)).ravel()),
    "jnp.reshape": (True, lambda a: jnp.reshape(matrix(a), (-1, 2)).sum(1)),
    "jnp.broadcast_to": (True, lambda a: jnp.broadcast_to(a, (2, len(a))).sum(0)[:4]),
    "jnp.diag": (False, lambda a: jnp.diag(jnp.outer(a[:3], a[:3]))),
    "jnp.diagonal": (False, lambda a: jnp.diagonal(matrix(a))),
    "jnp.trace": (False, lambda a: jnp.trace(matrix(a))[None]),
    "jnp.tril": (True, lambda a: jnp.tril(matrix(a)).sum(0)),
    "jnp.triu": (True, lambda a: jnp.triu(matrix(a)).max(1)),
    "jnp.eye": (True, lambda a: (jnp.eye(2, dtype=a.dtype) * a[0]).ravel()),
    "jnp.meshgrid": (True, lambda a, b: jnp.meshgrid(a[:2], b[:2])[0].ravel()),
    "jnp.cov": (True, lambda a: jnp.cov(matrix(a, 3).T).ravel()[:4]),
    "jnp.linalg.det": (
        False,
        lambda a: jnp.linalg.det(_square(a).astype(jnp.float32)).astype(a.dtype)[None],
    ),
    "jnp.linalg.inv": (
        False,
        lambda a: jnp.linalg.inv(_square(a).astype(jnp.float32)).astype(a.dtype).ravel(),
    ),
    "jnp.linalg.matrix_power": (True, lambda a: jnp.linalg.matrix_power(_square(a), 3).ravel()),
    "jnp.linalg.solve": (
        False,
        lambda a: jnp.linalg.solve(_square(a).astype(jnp.float32), jnp.ones(2, "f4")).astype(
            a.dtype
        ),
    ),
    "lax.dot": (True, lambda a, b: lax.dot(matrix(a), matrix(b).T).ravel()),
    "lax.dot_general": (
        True,
        lambda a, b: lax.dot_general(matrix(a), matrix(b), (((1,), (1,)), ((0,), (0,)))),
    ),
    "lax.batch_matmul": (
        True,
        lambda a, b: lax.batch_matmul(matrix(a)[:, None], matrix(b)[..., None]).ravel(),
    ),
    "lax.transpose": (True, lambda a: lax.transpose(matrix(a), (1, 0)).ravel()),
    "lax.expand_dims": (True, lambda a: lax.expand_dims(matrix(a), (1,))[0, 0]),
    "lax.broadcast": (True, lambda a: lax.broadcast(a[:3], (2,)).ravel()),
    "lax.tile": (True, lambda a: lax.tile(matrix(a)[:, :2], (1, 2)).ravel()),
    "lax.conv_general_dilated": (False, lambda a, b: _convolved(a, b)),
    "lax.gather": (False, lambda a, b: a[jnp.argsort(b)[:2]]),
    "lax.scatter": (False, lambda a, b: a.at[jnp.argmax(b)].set(0.3)),
    "lax.scatter_add": (False, lambda a, b: a.at[jnp.argmax(b)].add(b[0])),
    "lax.scatter_max": (False, lambda a, b: a.at[jnp.argmin(b)].max(b[0])),
    "nn.dot_product_attention": (False, lambda a, b: _attention(a, b)),
}


def _convolved(a: Any, b: Any) -> Any:
    return lax.conv_general_dilated(a[None, None], b[None, None, :2], (1,), "SAME").ravel()


def _taken(a: Any, places: Any) -> Any:
    return lax.index_take(a, places, (0,))


def _attention(a: Any, b: Any) -> Any:
    query, key = (matrix(v)[:, None, :2] for v in (a, b))
    return jax.nn.dot_product_attention(query, key, jnp.sin(key)).ravel()
