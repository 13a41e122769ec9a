"""Dropout: a mask for each step, or one mask for a whole sequence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_choice, check_key
from noria._types import Key, State
from noria.layers.base import StatelessLayer
from noria.layers.compiled import whole


class Dropout(StatelessLayer):
    """Sets features to zero with probability ``p`` and divides the others by ``1 - p``.

    ::

        m ~ Bernoulli(1 - p),    y = m * x / (1 - p)          in training
                                 y = x                        in inference

    Args:
        p: probability of a zero, at least 0 and below 1.
        axis: ``None`` draws a mask for each step; ``"time"`` draws one mask for all steps of a
            sequence, another one for each example (variational dropout).
        inference: whether the layer does nothing. `noria.inference` and `noria.training` set it for
            a whole model.

    Attributes:
        p: as passed.
        axis: as passed.
        inference: as passed.

    Shapes:
        ``(..., features)`` to the same, of any floating dtype. With ``axis="time"``, time is the
        axis before the features. A step has no such axis: pass the same key at each step to get the
        mask that ``scan`` draws from it.

    Raises:
        ValueError: for a ``p`` out of range, or an unknown ``axis``.
        TypeError: in training mode, if no key is passed.

    Source: Srivastava et al. 2014; ``axis="time"`` is Gal and Ghahramani 2016, arXiv 1512.05287.
    The option ``dropout`` of PyTorch's recurrent layers is the first form, between layers; Keras'
    is the second. Neither takes a key.

    Examples:
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

    @whole
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
