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
from typing import Any, TypeAlias

import jax

#: A typed or a raw JAX random key.
Key: TypeAlias = jax.Array
#: The state of a cell: any pytree of arrays.
State: TypeAlias = Any
#: ``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``.
Initializer: TypeAlias = Callable[..., jax.Array]
