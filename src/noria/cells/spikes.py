"""The spike function with surrogate derivatives, and what spiking cells share."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from noria._errors import check_choice
from noria.cells.declare import vector
from noria.cells.declared import VectorCell


def _arctan(v: jax.Array) -> jax.Array:
    return 1 / (1 + (math.pi * v) ** 2)


def _sigmoid(v: jax.Array) -> jax.Array:
    s = jax.nn.sigmoid(v)
    return s * (1 - s)


def _triangle(v: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(v), 0)


def _exponential(v: jax.Array) -> jax.Array:
    return 0.5 * jnp.exp(-jnp.abs(v))


def _double_gaussian(v: jax.Array) -> jax.Array:
    narrow, wide = (jnp.exp(-0.5 * (v / s) ** 2) / (s * math.sqrt(math.tau)) for s in (0.5, 3.0))
    return 1.15 * narrow - 0.3 * wide


#: Derivatives that take the place of the derivative of the step.
SURROGATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "arctan": _arctan,
    "sigmoid": _sigmoid,
    "triangle": _triangle,
    "exponential": _exponential,
    "double_gaussian": _double_gaussian,
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def spike(
    v: jax.Array, surrogate: str = "arctan", slope: float = 1.0, scale: float = 1.0
) -> jax.Array:
    """1 where ``v > 0``, otherwise 0, with the derivative of a smooth function.

    ::

        spike'(v) = scale * slope * d(slope * v)

        arctan:           d(v) = 1 / (1 + (pi v)^2)
        sigmoid:          d(v) = sigmoid(v) * (1 - sigmoid(v))
        triangle:         d(v) = max(0, 1 - |v|)
        exponential:      d(v) = exp(-|v|) / 2
        double_gaussian:  d(v) = 1.15 N(v; 0, 0.5^2) - 0.3 N(v; 0, 3^2)

    Args:
        v: the membrane potentials over their thresholds, of any floating dtype.
        surrogate: the name of ``d``.
        slope: how steep the smooth function is.
        scale: a factor of the derivative.

    Returns:
        An array as ``v``.

    Source: arctan by Fang et al. 2020, arXiv 2007.05785; triangle by Bellec et al. 2018, arXiv
    1803.09574; exponential by Shrestha and Orchard 2018, arXiv 1810.08646; double Gaussian in the
    code for Higuchi et al. 2024, arXiv 2402.14603. The slope of snnTorch's sigmoid is 25.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from noria.cells.spikes import spike
        >>> spike(jnp.array([-0.5, 0.5])).tolist(), float(jax.grad(spike)(jnp.zeros(())))
        ([0.0, 1.0], 1.0)
    """
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _derivative(
    surrogate: str,
    slope: float,
    scale: float,
    primals: tuple[jax.Array],
    tangents: tuple[jax.Array],
) -> tuple[jax.Array, jax.Array]:
    (v,), (dv,) = primals, tangents
    d = scale * slope * SURROGATES[surrogate](slope * v)
    return spike(v, surrogate, slope, scale), d * dv


class SpikingCell(VectorCell):
    """A declared cell whose units spike when their potentials exceed a threshold.

    Args:
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.
    """

    threshold: float = 1.0
    surrogate: str = "arctan"
    slope: float = 1.0
    scale: float = 1.0

    def __check_init__(self) -> None:
        name = type(self).__name__
        check_choice(name, "surrogate", self.surrogate, tuple(SURROGATES))
        if not self.threshold > 0:
            raise ValueError(f"{name}(threshold={self.threshold}): expected a number above 0.")

    def _spike(self, v: jax.Array) -> jax.Array:
        """The spikes of units whose potentials are ``v`` above the threshold."""
        return spike(v, self.surrogate, self.slope, self.scale)


class ResetCell(SpikingCell):
    """A spiking cell whose spikes reset its membrane.

    Args:
        reset: what a spike does to the membrane: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether the reset comes with the next step, or right after the spike.
    """

    reset: str = "subtract"
    reset_delay: bool = True

    def __check_init__(self) -> None:
        check_choice(type(self).__name__, "reset", self.reset, ("subtract", "zero", "none"))

    def _fired(self, before: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The membrane after the resets of a step, and its spikes; ``u`` is without resets."""
        theta = self.threshold
        R = stop_gradient(self._spike(before - theta))
        u = self._reset(u, R)
        s = self._spike(u - theta)
        return (u if self.reset_delay else self._reset(u, s - R)), s

    def _reset(self, u: jax.Array, R: jax.Array) -> jax.Array:
        """The membrane after the reset of the units with ``R = 1``."""
        if self.reset == "none":
            return u
        return u - R * self.threshold if self.reset == "subtract" else u - R * u


class LeakyCell(ResetCell):
    """A spiking cell with a leaky membrane and a reset."""

    beta: jax.Array = vector("hidden", 0.9, trained=False)

    def _step(self, u: jax.Array, current: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The membrane after a step, and its spikes."""
        return self._fired(u, jnp.clip(self.beta, 0, 1) * u + current)
