"""``explain``: how the recurrent layers of a model run."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._types import Key, State
from noria.compiler.explain import Explanation, Explanations, explaining
from noria.layers.base import Layer
from noria.layers.devices import devices_of


def explain(
    layer: Layer,
    xs: Any,
    *,
    lengths: Any = None,
    resets: Any = None,
    key: Key | None = None,
    **inputs: Any,
) -> Any:
    """The decisions for ``layer`` on ``xs``: backend, hoisted equations, stored values, reasons.

    Nothing is computed. ``print`` the result, or show it in a notebook.

    Args:
        layer: a recurrent layer, or a model of layers.
        xs: the sequences of a call, ``(time, in)`` or ``(batch, time, in)``; a
            `jax.ShapeDtypeStruct` will do.
        lengths: as in that call.
        resets: as in that call.
        key: as in that call.
        **inputs: ``t``, ``dt`` and ``context`` as in that call.

    Returns:
        An `Explanation`; for a model with several recurrent layers `Explanations`, a tuple of them
        in the order in which they run.

    Raises:
        ValueError: if no layer of the model is recurrent.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> layer = nr.LSTM(3, 4, key=jax.random.key(0))
        >>> found = nr.explain(layer, jnp.zeros((2, 5, 3)))
        >>> [line.name for line in found.loop].count("tanh"), found.backend  # on a CPU
        (2, 'native')
    """
    with explaining() as found:
        given = {"lengths": lengths, "resets": resets, "key": key, **inputs}
        # Weights are arguments, as where a layer is trained; those of a prepared one are constants.
        eqx.filter_eval_shape(lambda layer, xs: layer.scan(None, xs, **given), layer, xs)
    if not found:
        raise ValueError(
            f"explain({layer.label}, xs): it holds no recurrent layer; there is no loop to explain."
        )
    devices, sharing = devices_of(layer, xs)
    if devices > 1:
        found = [replace(one, devices=devices, sharing=sharing) for one in found]
    return found[0] if len(found) == 1 else Explanations(found)


def explained_step(layer: Layer, state: State, x: Any, axes: int) -> list[Explanation]:
    """How the recurrent layers run on one step, with ``axes`` axes for examples."""
    xs = jnp.expand_dims(x, axes)
    with explaining() as found:
        jax.eval_shape(lambda state, xs: layer.scan(state, xs), state, xs)
    return found
