"""``generate``: a model on its own outputs, in one compiled loop."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import as_given, check_key, check_numbers, check_sizes, describe
from noria._types import Key, State
from noria.backends.environment import environment
from noria.cells.base import takes_key
from noria.layers.checks import strip_weak_type
from noria.layers.compiled import (
    computes_from_its_fields,
    dependence_of_function,
    has_constant_weights,
)
from noria.layers.with_backend import with_backend


class Categorical(eqx.Module):
    """Draws a class from logits, for `generate`.

    ::

        p = softmax(logits / temperature)     over the top_k largest logits

    Args:
        temperature: above 0; lower ones favour likely classes.
        top_k: draw among so many of the likeliest classes; among all without it.

    Attributes:
        temperature: as passed, an array: another temperature compiles nothing.
        top_k: as passed.

    Shapes:
        ``(..., classes)`` to int32 ``(...)``; -1 for logits with NaN.

    Raises:
        ValueError: if the temperature is not above 0, or ``top_k`` is below 1.

    For the likeliest class, pass ``lambda logits: jnp.argmax(logits, -1)`` to `generate`.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> logits = jnp.array([[0.0, 9.0, 1.0], [9.0, 0.0, 1.0]])
        >>> nr.Categorical(temperature=0.1)(logits, key=jax.random.key(0)).tolist()
        [1, 0]
    """

    temperature: jax.Array
    top_k: int | None = eqx.field(static=True)

    def __init__(self, temperature: float = 1.0, top_k: int | None = None):
        if not temperature > 0:
            raise ValueError(
                f"Categorical(temperature={temperature}): expected a temperature above 0. For the "
                "likeliest class, sample with lambda logits: jnp.argmax(logits, -1)."
            )
        if top_k is not None:
            check_sizes("Categorical", top_k=top_k)
        self.temperature, self.top_k = jnp.asarray(temperature, jnp.float32), top_k

    def __call__(self, logits: Any, *, key: Key) -> jax.Array:
        """One class for each row of logits.

        Args:
            logits: ``(..., classes)``, floats.
            key: random key.

        Returns:
            int32 ``(...)``.
        """
        logits = jnp.asarray(logits)
        bad = jnp.isnan(logits).any(axis=-1)
        classes = logits.shape[-1]
        if self.top_k is not None and self.top_k < classes:
            logits, numbers = jax.lax.top_k(logits, self.top_k)
            place = self._draw(logits, key)
            drawn = jnp.take_along_axis(numbers, place[..., None], axis=-1)[..., 0]
        else:
            drawn = self._draw(logits, key)
        return jnp.where(bad, -1, drawn).astype(jnp.int32)

    def _draw(self, logits: jax.Array, key: Key) -> jax.Array:
        drawn: jax.Array = jax.random.categorical(
            key, logits / self.temperature.astype(logits.dtype), axis=-1
        )
        return drawn


class Wheel(eqx.Module):
    """A model whose output is its next input, by way of ``sample``."""

    model: Any
    sample: Any

    def turn(self, extra: Any, state: State, x: Any) -> tuple[State, Any]:
        """The next state, and the next input with the dtype of ``x``."""
        key, named = extra
        keys = (None, None) if key is None else jax.random.split(key)
        if key is not None and takes_key(self.model.step):
            named = named | {"key": keys[0]}
        state, y = self.model.step(state, x, **named)
        if self.sample is not None:
            random = takes_key(self.sample)
            y = self.sample(y, key=keys[1]) if random else self.sample(y)
        return jtu.tree_map(strip_weak_type, state), _like(y, x)


def _like(y: Any, x: Any) -> Any:
    """The output as an input, if it can be one."""
    ys, xs = jtu.tree_leaves(y), jtu.tree_leaves(x)
    before: Any = jtu.tree_structure(x)
    fits = before == jtu.tree_structure(y) and all(
        jnp.shape(a) == jnp.shape(b)
        and (a.dtype == b.dtype or all(jnp.issubdtype(c.dtype, jnp.integer) for c in (a, b)))
        for a, b in zip(ys, xs, strict=True)
    )
    if not fits:
        raise ValueError(
            f"generate: the model reads {describe(x)}, and its output after sample is "
            f"{describe(y)}; expected the next input. Pass sample=, a function of the output, such "
            "as noria.Categorical() for logits of classes."
        )
    return jtu.tree_map(lambda a, b: a.astype(b.dtype), y, x)


def generate(
    model: Any,
    state: State,
    first: Any,
    steps: int,
    *,
    sample: Any = None,
    key: Key | None = None,
    **inputs: Any,
) -> tuple[State, Any]:
    """Runs a model on its own outputs, in one compiled loop.

    ::

        state, y = model.step(state, x_n)       x_0 = first
        x_{n+1} = sample(y)

    Args:
        model: a layer, or a model with its ``step`` and ``initial_state``.
        state: the state before ``first``, as ``model.scan`` returns it, or ``None`` for the initial
            state. That of one example broadcasts over a batch.
        first: the first input, ``(in,)`` or ``(batch, in)``; for a model of whole numbers ``()`` or
            ``(batch,)``.
        steps: number of steps.
        sample: makes the next input from an output, ``sample(y)``, or ``sample(y, key=key)`` if it
            has an argument ``key``: `Categorical`, or any function. It gets the whole batch. The
            output itself is the next input without it.
        key: random key for ``sample`` and for layers that draw random numbers.
        **inputs: ``t``, ``dt`` and ``context``, for models whose cells take them; see
            `Recurrence.step`. ``t`` is the number of the first step, and is counted on.

    Returns:
        ``(state, ys)``: the state after ``steps`` steps, and the inputs ``x_1`` to ``x_steps`` that
        were made, ``(steps, ...)`` or ``(batch, steps, ...)``. To continue, pass the state and the
        last of ``ys``.

    Raises:
        ValueError: if an output does not fit as an input, or ``steps`` is below 1.
        TypeError: if the model has no ``step``, or ``sample`` is no function, or needs a key and
            there is none.

    A shape and a number of steps is compiled once. Dropout is active unless the model is in
    inference mode (`noria.inference`). PyTorch and Keras leave this loop to the user, in Python.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> double = nr.Recurrence(lambda h, x: 2 * x, initial_state=jnp.zeros(1))
        >>> state, ys = nr.generate(double, None, jnp.array([1.0]), 4)
        >>> ys[:, 0].tolist()
        [2.0, 4.0, 8.0, 16.0]
    """
    check_sizes("generate", steps=steps)
    if not hasattr(model, "step") or not hasattr(model, "initial_state"):
        raise TypeError(
            f"generate: model is a {type(model).__name__}; expected a layer, or a model with the "
            "methods step and initial_state."
        )
    if sample is not None and not callable(sample):
        raise TypeError(
            f"generate: sample is a {type(sample).__name__}; expected a function of an output, "
            "such as noria.Categorical()."
        )
    if key is not None or (sample is not None and takes_key(sample)):
        check_key("generate, which draws random numbers", key)
    first = jtu.tree_map(_number, first)
    counts = hasattr(model, "takes") and "t" in model.takes()
    t = jnp.asarray(inputs.pop("t", 0), jnp.int32) if counts else None
    wheel = Wheel(model, sample)
    start = model.initial_state() if state is None else state
    given = wheel, start, first, t, inputs, key, int(steps)
    if has_constant_weights(model):
        return _loop(*given)
    shared = _dependence(*given[:-1])
    return _loop(*given) if shared is None else _compiled(shared, *given)


def _number(leaf: Any) -> jax.Array:
    given = as_given(leaf)
    check_numbers("generate", "first", given)
    return strip_weak_type(jnp.asarray(given))


def _dependence(
    wheel: Wheel, start: State, first: Any, t: Any, inputs: dict[str, Any], key: Key | None
) -> Any:
    """See `dependence_of_function`; what users wrote is the same on each backend."""
    if computes_from_its_fields(wheel):
        return environment()
    with contextlib.suppress(TypeError):  # a prepared layer has one backend
        wheel = Wheel(with_backend(wheel.model, "plain"), wheel.sample)
    arrays, rest = eqx.partition(wheel, eqx.is_array)

    def turn(extra: Any, arrays: Any, state: State, x: Any) -> tuple[State, Any]:
        found: Wheel = eqx.combine(arrays, rest)
        return found.turn(extra, state, x)

    return dependence_of_function(turn, (key, _named(inputs, t)), arrays, start, first)


def _named(inputs: dict[str, Any], t: Any) -> dict[str, Any]:
    return inputs if t is None else inputs | {"t": t}


def _loop(
    wheel: Wheel,
    start: State,
    first: Any,
    t: jax.Array | None,
    inputs: dict[str, Any],
    key: Key | None,
    steps: int,
) -> tuple[State, Any]:
    def turn(carry: tuple[State, Any], step: tuple[Any, Any]) -> tuple[tuple[State, Any], Any]:
        n, one = step
        named = _named(inputs, None if t is None else t + n)
        state, x = wheel.turn((one, named), *carry)
        return (state, x), x

    numbers = jnp.arange(steps, dtype=jnp.int32)
    keys = None if key is None else jax.random.split(key, steps)
    shapes = jax.eval_shape(turn, (start, first), (numbers[0], key))[0][0]
    whole = jtu.tree_map(
        lambda leaf, like: jnp.broadcast_to(leaf, like.shape).astype(like.dtype), start, shapes
    )
    (state, _), ys = jax.lax.scan(turn, (whole, first), (numbers, keys))
    if _is_batch(wheel.model.initial_state(), shapes, first):
        ys = jtu.tree_map(lambda leaf: jnp.moveaxis(leaf, 0, 1), ys)
    return state, ys


_compiled = eqx.filter_jit(lambda shared, *given: _loop(*given))


def _is_batch(own: State, state: State, first: Any) -> bool:
    """Whether the state of a step has a batch axis; without a state the input tells."""
    pairs = list(zip(jtu.tree_leaves(own), jtu.tree_leaves(state), strict=True))
    if pairs:
        return any(jnp.ndim(one) < len(many.shape) for one, many in pairs)
    leaf = jtu.tree_leaves(first)[0]
    return bool(leaf.ndim > (0 if jnp.issubdtype(leaf.dtype, jnp.integer) else 1))
