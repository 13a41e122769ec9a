"""Trajectory gated recurrent unit."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.scipy.ndimage import map_coordinates

from noria.cells.declare import array, size, state, vector
from noria.cells.parts import wide
from noria.cells.spatial import SpatialCell, kernel_init
from noria.cells.starts import each


def _leaky(a: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(a, 0.2)


def _warped(h: jax.Array, right: jax.Array, down: jax.Array) -> jax.Array:
    """The image at points that are moved, between its points by bilinear interpolation."""
    rows, columns = (jnp.arange(n, dtype=right.dtype) for n in h.shape[:2])
    places = [rows[:, None] + down, columns + right]

    def at(one: jax.Array) -> jax.Array:
        found: jax.Array = map_coordinates(one, places, order=1, mode="constant")
        return found

    return jax.vmap(at, in_axes=-1, out_axes=-1)(wide(h)).astype(h.dtype)


class TrajGRUCell(SpatialCell):
    """The trajectory gated recurrent unit: it reads its state along learned flows.

    ::

        d  = leaky(F_x (*) x + F_h (*) h + b_F)
        q  = F_out (*) d + b_out             flows: right and down for each of L links
        u  = sum over l of U_l warp(h, q_l)
        z  = sigmoid(W_z (*) x + u_z + b_z)
        r  = sigmoid(W_r (*) x + u_r + b_r)
        n  = leaky(W_n (*) x + r * u_n + b_n)
        h' = (1 - z) * n + z * h

    ``(*)`` is a convolution, and ``leaky`` a leaky ReLU with a slope of 0.2. ``warp`` reads the
    state at points that the flow has moved, by bilinear interpolation; it is zero outside.
    Channels of ``W``, ``U`` and ``b`` are those of z, r and n. Flows have kernels of 5 x 5, and
    start at zero. Images have two dimensions.

    Args:
        links: the paper's L.
        flow_features: features of ``d``.

    Source: Shi, Gao, Lausen, Wang, Yeung, Wong and Woo 2017, arXiv 1706.03458, eqs. 2 to 4. The
    authors' code has the flows with the opposite sign.
    """

    links: int = size(default=5)
    flow_features: int = size(default=32)
    F_x: jax.Array = array(5, 5, "features", "flow_features", initializer=kernel_init)
    F_h: jax.Array = array(5, 5, "hidden", "flow_features", initializer=kernel_init)
    b_F: jax.Array = vector("flow_features")
    F_out: jax.Array = array(5, 5, "flow_features", "2 * links", initializer=0)
    b_out: jax.Array = vector("2 * links")
    W: jax.Array = array("taps", "features", "3 * hidden", initializer=kernel_init)
    U: jax.Array = array("links", "hidden", "3 * hidden", initializer=each(kernel_init))
    b: jax.Array = vector("3 * hidden")
    h: jax.Array = state("space", "hidden")

    def __check_init__(self) -> None:
        if len(self.in_shape) != 3 or self.padding != "same":
            raise ValueError(
                f"{self._call}: padding={self.padding!r}; expected in_shape=(rows, columns, "
                'features) and padding="same".'
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        d = _leaky(self.convolved(x, self.F_x) + self.mixed(h, self.F_h) + self.b_F)
        flows = wide(self.mixed(d, self.F_out) + self.b_out)
        moved = [_warped(h, flows[..., 2 * n], flows[..., 2 * n + 1]) for n in range(self.links)]
        u = jnp.concatenate(moved, axis=-1) @ self.U.reshape(-1, self.U.shape[-1])
        u_z, u_r, u_n = jnp.split(u, 3, axis=-1)
        a_z, a_r, a_n = jnp.split(self.convolved(x, self.W) + self.b, 3, axis=-1)
        n = _leaky(a_n + sigmoid(a_r + u_r) * u_n)
        z = sigmoid(a_z + u_z)
        return (1 - z) * n + z * h
