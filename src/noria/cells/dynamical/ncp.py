"""Neural circuit policy."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Initializer, Key
from noria.cells.declare import OfCell, matrix, size
from noria.cells.dynamical.ltc import LTCCell
from noria.cells.wiring import ncp_wiring


def _wired(which: int) -> OfCell:
    """One of the two masks."""

    def make(cell: "NCPCell") -> Initializer:
        sizes = cell.in_size, cell.hidden_size, cell.motor_size

        def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            return ncp_wiring(key, *sizes, cell.sparsity)[which].astype(dtype)

        return init

    return OfCell(make)


class NCPCell(LTCCell):
    """The neural circuit policy: a liquid time-constant network with the synapses of a wiring.

    ::

        c dv/dt = g * (e - v) + sum_j S_j * (E_j - v)
        S_j     = M_j * w_j * sigmoid(gamma_j * (v_j - mu_j))
        y       = v of the motor neurons             the output

    The mask ``M`` is 1 for a synapse, else 0; the sum runs over the inputs, too, with ``M_x``. The
    masks are fixed. All else is as in `LTCCell`.

    Args:
        motor_size: number of motor neurons, the first ones of the state.
        sparsity: share of the synapses that are absent; see `ncp_wiring`.
        dt: the time of a step.
        unfolds: number of parts of a step.

    Source: Lechner et al. 2020, doi 10.1038/s42256-020-00237-3; the equation is that of Hasani et
    al. 2021, arXiv 2006.04439. `ncp_wiring` makes masks for other cells.
    """

    motor_size: int = size(default=1)
    sparsity: float = 0.5
    M: jax.Array = matrix("hidden", "hidden", _wired(0), trained=False)
    M_x: jax.Array = matrix("hidden", "in", _wired(1), trained=False)

    def conductances(self) -> tuple[jax.Array, jax.Array]:
        """The weights of the synapses that the wiring has."""
        w, w_x = super().conductances()
        return self.M * w, self.M_x * w_x

    def output(self, v: jax.Array, x: jax.Array) -> jax.Array:
        """The motor neurons."""
        return v[: self.motor_size]
