"""Functions by the names that other frameworks give them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp

from noria.layers.dense import identity

Activation: TypeAlias = Callable[[jax.Array], jax.Array]


#: Functions on which all frameworks agree, by their common names.
COMMON: dict[str, Activation] = {
    "elu": jax.nn.elu,
    "exponential": jnp.exp,
    "linear": identity,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
}

#: The exact form, with the error function; JAX's default is an approximation with tanh.
EXACT_GELU: Activation = partial(jax.nn.gelu, approximate=False)


#: Other names of the same functions.
ALIASES = {"swish": "silu"}


def activation_named(name: Any, fail: Callable[[str], NoReturn]) -> Activation:
    """A function by its name; a function is returned as it is."""
    if callable(name):
        activation: Activation = name
        return activation
    name = ALIASES.get(name, name)
    if name not in COMMON:
        fail(f"{str(name)[:60]!r} is no known activation; expected {', '.join(COMMON)}")
    return COMMON[name]


def function_of(activation: Any) -> Any:
    """The plain function in a field of a cell or layer, which holds it as a pytree."""
    return getattr(activation, "func", activation)
