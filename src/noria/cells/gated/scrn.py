"""Structurally constrained recurrent network."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class SCRNCell(VectorCell):
    """The structurally constrained network: a hidden layer and slow context units.

    ::

        s' = (1 - alpha) * B x + alpha * s
        h' = sigmoid(P s' + A x + R h)

    The output is ``h'`` and ``s'`` side by side. A `Dense` layer behind it is the paper's output
    layer ``f(U h' + V s')``.

    Args:
        context_size: features of ``s``.
        alpha: how much of the context a step keeps, in [0, 1).
        adaptive: whether each context unit learns an ``alpha`` of its own instead, the sigmoid of
            ``beta``; it starts at 0.95.

    Source: Mikolov et al. 2014, arXiv 1412.7753. RecurrentLayers.jl starts from ``alpha`` 0,
    torchrecurrent from 0.5. RecurrentLayers.jl feeds the output back, not the hidden layer.
    """

    context_size: int = size(default=10)
    alpha: float = 0.95
    adaptive: bool = False
    B: jax.Array = matrix("context", "in")
    P: jax.Array = matrix("hidden", "context")
    A: jax.Array = matrix("hidden", "in")
    R: jax.Array = matrix("hidden", "hidden")
    beta: jax.Array | None = vector(
        "context", math.log(0.95 / 0.05), when=lambda cell: cell.adaptive
    )
    h: jax.Array = state("hidden")
    s: jax.Array = state("context")

    def __check_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"SCRNCell(alpha={self.alpha}): expected a number in [0, 1).")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, s = state
        alpha = self.alpha if self.beta is None else sigmoid(self.beta)
        s = (1 - alpha) * (self.B @ x) + alpha * s
        h = sigmoid(self.P @ s + self.A @ x + self.R @ h)
        return self.State(h, s)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        return jnp.concatenate(state)
