"""Ways to write the equations of matrix memories: all functions of a table have one meaning.

Arrays may have heads in front, and those that all heads share have none.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Ways = dict[str, Callable[..., Any]]


def turned(a: Any) -> Any:
    return jnp.swapaxes(a, -1, -2)


def _repeated(u: Any, w: Any) -> Any:
    shape = (*jnp.broadcast_shapes(u.shape[:-1], w.shape[:-1]), u.shape[-1], w.shape[-1])
    return jnp.broadcast_to(u[..., None], shape) * jnp.broadcast_to(w[..., None, :], shape)


#: ``u w^T``.
OUTER: Ways = {
    "einsum": lambda u, w: jnp.einsum("...r,...c->...rc", u, w),
    "broadcast": lambda u, w: u[..., :, None] * w[..., None, :],
    "reversed": lambda u, w: w[..., None, :] * u[..., :, None],
    "product": lambda u, w: u[..., None] @ w[..., None, :],
    "turned": lambda u, w: turned(jnp.einsum("...c,...r->...cr", w, u)),
    "summed": lambda u, w: jnp.einsum("...ri,...ci->...rc", u[..., None], w[..., None]),
    "mapped": lambda u, w: jnp.vectorize(jnp.outer, signature="(r),(c)->(r,c)")(u, w),
    "repeated": _repeated,
}
#: ``S^T u``: over the rows of the matrix.
ACROSS: Ways = {
    "einsum": lambda S, u: jnp.einsum("...r,...rc->...c", u, S),
    "broadcast": lambda S, u: (S * u[..., :, None]).sum(-2),
    "product": lambda S, u: (u[..., None, :] @ S)[..., 0, :],
    "turned": lambda S, u: (turned(S) @ u[..., None])[..., 0],
    "vecmat": lambda S, u: jnp.vecmat(u, S),
    "mapped": lambda S, u: jnp.vectorize(jnp.dot, signature="(r),(r,c)->(c)")(u, S),
}
#: ``S w``: over its columns.
ALONG: Ways = {
    "einsum": lambda S, w: jnp.einsum("...rc,...c->...r", S, w),
    "broadcast": lambda S, w: (w[..., None, :] * S).sum(-1),
    "product": lambda S, w: (S @ w[..., None])[..., 0],
    "turned": lambda S, w: (w[..., None, :] @ turned(S))[..., 0, :],
    "matvec": lambda S, w: jnp.matvec(S, w),
    "mapped": lambda S, w: jnp.vectorize(jnp.dot, signature="(r,c),(c)->(r)")(S, w),
}
#: ``W z`` for a vector ``z``.
PROJECT: Ways = {
    "einsum": lambda W, z: jnp.einsum("...nw,w->...n", W, z),
    "product": lambda W, z: W @ z,
    "reversed": lambda W, z: z @ turned(W),
    "flat": lambda W, z: (W.reshape(-1, len(z)) @ z).reshape(W.shape[:-1]),
    "tensordot": lambda W, z: jnp.tensordot(W, z, 1),
}

#: Decays of any numbers; some are zero or negative.
GATES: Ways = {
    "sigmoid": jax.nn.sigmoid,
    "rest": lambda a: 1 - jax.nn.sigmoid(a),
    "root": lambda a: jax.nn.sigmoid(a) ** (1 / 16),
    "softplus": lambda a: jnp.exp(-jax.nn.softplus(a)),
    "exp": lambda a: jnp.exp(-jnp.exp(0.5 * a)),
    "cos": jnp.cos,
    "hard": lambda a: jnp.clip(0.5123 + 0.3 * a, 0, 1),
}


def _unit(a: Any) -> Any:
    return a * jax.lax.rsqrt((a * a).sum(-1, keepdims=True) + 0.01)


#: Keys of any vectors. Their length is about one, so that no delta rule expands.
KEYS: Ways = {
    "scaled": lambda a: a / np.sqrt(a.shape[-1]).item(),
    "unit": _unit,
    "softmax": lambda a: jax.nn.softmax(a, -1),
    "sum": lambda a: a / (0.1 + jnp.abs(a).sum(-1, keepdims=True)),
    "positive": lambda a: (jax.nn.elu(a) + 1) / a.shape[-1],
}


class Writer:
    """One way after the other, drawn from a seed."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def pick(self, ways: Ways) -> Callable[..., Any]:
        return ways[str(self._rng.choice([*ways]))]

    def flip(self) -> bool:
        """Whether to write it the other way around."""
        return bool(self._rng.random() < 0.5)
