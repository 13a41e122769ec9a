"""Ablated long short-term memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import scaled, times, total
from noria.initializers import normal

#: The variants of Greff et al.
_VARIANTS = ("none", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "np", "fgr")


def _unless(*variants: str) -> Callable[[Any], bool]:
    """Whether a cell has a parameter that some variants lack."""
    return lambda cell: cell.variant not in variants


class LSTMVariantCell(VectorCell):
    """The peephole long short-term memory with one part changed, to study what the part does.

    ::

        z  = tanh(W_z x + R_z y + b_z)
        i  = sigmoid(W_i x + R_i y + p_i * c + b_i)
        f  = sigmoid(W_f x + R_f y + p_f * c + b_f)
        c' = f * c + i * z
        o  = sigmoid(W_o x + R_o y + p_o * c' + b_o)
        y' = o * tanh(c')

    Args:
        variant: ``"none"`` for the equations above. No input, forget or output gate (``i``, ``f``
            or ``o`` is 1): ``"nig"``, ``"nfg"`` or ``"nog"``. No tanh in ``z`` or in ``y'``:
            ``"niaf"`` or ``"noaf"``. Coupled gates, ``f = 1 - i``: ``"cifg"``. No peepholes:
            ``"np"``. All gates see all gates of the step before, ``R_g (i, f, o)``: ``"fgr"``.

    Source: Greff et al. 2015, arXiv 1503.04069, sections 2 and 3. The array ``g`` of the state
    holds the gates ``i``, ``f``, ``o`` of the step before for ``"fgr"``; else it stays zero.
    """

    variant: str = "none"
    W_z: jax.Array = matrix("hidden", "in")
    W_i: jax.Array | None = matrix("hidden", "in", when=_unless("nig"))
    W_f: jax.Array | None = matrix("hidden", "in", when=_unless("nfg", "cifg"))
    W_o: jax.Array | None = matrix("hidden", "in", when=_unless("nog"))
    R_z: jax.Array = matrix("hidden", "hidden")
    R_i: jax.Array | None = matrix("hidden", "hidden", when=_unless("nig"))
    R_f: jax.Array | None = matrix("hidden", "hidden", when=_unless("nfg", "cifg"))
    R_o: jax.Array | None = matrix("hidden", "hidden", when=_unless("nog"))
    p_i: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nig", "np"))
    p_f: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nfg", "cifg", "np"))
    p_o: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nog", "np"))
    b_z: jax.Array = vector("hidden")
    b_i: jax.Array | None = vector("hidden", when=_unless("nig"))
    b_f: jax.Array | None = vector("hidden", when=_unless("nfg", "cifg"))
    b_o: jax.Array | None = vector("hidden", when=_unless("nog"))
    R_g: jax.Array | None = matrix(
        "3 * hidden", "3 * hidden", when=lambda cell: cell.variant == "fgr"
    )
    y: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    g: jax.Array = state("3 * hidden")

    def __check_init__(self) -> None:
        check_choice("LSTMVariantCell", "variant", self.variant, _VARIANTS)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        (y, c, g), variant = state, self.variant
        fed = times(self.R_g, g)
        g_i, g_f, g_o = (None, None, None) if fed is None else jnp.split(fed, 3)

        def gate(name: str, c: jax.Array, seen: jax.Array | None) -> Any:
            W, R, p, b = (getattr(self, f"{kind}_{name}") for kind in "WRpb")
            if W is None:
                return 1.0
            return sigmoid(total(W @ x, R @ y, scaled(p, c), b, seen))

        z = self.W_z @ x + self.R_z @ y + self.b_z
        z = z if variant == "niaf" else jnp.tanh(z)
        i = gate("i", c, g_i)
        f = 1 - i if variant == "cifg" else gate("f", c, g_f)
        c = f * c + i * z
        o = gate("o", c, g_o)
        y = o * (c if variant == "noaf" else jnp.tanh(c))
        return self.State(y, c, jnp.concatenate([i, f, o]) if variant == "fgr" else g)
