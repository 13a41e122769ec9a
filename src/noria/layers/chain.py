"""Layers one after the other, and layers with a skip connection."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from noria._errors import as_given, check_key
from noria._types import Aux, Key, State
from noria.cells.base import Cell
from noria.layers.base import Layer, check_taken
from noria.layers.per_step import PerStep
from noria.masking import check_lengths, keep_valid


class Chain(Layer):
    """Layers one after the other, with the methods of one layer.

    The whole chain scans, steps, masks and resets. Its state is the tuple of the states of its
    layers, ``None`` for a layer without one. Each layer gets a random key derived from ``key``.

    ::

        y = layers[n](... layers[1](layers[0](x)))

    Args:
        *layers: layers. Any other callable is a function of the features of one step and becomes a
            `PerStep`.

    Attributes:
        layers: the layers, as a tuple. ``chain[i]``, ``len(chain)`` and iteration work too; a slice
            is a chain.

    Shapes:
        ``xs`` has the shape that the first layer takes; the outputs have the shape that the last
        layer gives.

    Raises:
        ValueError: if there are no layers.
        TypeError: if one of them is not callable, or is a cell; ``Recurrence(cell)`` makes it a
            layer.

    Flux's ``Chain`` and Keras' ``Sequential`` do the same; PyTorch's ``Sequential`` cannot hold its
    recurrent layers.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> net = nr.Chain(nr.LSTM(2, 8, key=k1), jnp.tanh, nr.Dense(8, 1, key=k2))
        >>> state, ys = net.scan(None, jnp.ones((5, 2)))
        >>> state, y = net.step(state, jnp.ones(2))
        >>> ys.shape, y.shape
        ((5, 1), (1,))
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Any):
        if not layers:
            raise ValueError("Chain(): it holds no layers; expected at least one.")
        self.layers = tuple(
            _as_layer(f"Chain, position {i}", layer) for i, layer in enumerate(layers)
        )

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
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.scan`. Each layer
                gets the arguments that its cells take.

        Returns:
            As `Layer.scan`.

        Raises:
            ValueError: see `Layer.scan`.
            TypeError: see `Layer.scan`; if one of ``inputs`` is missing, or no cell takes it.
        """
        return self._run("scan", state, xs, key, inputs, lengths=lengths, resets=resets)

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
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.step`. Each layer
                gets the arguments that its cells take.

        Returns:
            As `Layer.step`.

        Raises:
            ValueError: see `Layer.step`.
            TypeError: see `Layer.step`; if one of ``inputs`` is missing, or no cell takes it.
        """
        return self._run("step", state, x, key, inputs, resets=resets)

    def _run(
        self,
        verb: str,
        state: State,
        xs: Any,
        key: Key | None,
        inputs: dict[str, Any],
        **options: Any,
    ) -> tuple[State, Any]:
        check_taken(self.label, inputs, self.takes())
        states = (None,) * len(self) if state is None else state
        if not isinstance(states, tuple) or len(states) != len(self):
            came = (
                f"a tuple of {len(states)}"
                if isinstance(states, tuple)
                else f"a {type(states).__name__}"
            )
            raise ValueError(
                f"Chain of {len(self)} layers: the state is {came}; expected one state a layer, "
                "as initial_state() gives them. The state comes first: layer(state, xs)."
            )
        if key is not None:
            check_key(self.label, key)
        keys = (None,) * len(self) if key is None else jax.random.split(key, len(self))
        finals, extras = [], []
        for layer, before, k in zip(self.layers, states, keys, strict=True):
            own = {name: a for name, a in inputs.items() if name in layer.takes()}
            after, xs = getattr(layer, verb)(before, xs, key=k, **options, **own)
            finals.append(after)
            if isinstance(xs, Aux):
                xs, extra = xs
                extras.append(extra)
        return tuple(finals), Aux(xs, tuple(extras)) if extras else xs

    def initial_state(self) -> State:
        """The initial states of the layers.

        Returns:
            A tuple with one state for each layer, ``None`` for a layer without a state.
        """
        return tuple(layer.initial_state() for layer in self.layers)

    def takes(self) -> frozenset[str]:
        return frozenset().union(*(layer.takes() for layer in self.layers))

    def __getitem__(self, index: int | slice) -> Any:
        return Chain(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)


class Residual(Layer):
    """A layer with a skip connection.

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
        ValueError: in a call, if the layer changes the shape.
        TypeError: if ``layer`` is a cell, or not callable.

    Source: He et al. 2016, "Deep residual learning for image recognition", arXiv 1512.03385. Flux
    spells it ``SkipConnection(layer, +)``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.Residual(nr.GRU(3, 3, key=jax.random.key(0)))(jnp.ones((4, 3))).shape
        (4, 3)
    """

    layer: Layer

    def __init__(self, layer: Any):
        self.layer = _as_layer("Residual", layer)

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
        return state, self._add(xs, ys)

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
        return state, self._add(jnp.asarray(x), y)

    def _add(self, xs: jax.Array, ys: Any) -> Any:
        if isinstance(ys, Aux):
            return Aux(self._add(xs, ys.y), ys.extra)
        if jnp.shape(xs) != getattr(ys, "shape", None):
            came = ys.shape if hasattr(ys, "shape") else f"a {type(ys).__name__}"
            raise ValueError(
                f"Residual({self.layer.label}): it turns {xs.shape} into {came}, "
                "which cannot be added; expected a layer with as many features out as in."
            )
        return xs + ys

    def initial_state(self) -> State:
        return self.layer.initial_state()

    def takes(self) -> frozenset[str]:
        return self.layer.takes()


def _as_layer(call: str, layer: Any) -> Layer:
    if isinstance(layer, Layer):
        return layer
    if isinstance(layer, Cell):
        raise TypeError(
            f"{call}: {type(layer).__name__} is a cell; expected a layer: "
            f"Recurrence({type(layer).__name__}(...))."
        )
    if isinstance(layer, type) or not callable(layer):
        raise TypeError(
            f"{call}: {layer!r} is no layer and not callable; "
            "expected a layer or a function of one step."
        )
    return PerStep(layer)
