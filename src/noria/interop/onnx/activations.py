"""Activation functions of ONNX's recurrent operators: name, alpha, beta and clip."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

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

        y = name(clip(x, -bound, bound); alpha, beta)

    Args:
        name: a key of `FUNCTIONS`.
        alpha: the first number of the function, or ``None`` if it takes none.
        beta: the second one.
        bound: the bound of its argument, or ``None``.
    """

    name: str = eqx.field(static=True)
    alpha: float | None = eqx.field(static=True, default=None)
    beta: float | None = eqx.field(static=True, default=None)
    bound: float | None = eqx.field(static=True, default=None)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x if self.bound is None else jnp.clip(x, -self.bound, self.bound)
        numbers = [number for number in (self.alpha, self.beta) if number is not None]
        return FUNCTIONS[self.name].function(x, *numbers)


def activations_of(
    names: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
    fail: Callable[[str], Any],
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
