"""Layers one after the other."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from noria._types import Aux, Key, State
from noria.layers.base import Layer, taken
from noria.layers.compiled import whole
from noria.layers.per_step import as_layer
from noria.layers.several import SeveralLayers, without_extra


class Chain(SeveralLayers):
    """Layers one after the other, with the methods of one layer.

    The whole chain scans, steps, masks and resets. Its state is the tuple of the states of its
    layers, ``None`` for a layer without one. Each layer gets a random key derived from ``key``.
    Its `Layer.stride` is the product of theirs: `Layer.step` takes so many steps and gives one.
    A layer gets the lengths and resets of the outputs before it.

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

    def __init__(self, *layers: Any):
        if not layers:
            raise ValueError("Chain(): it holds no layers; expected at least one.")
        self.layers = tuple(
            as_layer(f"Chain, position {i}", layer) for i, layer in enumerate(layers)
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
        finals, extras = list[State](), list[Any]()
        for layer, before, one in self._parts(state, key, inputs):
            own = taken(layer, inputs)
            after, xs = layer.scan(before, xs, lengths=lengths, resets=resets, key=one, **own)
            finals.append(after)
            xs = without_extra(xs, extras)
            lengths = None if lengths is None else layer.output_lengths(lengths)
            resets = None if resets is None else layer.output_resets(resets)
            inputs = _at_rate(inputs, layer.stride)
        return tuple(finals), Aux(xs, tuple(extras)) if extras else xs

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
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.step`. Each layer
                gets the arguments that its cells take.

        Returns:
            As `Layer.step`.

        Raises:
            ValueError: see `Layer.step`.
            TypeError: see `Layer.step`; if one of ``inputs`` is missing, or no cell takes it.
        """
        finals, extras, steps = list[State](), list[Any](), self.stride
        if steps > 1 and inputs.get("t") is not None:
            inputs["t"] = inputs["t"] * steps
        for layer, before, one in self._parts(state, key, inputs):
            own = taken(layer, inputs)
            run = layer.step if steps == layer.stride else functools.partial(_block, layer, steps)
            after, x = run(before, x, resets=resets, key=one, **own)
            finals.append(after)
            x = without_extra(x, extras)
            steps //= layer.stride
            inputs = _at_rate(inputs, layer.stride)
        return tuple(finals), Aux(x, tuple(extras)) if extras else x

    def _refuse(self, state: State) -> NoReturn:
        came = (
            f"a tuple of {len(state)}" if isinstance(state, tuple) else f"a {type(state).__name__}"
        )
        raise ValueError(
            f"Chain of {len(self)} layers: the state is {came}; expected one state a layer, "
            "as initial_state() gives them. The state comes first: layer(state, xs)."
        )

    @property
    def stride(self) -> int:
        return math.prod(layer.stride for layer in self.layers)

    def output_lengths(self, lengths: Any) -> Any:
        return functools.reduce(lambda n, layer: layer.output_lengths(n), self.layers, lengths)

    def output_resets(self, resets: Any) -> Any:
        return functools.reduce(lambda r, layer: layer.output_resets(r), self.layers, resets)

    def __getitem__(self, index: int | slice) -> Any:
        return Chain(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def _check_known(self, x: Any) -> None:
        self.layers[0]._check_known(x)


def _block(
    layer: Layer, steps: int, state: State, xs: Any, *, resets: Any, **given: Any
) -> tuple[State, Any]:
    """Some steps of a layer, within one step of the layer behind it."""
    layer._check_streams()
    if resets is not None:
        resets = jnp.asarray(resets)[..., None] & (np.arange(steps) == 0)
    return layer.scan(state, xs, resets=resets, **given)


def _at_rate(inputs: dict[str, Any], stride: int) -> dict[str, Any]:
    """Arguments of cells by name, behind a layer with a stride: it divides the number of a step."""
    t = inputs.get("t")
    return inputs if t is None or stride == 1 else {**inputs, "t": jnp.asarray(t) // stride}
