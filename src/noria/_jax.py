"""Everything that Noria uses beyond JAX's public API, in one place.

A new release of JAX can change these without notice, so each has a test in ``tests/test_jax.py``
that names it. Everything else in the package uses documented functions of `jax` only.

====================================== ===========================================================
`Literal`, `Primitive`, `ShapedArray`  parts of jaxprs
`parts_of`, `call`                     jaxprs, with or without arrays of their own
`is_symbolic`                          sizes that `jax.export` leaves open
`looks_at_residuals`                   switches for debugging
`bind`, `user_frames`                  an equation bound anew, and the user's lines behind it
`primitive`                            a primitive with all its rules
`Rows`, `partitioned`                  its lowering on several devices
`aligned`                              results whose mapped axes are known in advance
`varying_axes`, `varying`, `retyped`   axes of a mesh in the types of arrays
====================================== ===========================================================
"""

import dataclasses
import functools
import itertools
import math
import operator
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.core import Tracer as Tracer
from jax.custom_derivatives import SymbolicZero as SymbolicZero
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.extend import source_info_util
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

__all__ = """
    Literal Primitive Rows ShapedArray SymbolicZero Tracer aligned bind call is_symbolic
    looks_at_residuals parts_of primitive retyped user_frames varying varying_axes
""".split()


# --- jaxprs -----------------------------------------------------------------------------------------------


def parts_of(jaxpr: Any) -> tuple[Any, list[Any]]:
    """A jaxpr, and the arrays that it closes over, in the order of its ``constvars``.

    Before JAX 0.11 a jaxpr with arrays is a ``ClosedJaxpr`` around one without.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def call(jaxpr: Any, *arrays: Any) -> list[Any]:
    """The outputs of a jaxpr that lacks nothing."""
    return list(jaxpr_as_fun(jaxpr)(*arrays))


def bind(primitive: Any, arrays: Sequence[Any], params: dict[str, Any], source: Any) -> list[Any]:
    """The outputs of an equation for these inputs; ``source`` is where its code comes from."""
    bound = primitive.get_bind_params(params)
    functions, params = (
        bound if isinstance(bound, tuple) else ((), bound)
    )  # a pair in some releases
    with source_info_util.user_context(source):
        outputs = primitive.bind(*functions, *arrays, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


def user_frames(source: Any) -> list[tuple[str, int]]:
    """File and line of each frame that led to an equation, the innermost first."""
    return [] if source is None else [(f.file_name, f.line_num) for f in source.frames]


def is_symbolic(*sizes: Any) -> bool:
    """Whether one of some sizes is a variable of `jax.export.symbolic_shape`, of which less is known."""
    return not all(isinstance(size, int | np.integer) for size in sizes)


def looks_at_residuals() -> bool:
    """Whether JAX looks for NaN or infinities in all that a compiled program gives."""
    config: Any = jax.config
    return bool(config.jax_debug_nans or config.jax_debug_infs)


# --- primitives -------------------------------------------------------------------------------------------


def primitive(
    name: str,
    *,
    shapes: Callable[..., Sequence[Any]],
    jvp: Callable[..., Any],
    dce: Callable[..., tuple[list[bool], list[bool], dict[str, Any]]],
    batch: Callable[..., Any],
    portable: Callable[..., Sequence[Any]],
    cpu: Callable[..., Sequence[Any]],
    rows: Callable[..., "Rows"],
) -> Primitive:
    """A primitive with several results. All functions take the parameters of an equation by keyword.

    Args:
        name: of the primitive, as a jaxpr shows it.
        shapes: from the arrays to the shapes and dtypes of the results.
        jvp: from two sequences, arrays and tangents, to the results and their tangents.
        dce: from ``used``, a flag for each result, to flags for the first arrays that says which
            are still needed, flags for the results that stay, and the parameters that change.
        batch: from two sequences, arrays and their mapped axes, to results and theirs.
        portable: the results in terms of JAX, for any device.
        cpu: the same for CPUs, of which several share out the rows of a batch.
        rows: where these are.
    """
    made = Primitive(name)
    made.multiple_results = True

    def compiled(*arrays: Any, **params: Any) -> list[Any]:
        # Compiled under `jax.disable_jit` too: there is no other implementation.
        with jax.disable_jit(False):
            return list(jax.jit(functools.partial(made.bind, **params))(*arrays))

    made.def_impl(compiled)
    made.def_abstract_eval(
        lambda *avals, **params: [_on_mesh_of(avals, s) for s in shapes(*avals, **params)]
    )
    ad.primitive_jvps[made] = lambda primals, tangents, **params: jvp(
        primals, list(map(ad.instantiate_zeros, tangents)), **params
    )
    pe.dce_rules[made] = functools.partial(_without_dead_code, dce)
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(portable))
    mlir.register_lowering(made, partitioned(made, portable, cpu, rows), platform="cpu")
    return made


def _on_mesh_of(avals: Sequence[Any], like: Any) -> ShapedArray:
    """A type of this shape and dtype, of an array that is sharded along no axis of type ``Explicit``."""
    meshes = (a.sharding.mesh for a in avals if not a.sharding.mesh.empty)
    mesh = next(meshes, jax.sharding.get_abstract_mesh())
    return ShapedArray(
        like.shape,
        like.dtype,
        sharding=NamedSharding(mesh, PartitionSpec(*[None] * len(like.shape))),
    )


def _without_dead_code(
    dce: Callable[..., Any], used: Sequence[bool], *rest: Any
) -> tuple[list[bool], Any]:
    """A rule of `pe.dce_rules`. From JAX 0.12 on it is also told which inputs are live."""
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


# --- several devices --------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """The axis of the batch in each array and in each result, ``None`` for those without one.

    A result without a batch is a sum over it.
    """

    arrays: list[int | None]
    results: list[int | None]


def partitioned(
    made: Primitive, portable: Any, function: Any, rows: Callable[..., Rows]
) -> Callable[..., Any]:
    """A lowering rule: each device runs ``function`` on its own rows of a batch that is sharded.

    XLA finds out during compilation which arrays are sharded, and then asks for the program of one
    device. A program for one device takes the direct way, as does one inside of `jax.shard_map`.
    `jax.export` gets the ``portable`` function, since other processes run it.
    """

    def lower(ctx: Any, *arrays: Any, **params: Any) -> Any:
        if ctx.module_context.lowering_parameters.for_export:
            return mlir.lower_fun(portable)(ctx, *arrays, **params)
        ctx.module_context.add_keepalive(params)  # as long as the program, and its executable
        mesh = _mesh(ctx) if all(math.prod(a.shape) for a in ctx.avals_in) else None
        if mesh is None:
            return mlir.lower_fun(function)(ctx, *arrays, **params)
        devices = tuple(jax.devices("cpu")[: mesh.size])  # any: only their number counts
        context = dataclasses.replace(
            ctx.module_context.axis_context, device_assignment=devices, abstract_mesh=mesh
        )
        module = ctx.module_context.replace(axis_context=context)
        whole, part = (functools.partial(f, **params) for f in (made.bind, function))
        shared_out = _shared_out(whole, part, rows(**params), ctx.avals_in, ctx.avals_out)
        results = mlir.lower_fun(shared_out)(ctx.replace(module_context=module), *arrays)
        # The text of such a call does not say what it computes, so it must match nothing in a cache on disk.
        name = mlir.ir.StringAttr.get(uuid.uuid4().hex)
        results[0].owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get(
            {"noria": name}
        )
        return results

    return lower


def _mesh(ctx: Any) -> AbstractMesh | None:
    """The devices of a program as a mesh, if it has several and XLA is to share the work out.

    XLA knows devices by number only. So that every sharding in the program is one of this mesh, it
    has an axis for each prime factor of the number of devices, in the order of the program's meshes.
    """
    count = getattr(ctx.module_context.axis_context, "num_devices", 1)
    if count == 1:
        return None
    shapes = [a.sharding.mesh.axis_sizes for a in ctx.avals_in] + [
        jax.sharding.get_abstract_mesh().axis_sizes
    ]
    main = next(
        iter(ctx.module_context.module.body)
    )  # arguments may be sharded, and their types not say so
    for text in re.findall(r"mesh<\[([^\]]*)\]", str(main.operation.attributes)):
        shapes.append(tuple(map(int, re.findall(r'"=(\d+)', text))))
    products = (
        itertools.accumulate(shape, operator.mul) for shape in shapes if math.prod(shape) == count
    )
    ends = sorted({1, count}.union(*products))
    if any(b % a for a, b in itertools.pairwise(ends)):
        return None  # such as of 2 by 3 and of 3 by 2 devices
    sizes = [prime for a, b in itertools.pairwise(ends) for prime in _primes(b // a)]
    return AbstractMesh(tuple(sizes), tuple(f"axis{n}" for n in range(len(sizes))))


def _primes(number: int) -> list[int]:
    first = next((n for n in range(2, number + 1) if number % n == 0), None)
    return [] if first is None else [first, *_primes(number // first)]


def _shared_out(
    function: Callable[..., Any],
    part: Callable[..., Any],
    rows: Rows,
    given: Sequence[Any],
    wanted: Sequence[Any],
) -> Callable[..., Any]:
    """The function of a whole batch, with what XLA must know to have each device compute a part."""
    batch = next(
        a.shape[axis] for a, axis in zip(given, rows.arrays, strict=True) if axis is not None
    )

    def shardings(mesh: Any, names: Any, axes: Sequence[int | None]) -> tuple[Any, ...]:
        specs = [() if axis is None else (*[None] * axis, names or None) for axis in axes]
        return tuple(NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)

    def partition(mesh: Any, arrays: Sequence[Any], results: Sequence[Any]) -> Any:
        names = _names((*arrays, *results), (*rows.arrays, *rows.results))
        if batch % math.prod(mesh.shape[name] for name in names):
            names = ()  # XLA would fill up the last part with rows that are none

        def summed(*arrays: Any) -> list[Any]:
            found = list(part(*arrays))
            sums = [a for a, axis in zip(found, rows.results, strict=True) if axis is None]
            new = iter(jax.lax.psum(sums, names) if names else sums)
            return [
                next(new) if axis is None else a
                for a, axis in zip(found, rows.results, strict=True)
            ]

        def local(*arrays: Any) -> tuple[Any, ...]:
            shapes = tuple(jax.eval_shape(function, *arrays))
            return tuple(_part.bind(*arrays, function=summed, results=shapes))

        return (
            mesh,
            local,
            shardings(mesh, names, rows.results),
            shardings(mesh, names, rows.arrays),
        )

    def infer(mesh: Any, arrays: Sequence[Any], _: Any) -> Any:
        return shardings(mesh, _names(arrays, rows.arrays), rows.results)

    whole = custom_partitioning(lambda *arrays: tuple(function(*arrays)))
    whole.def_partition(
        partition, infer_sharding_from_operands=infer, sharding_rule=_rule(rows, given, wanted)
    )
    return whole


_part = Primitive("noria_part")
_part.multiple_results = True
_part.def_abstract_eval(
    lambda *arrays, function, results: [ShapedArray(s.shape, s.dtype) for s in results]
)


def _of_one_device(ctx: Any, *arrays: Any, function: Callable[..., Any], results: Any) -> Any:
    with jax.sharding.use_abstract_mesh(
        AbstractMesh((), ())
    ):  # XLA asks inside of the caller's `jax.set_mesh`
        return mlir.lower_fun(function)(ctx, *arrays)


mlir.register_lowering(_part, _of_one_device)


def _names(arrays: Sequence[Any], axes: Sequence[int | None]) -> tuple[str, ...]:
    """The mesh axes over which a batch is sharded."""
    specs = [
        a.sharding.spec[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None
    ]
    found = next(filter(None, specs), ())
    return (found,) if isinstance(found, str) else tuple(found)


def _rule(rows: Rows, given: Sequence[Any], wanted: Sequence[Any]) -> SdyShardingRule:
    """All axes but those of the batch are to be whole."""
    names = (f"whole{n}" for n in itertools.count())
    mappings, others = [], []
    for a, axis in zip((*given, *wanted), (*rows.arrays, *rows.results), strict=True):
        factors = ["batch" if n == axis else next(names) for n in range(len(a.shape))]
        others += [name for name in factors if name != "batch"]
        mappings.append(ArrayMapping(*factors))
    parts = tuple(mappings[: len(given)]), tuple(mappings[len(given) :])
    return SdyShardingRule(*parts, need_replication_factors=tuple(others))


# --- mapped axes ------------------------------------------------------------------------------------------


def aligned(results: Sequence[Any], axes: Sequence[int], given: Sequence[Any]) -> list[Any]:
    """``results`` as they are. Under `jax.vmap`, result i is mapped along ``axes[i]``.

    That holds if any of ``given``, from which the results were computed, is mapped. A function and
    its `jax.custom_vjp` rule must agree about the axes: inside of `jax.jit`, JAX takes those of the
    function for both, and would exchange axes of the rule's results without a word.
    """
    return list(_aligned.bind(*results, *given, axes=tuple(axes)))


_aligned = Primitive("noria_aligned")
_aligned.multiple_results = True


@_aligned.def_impl
@_aligned.def_abstract_eval
def _(*arrays: Any, axes: tuple[int, ...]) -> list[Any]:
    return list(arrays[: len(axes)])


def _align(arrays: Sequence[Any], mapped: Sequence[int | None], *, axes: tuple[int, ...]) -> Any:
    size = next(a.shape[axis] for a, axis in zip(arrays, mapped, strict=True) if axis is not None)
    moved = [
        jnp.broadcast_to(jnp.expand_dims(a, to), (*a.shape[:to], size, *a.shape[to:]))
        if axis is None
        else jnp.moveaxis(a, axis, to)
        for a, axis, to in zip(arrays, mapped, axes, strict=False)
    ]
    return aligned(moved, axes, arrays[len(axes) :]), axes  # an outer vmap is to find the same


def _unused(
    used: list[bool], *, axes: tuple[int, ...]
) -> tuple[list[bool], list[bool], dict[str, Any]]:
    return used, used, {"axes": tuple(itertools.compress(axes, used))}


ad.primitive_jvps[_aligned] = lambda primals, tangents, *, axes: (
    _aligned.bind(*primals, axes=axes),
    tangents[: len(axes)],
)
batching.primitive_batchers[_aligned] = _align
pe.dce_rules[_aligned] = functools.partial(_without_dead_code, _unused)
mlir.register_lowering(_aligned, lambda ctx, *arrays, axes: arrays[: len(axes)])


# --- axes of a mesh in types ------------------------------------------------------------------------------


def varying_axes(array: Any) -> frozenset[str]:
    """The axes of a mesh over which an array varies by its type, inside of `jax.shard_map`."""
    return _varying(jax.typeof(array))


def _varying(aval: Any) -> frozenset[str]:
    return aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", frozenset())


def varying(array: Any, axes: frozenset[str]) -> Any:
    """``array``, also varying over ``axes``. Its derivative is summed over the devices along new ones."""
    new = tuple(sorted(axes - varying_axes(array)))
    if not new:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, new, to="varying")
    return getattr(jax.lax, "pvary")(array, new)  # noqa: B009  # before JAX 0.9


def retyped(array: Any, axes: frozenset[str]) -> Any:
    """``array``, with a type that says that it varies over ``axes``; each device has the numbers it had.

    Not so `jax.lax.pcast`: its derivative is a sum over devices.
    """
    return _retyped.bind(array, axes=axes)


_retyped = Primitive("noria_retyped")
_retyped.def_impl(lambda array, *, axes: array)


@_retyped.def_abstract_eval
def _(aval: Any, *, axes: frozenset[str]) -> Any:
    if aval.sharding.mesh.empty:
        aval = _on_mesh_of((), aval)
    if hasattr(aval, "mat"):
        return aval.update(manual_axis_type=aval.mat.update(varying=axes))
    return aval.update(vma=axes)  # before JAX 0.10


ad.deflinear2(
    _retyped, lambda cotangent, array, *, axes: [retyped(cotangent, _varying(array.aval))]
)
batching.defvectorized(_retyped)
mlir.register_lowering(_retyped, lambda ctx, array, *, axes: [array])
