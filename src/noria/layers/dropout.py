"""Dropout, fresh at each step or one mask for a whole sequence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_choice, check_key
from noria._types import Key, State
from noria.layers.base import StatelessLayer


class Dropout(StatelessLayer):
    """Sets features to zero with probability ``p`` and divides the others by ``1 - p``.

    Args:
        p: probability, at least 0 and below 1.
        axis: ``None`` draws anew for each number; ``"time"`` draws one mask for all steps of a sequence, another one for
            each example (variational dropout, Gal and Ghahramani 2016).
        inference: whether it does nothing; switched for a whole model by `noria.inference` and `noria.training`.

    Shapes:
        ``(..., features)`` to the same. With ``axis="time"`` the time axis is the one before the features; in `step`
        there is none, and a caller who passes the same key at each step gets the mask that `scan` draws from it.

    Raises:
        ValueError: for a ``p`` out of range.
        TypeError: in training mode, when no key is passed.

    PyTorch's ``dropout=`` of a recurrent layer is the first form, between layers; Keras' is the second.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> ys = nr.Dropout(0.5, axis="time")(jnp.ones((4, 6, 3)), key=jax.random.key(0))
    >>> bool(jnp.all(ys == ys[:, :1]))
    True
    """

    p: float = eqx.field(static=True)
    axis: str | None = eqx.field(static=True)
    inference: bool = eqx.field(static=True)

    def __init__(self, p: float = 0.5, axis: str | None = None, *, inference: bool = False):
        if isinstance(p, str) or not 0 <= p < 1:
            raise ValueError(
                f"Dropout(p={p!r}): p is a probability; expected at least 0 and below 1."
            )
        check_choice(f"Dropout(p={p})", "axis", axis, (None, "time"))
        self.p, self.axis, self.inference = float(p), axis, bool(inference)

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        one_mask = self.axis == "time" and xs.ndim >= 2
        return self._drop(xs, key, (*xs.shape[:-2], 1, xs.shape[-1]) if one_mask else xs.shape)

    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        x = self._checked(self._given(state, x))
        return None, self._drop(x, key, x.shape)

    def _drop(self, xs: jax.Array, key: Key | None, mask_shape: tuple[int, ...]) -> jax.Array:
        if self.inference or self.p == 0:
            return xs
        if key is None:
            raise TypeError(
                f"{self.label}: in training mode it needs a key: layer(xs, key=key); "
                "for use without dropout, noria.inference(model)."
            )
        check_key(self.label, key)
        kept = jax.random.bernoulli(key, 1 - self.p, mask_shape)
        return jnp.where(kept, xs / (1 - self.p), jnp.zeros_like(xs))

    @property
    def label(self) -> str:
        return f"Dropout({self.p})"
