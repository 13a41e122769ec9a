"""A primitive with several results and all its rules."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from noria._jax.derivatives import tangent_type
from noria._jax.mesh_axes import on_mesh_of
from noria._jax.partition import Rows, partitioned


def primitive(
    name: str,
    *,
    shapes: Callable[..., Sequence[Any]],
    jvp: Callable[..., Any],
    dce: Callable[..., tuple[list[bool], list[bool], dict[str, Any]]],
    batch: Callable[..., Any],
    portable: Callable[..., Sequence[Any]],
    cpu: Callable[..., Sequence[Any]],
    rows: Callable[..., Rows],
) -> Primitive:
    """A primitive with several results.

    All functions take the parameters of an equation by keyword.

    Args:
        name: the name of the primitive in a jaxpr.
        shapes: from the arrays to the shapes and dtypes of the results.
        jvp: from two sequences, arrays and tangents, to the results and their tangents. A tangent
            that is zero, or of integers, is ``None``.
        dce: from ``used``, a flag for each result. It gives flags of the first arrays (still
            needed?), flags of the results (kept?), and the parameters that change.
        batch: from two sequences, arrays and their mapped axes, to results and their mapped axes.
        portable: the results by functions of JAX, for any device.
        cpu: the same for CPUs; several of them share the rows of a batch.
        rows: the axis of the batch in each array and result.
    """
    made = Primitive(name)
    made.multiple_results = True

    def compiled(*arrays: Any, **params: Any) -> list[Any]:
        # Compiled under `jax.disable_jit` too: there is no other implementation. For the same
        # reason JAX must not call it again, to look at each operation, if the results have NaN.
        with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
            results = list(jax.jit(functools.partial(made.bind, **params))(*arrays))
        _look_for_nan(name, results)
        return results

    made.def_impl(compiled)
    made.def_abstract_eval(
        lambda *avals, **params: [on_mesh_of(avals, s) for s in shapes(*avals, **params)]
    )
    ad.primitive_jvps[made] = functools.partial(_with_zeros, jvp)
    pe.dce_rules[made] = functools.partial(without_dead_code, dce)
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(portable))
    mlir.register_lowering(made, partitioned(made, portable, cpu, rows), platform="cpu")
    return made


def _look_for_nan(name: str, results: Sequence[jax.Array]) -> None:
    """What JAX does after each operation under `jax.debug_nans` and `jax.debug_infs`."""
    config: Any = jax.config
    for kind, test, is_on in (
        ("nan", np.isnan, config.jax_debug_nans),
        ("inf", np.isinf, config.jax_debug_infs),
    ):
        floats = (a for a in results if is_on and jnp.issubdtype(a.dtype, jnp.inexact))
        if any(np.any(test(np.asarray(s.data))) for a in floats for s in a.addressable_shards):
            raise FloatingPointError(f"invalid value ({kind}) encountered in {name}")


def _with_zeros(jvp: Callable[..., Any], arrays: Any, tangents: Any, **params: Any) -> Any:
    """A rule of `ad.primitive_jvps`; ``jvp`` as in `primitive`."""
    given = [None if isinstance(t, ad.Zero) else t for t in tangents]
    results, found = jvp(arrays, given, **params)
    return results, [
        ad.Zero(tangent_type(a)) if t is None else t for a, t in zip(results, found, strict=True)
    ]


def without_dead_code(
    dce: Callable[..., Any], used: Sequence[bool], *rest: Any
) -> tuple[list[bool], Any]:
    """A rule of `pe.dce_rules`; ``dce`` as in `primitive`.

    From JAX 0.12 on, a further argument says which inputs are live.
    """
    equation = rest[-1]
    if not any(used):
        return [False] * len(equation.invars), None
    if all(used):
        return [True] * len(equation.invars), equation
    needed, kept, params = dce(list(used), **equation.params)
    needed += [True] * (len(equation.invars) - len(needed))
    return needed, equation.replace(
        invars=list(itertools.compress(equation.invars, needed)),
        outvars=list(itertools.compress(equation.outvars, kept)),
        params={**equation.params, **params},
    )
