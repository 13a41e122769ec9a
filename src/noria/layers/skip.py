"""Layers with a connection around them: ``Residual`` and ``Concat``."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from noria._errors import as_given
from noria._types import Aux, Key, State
from noria.layers.base import Layer
from noria.layers.compiled import whole
from noria.layers.per_step import as_layer
from noria.layers.states import with_batch
from noria.masking import check_lengths, keep_valid


class SkipLayer(Layer):
    """A layer whose input joins its output, step by step."""

    layer: Layer

    def __init__(self, layer: Any):
        name = type(self).__name__
        self.layer = as_layer(name, layer)
        if self.layer.stride != 1:
            raise ValueError(
                f"{name}({self.layer.label}): it gives one step for {self.layer.stride} of its "
                "input, which have no partners; expected a layer with one output for each step."
            )

    @abc.abstractmethod
    def _join(self, xs: jax.Array, ys: Any) -> jax.Array:
        """The output, from the input and the output of the layer."""

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> tuple[State, Any]:
        """The final state and the outputs of whole sequences; see `Layer.scan`.

        Args:
            state: see `Layer.scan`.
            xs: see `Layer.scan`.
            lengths: see `Layer.scan`.
            resets: see `Layer.scan`.
            key: see `Layer.scan`.
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.scan`.

        Returns:
            As `Layer.scan`.

        Raises:
            ValueError: see `Layer.scan`.
            TypeError: see `Layer.scan`; if one of ``inputs`` is missing, or no cell takes it.
        """
        state, ys = self.layer.scan(state, xs, lengths=lengths, resets=resets, key=key, **inputs)
        xs = jnp.asarray(xs)
        if lengths is not None:
            lengths = as_given(lengths)
            xs = keep_valid(xs, check_lengths(self.label, lengths, xs.shape, lengths.ndim))
        return state, self._joined(xs, ys)

    @whole
    def step(
        self,
        state: State,
        x: Any,
        *,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> tuple[State, Any]:
        """The next state and the output of one step, for streaming; see `Layer.step`.

        Args:
            state: see `Layer.step`.
            x: see `Layer.step`.
            resets: see `Layer.step`.
            key: see `Layer.step`.
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.step`.

        Returns:
            As `Layer.step`.

        Raises:
            ValueError: see `Layer.step`.
            TypeError: see `Layer.step`; if one of ``inputs`` is missing, or no cell takes it.
        """
        state, y = self.layer.step(state, x, resets=resets, key=key, **inputs)
        return state, self._joined(jnp.asarray(x), y)

    def _joined(self, xs: jax.Array, ys: Any) -> Any:
        if isinstance(ys, Aux):
            return Aux(self._join(xs, ys.y), ys.extra)
        return self._join(xs, ys)

    def initial_state(self, batch: int | None = None) -> State:
        return with_batch(self.label, self.layer.initial_state(), batch)

    def takes(self) -> frozenset[str]:
        return self.layer.takes()

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.layer.label})"

    def _check_known(self, x: Any) -> None:
        self.layer._check_known(x)

    def _check_streams(self) -> None:
        self.layer._check_streams()


class Residual(SkipLayer):
    """A layer whose input is added to its output.

    ::

        y_t = x_t + layer(xs)_t

    Args:
        layer: a layer, or a function of the features of one step. Its state is the state of this
            layer.

    Attributes:
        layer: the layer.

    Shapes:
        ``(time, features)`` or ``(batch, time, features)`` to the same.

    Raises:
        ValueError: if the layer has a `Layer.stride`, and in a call, if it changes the shape.
        TypeError: if ``layer`` is a cell, or not callable.

    Source: He et al. 2016, "Deep residual learning for image recognition", arXiv 1512.03385. Flux
    spells it ``SkipConnection(layer, +)``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.Residual(nr.GRU(3, 3, key=jax.random.key(0)))(jnp.ones((4, 3))).shape
        (4, 3)
    """

    def __init__(self, layer: Any):
        super().__init__(layer)

    def _join(self, xs: jax.Array, ys: Any) -> jax.Array:
        if jnp.shape(xs) != getattr(ys, "shape", None):
            came = ys.shape if hasattr(ys, "shape") else f"a {type(ys).__name__}"
            raise ValueError(
                f"{self.label}: it turns {xs.shape} into {came}, "
                "which cannot be added; expected a layer with as many features out as in."
            )
        return xs + ys


class Concat(SkipLayer):
    """A layer whose input stands beside its output.

    ::

        y_t = [x_t, layer(xs)_t]

    A nested one collects the outputs of all layers: the output of ``Concat(Chain(a, Concat(b)))``
    is ``[x, a, b]``.

    Args:
        layer: a layer, or a function of the features of one step. Its state is the state of this
            layer.

    Attributes:
        layer: the layer.

    Shapes:
        ``(time, in)`` or ``(batch, time, in)`` to the same with ``in + out`` features.

    Raises:
        ValueError: if the layer has a `Layer.stride`, and in a call, if it changes the number of
            steps.
        TypeError: if ``layer`` is a cell, or not callable; in a call, if its dtype is another one.

    Source: Huang et al. 2017, "Densely connected convolutional networks", arXiv 1608.06993. Flux
    spells it ``SkipConnection(layer, (y, x) -> vcat(x, y))``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.Concat(nr.GRU(3, 5, key=jax.random.key(0)))(jnp.ones((4, 3))).shape
        (4, 8)
    """

    def __init__(self, layer: Any):
        super().__init__(layer)

    def _join(self, xs: jax.Array, ys: Any) -> jax.Array:
        if xs.ndim == 0 or xs.shape[:-1] != getattr(ys, "shape", (None, None))[:-1]:
            came = ys.shape if hasattr(ys, "shape") else f"a {type(ys).__name__}"
            raise ValueError(
                f"{self.label}: it turns {xs.shape} into {came}, which cannot stand beside it; "
                "expected a layer with one output for each step."
            )
        if xs.dtype != ys.dtype:
            raise TypeError(
                f"{self.label}: its input is {xs.dtype} and its output {ys.dtype}, which cannot "
                "stand beside each other; expected one dtype."
            )
        return jnp.concatenate([xs, ys], axis=-1)
