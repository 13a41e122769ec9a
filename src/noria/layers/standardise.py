"""``Standardise``: scaling with fixed statistics, which travels with the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._errors import as_given, check_numbers, check_step, known
from noria._parameters import default_dtype
from noria._types import Key
from noria.layers.base import StatelessLayer


class Standardise(StatelessLayer, trainable=()):
    """Scales each feature by fixed statistics; missing values become a mask.

    ::

        y = (x - mean) / deviation
            with missing, where m is 1 where x is NaN and 0 elsewhere:
        y = [(1 - m) * (x - mean) / deviation, m]

    The statistics are kept, moved and saved with the model, and never trained.

    Args:
        mean: ``(in,)`` numbers.
        deviation: ``(in,)`` numbers above 0.
        missing: whether NaN in the input is a missing value. A missing value is replaced by the
            mean, and a mask is appended to the features.
        dtype: floating dtype of the statistics; JAX's default, float32.

    Attributes:
        mean: ``(in,)``.
        deviation: ``(in,)``.
        missing: as passed.

    Shapes:
        ``(..., in)`` to ``(..., in)``, or with ``missing`` to ``(..., 2 * in)``.

    Raises:
        ValueError: if shapes differ, a deviation is not above 0, or an input has another size.
        TypeError: for an input of another dtype.

    Keras calls it ``Normalization``. A ``BatchNorm`` would take its statistics from each batch,
    padding included.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> scale = nr.Standardise([10.0], [2.0], missing=True)
        >>> scale(jnp.array([[12.0], [jnp.nan]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    mean: jax.Array
    deviation: jax.Array
    missing: bool

    def __init__(self, mean: Any, deviation: Any, *, missing: bool = False, dtype: Any = None):
        dtype = default_dtype(dtype)
        means, deviations = as_given(mean), as_given(deviation)
        for name, given in (("mean", means), ("deviation", deviations)):
            check_numbers("Standardise", name, given)
        if means.ndim != 1 or means.shape != deviations.shape:
            raise ValueError(
                f"Standardise: mean has shape {means.shape}, deviation {deviations.shape}; "
                "expected (in,) for both."
            )
        values = known(deviations)
        if values is not None and not (values > 0).all():
            raise ValueError(
                f"Standardise: deviation holds {values[~(values > 0)][0]}; expected numbers above "
                "0. Leave out features that never change."
            )
        self.mean = jnp.asarray(means.astype(dtype))
        self.deviation = jnp.asarray(deviations.astype(dtype))
        self.missing = bool(missing)

    @classmethod
    def of(cls, values: Any, *, missing: bool | None = None, dtype: Any = None) -> "Standardise":
        """The layer with the statistics of training data.

        Args:
            values: ``(..., in)`` numbers, such as a series ``(time, in)``. NaN is left out.
            missing: see `Standardise`; by default whether ``values`` hold NaN.
            dtype: see `Standardise`.

        Returns:
            The layer. A feature that never changes gets the deviation 1.

        Raises:
            ValueError: if a feature has no value.
        """
        steps = np.asarray(values, np.float64)
        steps = steps.reshape(-1, steps.shape[-1] if steps.ndim else 1)
        there = ~np.isnan(steps)
        if not there.any(axis=0).all():
            none = int(np.flatnonzero(~there.any(axis=0))[0])
            raise ValueError(
                f"Standardise.of: feature {none} has no value; expected at least one number."
            )
        mean = np.mean(steps, axis=0, where=there)
        deviation = np.std(steps, axis=0, where=there)
        deviation = np.where(deviation > 0, deviation, 1)
        missing = bool((~there).any()) if missing is None else missing
        return cls(mean, deviation, missing=missing, dtype=dtype)

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        check_step(self.label, "x", xs, len(self.mean), self.mean.dtype)
        if not self.missing:
            return (xs - self._wide(self.mean, xs)) / self._wide(self.deviation, xs)
        absent = jnp.isnan(xs)
        mean = self._wide(self.mean, xs)
        # NaN is replaced before the division, so that it does not reach the gradient.
        scaled = (jnp.where(absent, mean, xs) - mean) / self._wide(self.deviation, xs)
        return jnp.concatenate([scaled, absent.astype(xs.dtype)], axis=-1)

    def inverse(self, ys: Any) -> jax.Array:
        """Scaled values back in their unit.

        ::

            x = y * deviation + mean

        Args:
            ys: ``(..., in)``, such as predictions.

        Returns:
            ``(..., in)`` of the same dtype.

        Raises:
            ValueError: for another size.
            TypeError: for another dtype.
        """
        ys = jnp.asarray(ys)
        check_step(f"{self.label}.inverse", "y", ys, len(self.mean), self.mean.dtype)
        return ys * self._wide(self.deviation, ys) + self._wide(self.mean, ys)

    def _wide(self, statistic: jax.Array, like: jax.Array) -> jax.Array:
        # Fixed also where a whole model is differentiated with jax.grad.
        return jnp.broadcast_to(jax.lax.stop_gradient(statistic), like.shape)

    @property
    def label(self) -> str:
        return f"Standardise(in_size={len(self.mean)})"
