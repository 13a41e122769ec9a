"""The legend of axis names, and the types that signatures use.

Axis names, everywhere in the package:

=========== =====================================================================
``time``    steps of one sequence
``batch``   examples
``in``      features that enter a step
``hidden``  features of the state
``out``     features that leave a layer
``gates``   ``hidden`` times the number of gates of a cell (its row blocks)
=========== =====================================================================

A step is ``(in,)`` or ``(batch, in)``; a sequence is ``(time, in)`` or ``(batch, time, in)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

#: A typed or a raw JAX random key.
Key: TypeAlias = jax.Array
#: The state of a cell: any pytree of arrays.
State: TypeAlias = Any
#: ``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``.
Initializer: TypeAlias = Callable[..., jax.Array]


class Aux(NamedTuple):
    """An output with something beside it, such as a term of the loss.

    A cell emits it in place of an array. `noria.Chain` passes ``y`` on to its next layer, and emits
    an `Aux` whose ``extra`` is a tuple: that of each layer that emits one. `noria.Residual` adds
    its input to ``y``.

    Attributes:
        y: the output.
        extra: any pytree of arrays.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> class Active(nr.cells.WrapperCell):
        ...     def output(self, state, x):
        ...         y = super().output(state, x)
        ...         return nr.Aux(y, jnp.mean(y**2))
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> gru, dense = Active(nr.GRUCell(2, 3, key=k1)), nr.Dense(3, 1, key=k2)
        >>> ys, (activity,) = nr.Chain(nr.Recurrence(gru), dense)(jnp.ones((5, 2)))
        >>> ys.shape, activity.shape
        ((5, 1), (5,))
    """

    y: Any
    extra: Any
