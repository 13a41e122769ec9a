"""Jaxprs: their parts, their equations, and the switches that concern them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import source_info_util
from jax.extend.core import jaxpr_as_fun

if TYPE_CHECKING:

    class Literal:
        """A constant in an equation. JAX declares an ``aval`` that has no shape and no dtype."""

        val: Any
        aval: ShapedArray

        def __init__(self, val: Any, aval: ShapedArray) -> None: ...
else:
    from jax.extend.core import Literal as Literal


def parts_of(jaxpr: Any) -> tuple[Any, list[Any]]:
    """A jaxpr, and the arrays that it closes over, in the order of its ``constvars``.

    Before JAX 0.11 a jaxpr with arrays is a ``ClosedJaxpr`` around one without.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation, without their arrays."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                yield parts_of(item)[0]


def call(jaxpr: Any, *arrays: Any) -> list[Any]:
    """The outputs of a jaxpr with its arrays."""
    return list(jaxpr_as_fun(jaxpr)(*arrays))


def bind(primitive: Any, arrays: Sequence[Any], params: dict[str, Any], source: Any) -> list[Any]:
    """Bind an equation to new inputs: its outputs. ``source`` keeps the user's line behind it."""
    bound = primitive.get_bind_params(params)
    # Some releases return a pair.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with source_info_util.user_context(source):
        outputs = primitive.bind(*functions, *arrays, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


def user_frames(source: Any) -> list[tuple[str, int]]:
    """File and line of each frame that led to an equation, the innermost first."""
    return [] if source is None else [(f.file_name, f.line_num) for f in source.frames]


def is_symbolic(*sizes: Any) -> bool:
    """Whether one of the sizes is a variable of `jax.export.symbolic_shape`."""
    return not all(isinstance(size, int | np.integer) for size in sizes)


def is_known(array: Any) -> bool:
    """Whether the values of an array are known while JAX traces."""
    return isinstance(array, np.ndarray) or (
        isinstance(array, jax.Array)
        and not isinstance(array, jax.core.Tracer)
        and array.is_fully_addressable
    )


def is_recording() -> bool:
    """Whether JAX records operations for a program here, as in `jax.jit`, and does not run them."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def looks_at_residuals() -> bool:
    """Whether JAX looks for NaN or infinities in all results of a compiled program."""
    config: Any = jax.config
    return bool(config.jax_debug_nans or config.jax_debug_infs)


def settings() -> Hashable:
    """Equal where JAX traces a function in the same way: all options, and the mesh around it."""
    config: Any = jax.config
    return tuple(config.values.values()), jax.sharding.get_abstract_mesh()
