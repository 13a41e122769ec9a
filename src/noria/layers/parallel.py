"""Layers side by side: ``Parallel``."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_choice, describe
from noria._functions import Function
from noria._types import Aux, Key, State
from noria.ir.evaluate import mapped, of_one
from noria.layers.base import taken
from noria.layers.compiled import whole
from noria.layers.per_step import as_layer
from noria.layers.several import SeveralLayers, without_extra
from noria.masking import as_counts, keep_valid
from noria.module import as_pytree


def concat(*ys: jax.Array) -> jax.Array:
    return jnp.concatenate(ys, axis=-1)


def add(*ys: jax.Array) -> jax.Array:
    return functools.reduce(jnp.add, ys)


def mean(*ys: jax.Array) -> jax.Array:
    return add(*ys) / len(ys)


def product(*ys: jax.Array) -> jax.Array:
    return functools.reduce(jnp.multiply, ys)


def separate(*ys: jax.Array) -> tuple[jax.Array, ...]:
    return ys


#: Functions of the features of one step, by name.
JOINS: dict[str, Callable[..., Any]] = {
    "concat": concat,
    "sum": add,
    "mean": mean,
    "product": product,
    "tuple": separate,
}


class Parallel(SeveralLayers):
    """Layers that read the same input side by side, and whose outputs are joined step by step.

    ::

        y_t = join(layers[0](xs)_t, ..., layers[n](xs)_t)

    The state is the tuple of the states of the layers. Each layer gets a random key derived from
    ``key``.

    Args:
        join: ``"concat"``, ``"sum"``, ``"mean"``, ``"product"``, ``"tuple"`` for all outputs as a
            tuple, or a function ``(y, y, ...) -> y`` of the features of one step.
        *layers: layers. Any other callable is a function of the features of one step and becomes a
            `PerStep`.

    Attributes:
        join: the function of the features of one step, as a pytree.
        layers: the layers, as a tuple.

    Shapes:
        ``(time, in)`` or ``(batch, time, in)`` to the same with the features of the joined outputs.
        With ``lengths``, a step is valid if it is valid for all layers.

    Raises:
        ValueError: if there are no layers, ``join`` is unknown, or the layers differ in their
            `Layer.stride`; in a call, if their outputs differ in the number of steps, or in
            features where these must be equal.
        TypeError: if one of the layers is a cell, or not callable.

    Flux's ``Parallel`` also takes one input for each layer. Keras merges tensors with layers of
    their own, ``Concatenate`` or ``Add``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> net = nr.Parallel("concat", nr.GRU(3, 4, key=k1), nr.Dense(3, 2, key=k2))
        >>> net(jnp.ones((5, 3))).shape
        (5, 6)
        >>> gains, voice = nr.Parallel("tuple", nr.Dense(3, 4, key=k1), jnp.tanh)(jnp.ones((5, 3)))
        >>> gains.shape, voice.shape
        ((5, 4), (5, 3))
    """

    join: Callable[..., Any]

    def __init__(self, join: str | Callable[..., Any], *layers: Any):
        if not callable(join):
            check_choice("Parallel", "join", join, tuple(JOINS))
        if not layers:
            raise ValueError("Parallel(join): it holds no layers; expected at least one.")
        self.layers = tuple(
            as_layer(f"Parallel, layer {i}", layer) for i, layer in enumerate(layers)
        )
        strides = [layer.stride for layer in self.layers]
        if len({*strides}) > 1:
            raise ValueError(
                f"Parallel: its layers have the strides {strides}; expected equal ones, so that "
                "each output has its partners."
            )
        self.join = as_pytree(join if callable(join) else JOINS[join])

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
        given = {"lengths": lengths, "resets": resets}
        finals, ys, extras = self._outputs("scan", state, xs, key, inputs, given)
        joined = self._joined(ys)
        if lengths is not None:
            joined = keep_valid(joined, as_counts(self.output_lengths(lengths)))
        return finals, Aux(joined, extras) if extras else joined

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
        finals, ys, extras = self._outputs("step", state, x, key, inputs, {"resets": resets})
        return finals, Aux(self._joined(ys), extras) if extras else self._joined(ys)

    def _outputs(
        self,
        verb: str,
        state: State,
        xs: Any,
        key: Key | None,
        inputs: dict[str, Any],
        given: dict[str, Any],
    ) -> tuple[State, list[Any], tuple[Any, ...]]:
        """The states and outputs of all layers, and what some of them emit beside an output."""
        finals, ys, extras = list[State](), list[Any](), list[Any]()
        for layer, before, one in self._parts(state, key, inputs):
            own = taken(layer, inputs)
            after, y = getattr(layer, verb)(before, xs, key=one, **given, **own)
            finals.append(after)
            ys.append(without_extra(y, extras))
        return tuple(finals), ys, tuple(extras)

    def _joined(self, ys: list[Any]) -> Any:
        self._check(ys)
        lead = ys[0].shape[:-1]
        one = eqx.Partial(_call, self.join)
        return mapped(one, *of_one((ys,), len(lead)))((ys,), lead)

    def _check(self, ys: list[Any]) -> None:
        """Check that the outputs can be joined. A named join does not promote or broadcast."""
        shapes = [getattr(y, "shape", ()) for y in ys]
        named = next((n for n, f in JOINS.items() if self.join == Function(f)), "tuple")
        same = named in ("sum", "mean", "product")
        if () in shapes or len({shape if same else shape[:-1] for shape in shapes}) > 1:
            came = ", ".join(
                f"{layer.label} {describe(y)}" for layer, y in zip(self.layers, ys, strict=True)
            )
            equal = "equal shapes" if same else "arrays with equal axes before the features"
            raise ValueError(f"{self.label}: the outputs are {came}; expected {equal}.")
        if named != "tuple" and len({y.dtype for y in ys}) > 1:
            came = ", ".join(str(y.dtype) for y in ys)
            raise TypeError(f"{self.label}: the outputs are {came}; expected one dtype.")

    def _refuse(self, state: State) -> NoReturn:
        raise ValueError(
            f"{self.label}: the state is {describe(state)}; expected a tuple of "
            f"{len(self.layers)}, as initial_state() gives it. The state comes first: "
            "layer(state, xs)."
        )

    @property
    def stride(self) -> int:
        return self.layers[0].stride

    def output_lengths(self, lengths: Any) -> Any:
        found = [layer.output_lengths(lengths) for layer in self.layers]
        if all(one is lengths for one in found):
            return lengths
        return functools.reduce(jnp.minimum, map(as_counts, found))

    def output_resets(self, resets: Any) -> Any:
        return self.layers[0].output_resets(resets)

    @property
    def label(self) -> str:
        return f"Parallel({', '.join(layer.label for layer in self.layers)})"

    def _check_known(self, x: Any) -> None:
        for layer in self.layers:
            layer._check_known(x)


def _call(join: Callable[..., Any], ys: list[jax.Array]) -> Any:
    return join(*ys)
