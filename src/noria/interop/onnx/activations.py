"""Activation functions of ONNX's recurrent operators, by name, alpha and beta."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from noria.activations import keras2_hard_sigmoid
from noria.interop.activations import function_of
from noria.module import Module


@dataclass(frozen=True)
class Entry:
    """A function, and the values of alpha and beta where a file has none.

    ``defaults`` has an entry for each of the two that the function takes. ``None`` means that the
    standard gives no value.
    """

    function: Callable[..., jax.Array]
    defaults: tuple[float | None, ...] = ()


FUNCTIONS: dict[str, Entry] = {
    "Sigmoid": Entry(jax.nn.sigmoid),
    "Tanh": Entry(jnp.tanh),
    "Relu": Entry(jax.nn.relu),
    "Softsign": Entry(jax.nn.soft_sign),
    "Softplus": Entry(jax.nn.softplus),
    "Affine": Entry(lambda x, alpha, beta: alpha * x + beta, (None, None)),
    "ScaledTanh": Entry(lambda x, alpha, beta: alpha * jnp.tanh(beta * x), (None, None)),
    "HardSigmoid": Entry(lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "LeakyRelu": Entry(lambda x, alpha: jnp.where(x >= 0, x, alpha * x), (0.01,)),
    "ThresholdedRelu": Entry(lambda x, alpha: jnp.where(x > alpha, x, jnp.zeros_like(x)), (1.0,)),
    "Elu": Entry(lambda x, alpha: jax.nn.elu(x, alpha), (1.0,)),
}

_BY_LOWER_CASE = {name.lower(): name for name in FUNCTIONS}


class Activation(Module):
    """An activation function of an ONNX file.

    ::

        y = name(x; alpha, beta)

    Args:
        name: a key of `FUNCTIONS`.
        alpha: the first number of the function, or ``None`` if it takes none.
        beta: the second one.
    """

    name: str = eqx.field(static=True)
    alpha: float | None = eqx.field(static=True, default=None)
    beta: float | None = eqx.field(static=True, default=None)

    def __call__(self, x: jax.Array) -> jax.Array:
        numbers = [number for number in (self.alpha, self.beta) if number is not None]
        return FUNCTIONS[self.name].function(x, *numbers)


def activations_of(
    names: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
    fail: Callable[[str], NoReturn],
) -> list[Activation]:
    """The functions that a node names; each takes the next alpha and beta if it has one."""
    left: dict[str, Iterator[float]] = {"alpha": iter(alphas), "beta": iter(betas)}

    def one(given: str) -> Activation:
        name = _BY_LOWER_CASE.get(given.lower())
        if name is None:
            fail(f"has the activation {given!r}; expected one of {', '.join(FUNCTIONS)}.")
        numbers = {}
        for letter, default in zip(left, FUNCTIONS[name].defaults, strict=False):
            numbers[letter] = next(left[letter], default)
            if numbers[letter] is None:
                fail(
                    f"has the activation {name} without activation_{letter}; the standard has no "
                    "default. Write the number into the model."
                )
        return Activation(name, **numbers)

    found = [one(name) for name in names]
    for letter, rest in left.items():
        if next(rest, None) is not None:
            fail(f"has more numbers in activation_{letter} than its activations take.")
    return found


#: Functions of JAX and of Noria, and what they are called.
NAMED: tuple[tuple[Callable[..., jax.Array], Activation], ...] = (
    (jnp.tanh, Activation("Tanh")),
    (jax.nn.tanh, Activation("Tanh")),
    (jax.nn.sigmoid, Activation("Sigmoid")),
    (jax.nn.relu, Activation("Relu")),
    (jax.nn.softplus, Activation("Softplus")),
    (jax.nn.soft_sign, Activation("Softsign")),
    (jax.nn.elu, Activation("Elu", 1.0)),
    (jax.nn.leaky_relu, Activation("LeakyRelu", 0.01)),
    (jax.nn.hard_sigmoid, Activation("HardSigmoid", 1 / 6, 0.5)),
    (keras2_hard_sigmoid, Activation("HardSigmoid", 0.2, 0.5)),
)


def of_jax(activation: Activation) -> Callable[..., jax.Array]:
    """The function of JAX where there is one, so that a cell is as if written by hand."""
    # A file has numbers of 32 bits.
    same = (f for f, known in NAMED if _rounded(known) == _rounded(activation))
    return next(same, activation)


def name_of(function: Any) -> Activation | None:
    """What the function in a field of a cell is called; ``None`` if ONNX does not have it."""
    if isinstance(function, Activation):
        return function
    plain = function_of(function)
    return next((known for other, known in NAMED if other is plain), None)


def _rounded(activation: Activation) -> tuple[Any, ...]:
    numbers = (activation.alpha, activation.beta)
    return activation.name, *(None if n is None else float(np.float32(n)) for n in numbers)
