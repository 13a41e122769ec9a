"""Activations that JAX lacks. Functions of `jax.nn` and `jax.numpy` need no counterpart here."""

import jax
import jax.numpy as jnp


def keras2_hard_sigmoid(x: jax.Array) -> jax.Array:
    """The hard sigmoid of Keras 1 and 2.

    ::

        y = min(max(0.2 x + 0.5, 0), 1)

    Keras before 2.3 has it as ``recurrent_activation`` by default, and its files do not say so. It
    is ``HardSigmoid`` of ONNX with the default ``alpha`` and ``beta``, and Theano's. It is not
    `jax.nn.hard_sigmoid`, nor ``hard_sigmoid`` of Keras 3 or PyTorch: that is ``x / 6 + 0.5``
    between its bounds, 0.667 at 1 and not 0.7.

    Args:
        x: an array of any shape, of a floating dtype.

    Returns:
        An array of the same shape and dtype.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.activations.keras2_hard_sigmoid(jnp.array([-3.0, 0.0, 1.25, 3.0])).tolist()
        [0.0, 0.5, 0.75, 1.0]
    """
    return jnp.clip(0.2 * x + 0.5, 0, 1)
