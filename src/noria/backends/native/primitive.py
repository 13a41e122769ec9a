"""A native loop as a JAX primitive: with rules for `jax.vmap`, `jax.jvp`, dead code and devices.

The primitive is planned and compiled when it is lowered, after JAX has removed dead code. Other
devices than CPUs run a scan. Only derivatives of higher order need a derivative of the primitive.
It is a loop again: the loop of tangents, or forward and reverse loop of the compiler.
"""

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria._flags import put, scatter
from noria._jax import LinearMap, primitive, tangent_type
from noria.backends.native.batching import batched
from noria.backends.native.kernel_call import call_kernel
from noria.backends.native.loop import NativeLoop
from noria.backends.native.lower.supported import UnsupportedEquation
from noria.backends.native.lower.tangent import tangent_loop
from noria.ir.build import Unsupported
from noria.ir.cotangents import instantiate

_log = logging.getLogger("noria")


def run(loop: NativeLoop, arrays: Sequence[Any], time: int) -> list[jax.Array]:
    """The results of a loop."""
    return list(_native.bind(*arrays, call=loop, time=time))


def _tangents(
    loop: NativeLoop, primals: Sequence[Any], tangents: Sequence[Any], time: int
) -> list[jax.Array]:
    """The tangents of the inexact results; of the arrays, ``None`` for zero.

    Raises:
        UnsupportedEquation: if there is no native code for them.
        Unsupported: if the derivative of a step is no graph.
    """
    given = [*zip(loop.inputs(), primals, tangents, strict=True)]
    made = tangent_loop(loop.call, {v for (v, _), _, t in given if t is not None})
    arrays = dict(zip(loop.inputs(), primals, strict=True))
    for (value, late), primal, tangent in given:
        if value in made.tangent_of:
            moved = jnp.zeros_like(primal) if tangent is None else tangent
            arrays[made.tangent_of[value], late] = moved
    of_tangents = loop.with_tangents(made.call, made.tangent_of)
    results = run(of_tangents, [arrays[name] for name in of_tangents.inputs()], time)
    structs = loop.structs(time, loop.batch(primals))
    smooth = [s for s in structs if jnp.issubdtype(s.dtype, jnp.inexact)]
    return [
        sum((results[n] for n in some), jnp.zeros(like.shape, like.dtype))
        for some, like in zip(made.parts, smooth, strict=True)
    ]


# --- rules --------------------------------------------------------------------------------------


def _shapes(*arrays: Any, call: NativeLoop, time: int) -> list[jax.ShapeDtypeStruct]:
    return call.structs(time, call.batch(arrays))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: NativeLoop, time: int) -> Any:
    """The tangents are results of another loop. Reverse mode has a loop of its own, too."""
    results = _native.bind(*primals, call=call, time=time)
    smooth = [bool(jnp.issubdtype(a.dtype, jnp.inexact)) for a in results]
    moved = [t is not None for t in tangents]

    def smooth_results(
        run: Callable[..., list[Any]], primals: Sequence[Any], some: Sequence[Any]
    ) -> list[Any]:
        found = run(*put(primals, moved, some), time=time)
        return [*itertools.compress(found, smooth)]

    def push(primals: list[Any], tangents: list[Any]) -> list[Any]:
        try:
            return _tangents(call, primals, scatter(tangents, moved), time)
        except (UnsupportedEquation, Unsupported) as reason:
            _log.debug("the tangents of a loop are those of a scan: %s", str(reason))
            given = [*itertools.compress(primals, moved)]
            scan = functools.partial(smooth_results, call, primals)
            return jax.jvp(scan, (given,), (tangents,))[1]

    def pull(primals: list[Any], cotangents: list[Any]) -> list[Any]:
        given = [*itertools.compress(primals, moved)]
        derived = functools.partial(smooth_results, call.derived, primals)
        return jax.vjp(derived, given)[1]([*map(instantiate, cotangents)])[0]

    kinds = map(tangent_type, itertools.compress(results, smooth))
    linear = LinearMap(
        push, pull, tuple(kinds), tuple(itertools.compress(call.mapped_axes, smooth))
    )
    found = linear(primals, [*itertools.compress(tangents, moved)])
    return results, scatter(found, smooth)


def _without_unused(
    used: list[bool], *, call: NativeLoop, time: int
) -> tuple[list[bool], list[bool], dict[str, Any]]:
    """Dead-code elimination: unused outputs are not computed, except the final state."""
    width = len(call.call.state)
    call, needs = call.prune_outputs(used)
    return needs, [n < width or is_used for n, is_used in enumerate(used)], {"call": call}


_native = primitive(
    "noria_native_loop",
    shapes=_shapes,
    jvp=_jvp,
    dce=_without_unused,
    batch=lambda arrays, axes, call, time: batched(run, call, arrays, axes, time),
    portable=lambda *arrays, call, time: call(*arrays, time=time),
    cpu=lambda *arrays, call, time: call_kernel(call, arrays, time),
    rows=lambda *, call, time: call.rows(),
)
