"""Functions of the features of one step as layers, and two norms of Equinox wrapped in one."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import equinox as eqx
import jax

from noria._parameters import parameter
from noria._types import Key
from noria.cells.base import Cell, cell_name, takes_key
from noria.ir.evaluate import mapped, of_one
from noria.layers.base import Layer, StatelessLayer
from noria.module import as_pytree


class PerStep(StatelessLayer):
    """A function of the features of one step, applied at every step of every example.

    ::

        y_t = function(x_t)

    `Chain` wraps every callable that is not a layer: plain functions and Equinox modules.

    Args:
        function: maps ``(in,)`` to ``(out,)``. If it has an argument ``key``, it gets a random key
            of its own at each step.

    Attributes:
        function: the function, as a pytree; the arrays of a module are trained.

    Shapes:
        ``(..., in)`` to ``(..., out)``, with any leading axes.

    Raises:
        TypeError: if ``function`` is not callable.
        ValueError: in a call, for an input without axes.

    Keras calls this ``TimeDistributed``.

    Examples:
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
        ys: jax.Array = mapped(one, *of_one((xs, keys), len(lead)))((xs, keys), lead)
        return ys

    @property
    def label(self) -> str:
        return cell_name(self.function)


def as_layer(call: str, layer: Any) -> Layer:
    """A part of a model as a layer; a function becomes a `PerStep`."""
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


def _call(function: Callable[..., Any], x: jax.Array, key: Key | None) -> Any:
    return function(x) if key is None else function(x, key=key)


class NormConstructor(Protocol):
    """A constructor of a norm, which also takes arrays."""

    __name__: str

    def __call__(self, size: int, **options: Any) -> PerStep: ...

    def from_arrays(self, weight: Any = None, bias: Any = None, *, eps: float = ...) -> PerStep:
        """The layer with these arrays."""
        ...


def _norm(norm: Any) -> Callable[[Callable[..., PerStep]], NormConstructor]:
    """Give the constructor of a norm of Equinox its ``from_arrays``."""

    def from_arrays(weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> PerStep:
        call = f"{norm.__name__}.from_arrays"
        given = {n: a for n, a in (("weight", weight), ("bias", bias)) if a is not None}
        if not given:
            raise TypeError(f"{call}: weight and bias are None; expected one of them, (size,).")
        arrays: dict[str, jax.Array] = {}
        for name, array in given.items():
            first = next(iter(arrays.values()), None)
            like = () if first is None else (first.shape, first.dtype)
            arrays[name] = parameter(call, name, array, "(size,)", 1, *like)
        [shape] = {array.shape for array in arrays.values()}
        layer = norm(shape, eps, "weight" in arrays, "bias" in arrays)
        for name, array in arrays.items():
            object.__setattr__(layer, name, array)
        return PerStep(layer)

    def decorate(constructor: Callable[..., PerStep]) -> NormConstructor:
        function: Any = constructor
        function.from_arrays = from_arrays
        return cast(NormConstructor, constructor)

    return decorate


@_norm(eqx.nn.LayerNorm)
def LayerNorm(size: int, **options: Any) -> PerStep:
    """`equinox.nn.LayerNorm` over the features of each step.

    ::

        y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias

    Args:
        size: features of a step.
        **options: the options of `equinox.nn.LayerNorm`: ``eps`` (1e-5), ``use_weight``,
            ``use_bias``, ``dtype``.

    Returns:
        A layer from ``(..., size)`` to the same, of the dtype of the input.

    Raises:
        ValueError: in a call, for an input of another size.

    ``LayerNorm.from_arrays(weight, bias, eps=1e-5)`` makes the layer from arrays ``(size,)``; one
    of the two may be ``None``.

    Source: Ba et al. 2016, arXiv 1607.06450. PyTorch's ``LayerNorm`` has the same ``eps``, Keras'
    has 1e-3.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.LayerNorm(3)(jnp.ones((4, 5, 3))).shape
        (4, 5, 3)
    """
    return PerStep(eqx.nn.LayerNorm(size, **options))


@_norm(eqx.nn.RMSNorm)
def RMSNorm(size: int, **options: Any) -> PerStep:
    """`equinox.nn.RMSNorm` over the features of each step.

    ::

        y = x / sqrt(mean(x ^ 2) + eps) * weight + bias

    Args:
        size: features of a step.
        **options: the options of `equinox.nn.RMSNorm`: ``eps`` (1e-5), ``use_weight``,
            ``use_bias``, ``dtype``.

    Returns:
        A layer from ``(..., size)`` to the same, of the dtype of the input.

    Raises:
        ValueError: in a call, for an input of another size.

    ``RMSNorm.from_arrays(weight, bias, eps=1e-5)`` makes the layer from arrays ``(size,)``; one of
    the two may be ``None``.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467. PyTorch's ``RMSNorm`` has no bias, and its
    ``eps`` is the machine epsilon by default.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.RMSNorm(3)(jnp.ones((4, 5, 3))).shape
        (4, 5, 3)
    """
    return PerStep(eqx.nn.RMSNorm(size, **options))
