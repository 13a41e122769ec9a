"""Functions of one step's features as layers, and Equinox's norms by it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from noria._types import Key
from noria.cells.base import cell_name, takes_key
from noria.ir.evaluate import mapped, of_one
from noria.layers.base import StatelessLayer
from noria.module import as_pytree


class PerStep(StatelessLayer):
    """Any function of one step's features, applied at every step of every example.

    ``Chain`` wraps what is not a layer in this: plain functions, Equinox modules.

    Args:
        function: maps ``(in,)`` to ``(out,)``; if it has a ``key`` argument it is given one of its own at each step.

    >>> import equinox as eqx, jax, jax.numpy as jnp, noria as nr
    >>> mlp = nr.PerStep(eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0)))
    >>> mlp(jnp.ones((4, 5, 2))).shape
    (4, 5, 1)
    """

    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        if not callable(function):
            raise TypeError(
                f"PerStep(function): function is a {type(function).__name__}; "
                "expected something callable."
            )
        self.function = as_pytree(function)

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        if xs.ndim == 0:
            raise ValueError(f"{self.label}: x is a number; expected (in,), with any leading axes.")
        lead = xs.shape[:-1]
        keys = None if key is None or not takes_key(self.function) else jax.random.split(key, lead)

        one = eqx.Partial(_call, self.function)
        return mapped(one, *of_one((xs, keys), len(lead)))((xs, keys), lead)

    @property
    def label(self) -> str:
        return cell_name(self.function)


def _call(function: Callable[..., Any], x: jax.Array, key: Key | None) -> jax.Array:
    return function(x) if key is None else function(x, key=key)


def LayerNorm(size: int, **options: Any) -> PerStep:
    """`equinox.nn.LayerNorm` over the features of each step.

    >>> import jax.numpy as jnp, noria as nr
    >>> nr.LayerNorm(3)(jnp.ones((4, 5, 3))).shape
    (4, 5, 3)
    """
    return PerStep(eqx.nn.LayerNorm(size, **options))


def RMSNorm(size: int, **options: Any) -> PerStep:
    """`equinox.nn.RMSNorm` over the features of each step.

    >>> import jax.numpy as jnp, noria as nr
    >>> nr.RMSNorm(3)(jnp.ones((4, 5, 3))).shape
    (4, 5, 3)
    """
    return PerStep(eqx.nn.RMSNorm(size, **options))
