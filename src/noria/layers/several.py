"""``SeveralLayers``: what a layer of several layers does with their states, keys and arguments."""

import abc
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from noria._errors import check_key
from noria._types import Aux, Key, State
from noria.layers.base import Layer, check_inputs
from noria.layers.states import with_batch


class SeveralLayers(Layer):
    """A layer of several layers, whose state is the tuple of theirs."""

    layers: tuple[Layer, ...]

    def _parts(
        self, state: State, key: Key | None, inputs: dict[str, Any]
    ) -> Iterator[tuple[Layer, State, Key | None]]:
        """Each layer with its state and key, after a check of the arguments."""
        check_inputs(self, inputs)
        count = len(self.layers)
        states = (None,) * count if state is None else state
        if not isinstance(states, tuple) or len(states) != count:
            self._refuse(states)
        if key is not None:
            check_key(self.label, key)
        keys = (None,) * count if key is None else jax.random.split(key, count)
        return zip(self.layers, states, keys, strict=True)

    @abc.abstractmethod
    def _refuse(self, state: State) -> NoReturn:
        """Raise the error for a state that is no tuple with one for each layer."""

    def initial_state(self, batch: int | None = None) -> State:
        """The initial states of the layers.

        Args:
            batch: see `Layer.initial_state`.

        Returns:
            A tuple with one state for each layer, ``None`` for a layer without a state.
        """
        own = tuple(layer.initial_state() for layer in self.layers)
        return with_batch(self.label, own, batch)

    def takes(self) -> frozenset[str]:
        return frozenset().union(*(layer.takes() for layer in self.layers))

    def _check_streams(self) -> None:
        for layer in self.layers:
            layer._check_streams()


def without_extra(y: Any, extras: list[Any]) -> Any:
    """The output of a layer; what is beside it is added to ``extras``."""
    if isinstance(y, Aux):
        extras.append(y.extra)
        return y.y
    return y
