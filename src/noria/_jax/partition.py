"""A primitive on several devices: each runs it on its own rows of a batch that is sharded."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

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
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from noria._flags import choose, put


class Rows(NamedTuple):
    """The axis of the batch in each array and in each result, or ``None``.

    A result without a batch axis is a sum over the batch.
    """

    arrays: list[int | None]
    results: list[int | None]


def partitioned(
    made: Primitive, portable: Any, function: Any, rows: Callable[..., Rows]
) -> Callable[..., Any]:
    """A lowering rule: each device runs ``function`` on its own rows of a batch that is sharded.

    XLA decides during compilation which arrays are sharded, and then asks for the program of one
    device. A program for one device is lowered directly, as is one inside of `jax.shard_map`.
    `jax.export` gets the ``portable`` function, since other processes run its result.
    """

    def lower(ctx: Any, *arrays: Any, **params: Any) -> Any:
        if ctx.module_context.lowering_parameters.for_export:
            return mlir.lower_fun(portable)(ctx, *arrays, **params)
        ctx.module_context.add_keepalive(params)  # as long as the program, and its executable
        mesh = _mesh(ctx) if all(math.prod(a.shape) for a in ctx.avals_in) else None
        if mesh is None:
            return mlir.lower_fun(function)(ctx, *arrays, **params)
        devices = tuple(jax.devices("cpu")[: mesh.size])  # only their number matters
        context = dataclasses.replace(
            ctx.module_context.axis_context, device_assignment=devices, abstract_mesh=mesh
        )
        module = ctx.module_context.replace(axis_context=context)
        whole, part = (functools.partial(f, **params) for f in (made.bind, function))
        whole_and_parts = _partition(whole, part, rows(**params), ctx.avals_in, ctx.avals_out)
        results = mlir.lower_fun(whole_and_parts)(ctx.replace(module_context=module), *arrays)
        # The text of such a call does not show the computation, so a cache on disk could take it
        # for another one. A unique name prevents that.
        name = mlir.ir.StringAttr.get(uuid.uuid4().hex)
        results[0].owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get(
            {"noria": name}
        )
        return results

    return lower


def _mesh(ctx: Any) -> AbstractMesh | None:
    """The devices of a program as a mesh, if there are several.

    XLA knows devices by number only. The mesh has an axis for each prime factor of the number of
    devices. They have the order of the meshes of the program, so that the mesh can express their
    shardings.
    """
    count = getattr(ctx.module_context.axis_context, "num_devices", 1)
    if count == 1:
        return None
    shapes = [a.sharding.mesh.axis_sizes for a in ctx.avals_in] + [
        jax.sharding.get_abstract_mesh().axis_sizes
    ]
    # The arguments of the program may be sharded though their types do not say so.
    main = next(iter(ctx.module_context.module.body))
    for text in re.findall(r"mesh<\[([^\]]*)\]", str(main.operation.attributes)):
        shapes.append(tuple(map(int, re.findall(r'"=(\d+)', text))))
    products = (
        itertools.accumulate(shape, operator.mul) for shape in shapes if math.prod(shape) == count
    )
    ends = sorted({1, count}.union(*products))
    if any(b % a for a, b in itertools.pairwise(ends)):
        return None  # no mesh expresses both 2 by 3 and 3 by 2 devices
    sizes = [prime for a, b in itertools.pairwise(ends) for prime in _primes(b // a)]
    return AbstractMesh(tuple(sizes), tuple(f"axis{n}" for n in range(len(sizes))))


def _primes(number: int) -> list[int]:
    first = next((n for n in range(2, number + 1) if number % n == 0), None)
    return [] if first is None else [first, *_primes(number // first)]


def _partition(
    function: Callable[..., Any],
    part: Callable[..., Any],
    rows: Rows,
    given: Sequence[Any],
    wanted: Sequence[Any],
) -> Callable[..., Any]:
    """The function of a whole batch, with the rules by which XLA cuts it into parts."""
    batch = next(
        a.shape[axis] for a, axis in zip(given, rows.arrays, strict=True) if axis is not None
    )

    def shardings(mesh: Any, names: Any, axes: Sequence[int | None]) -> tuple[Any, ...]:
        specs = [() if axis is None else (*[None] * axis, names or None) for axis in axes]
        return tuple(NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)

    def partition(mesh: Any, arrays: Sequence[Any], results: Sequence[Any]) -> Any:
        names = _names((*arrays, *results), (*rows.arrays, *rows.results))
        if batch % math.prod(mesh.shape[name] for name in names):
            names = ()  # XLA would pad the last part with rows of garbage

        def summed(*arrays: Any) -> list[Any]:
            found, is_sum = list(part(*arrays)), [axis is None for axis in rows.results]
            sums = choose(found, is_sum)
            return put(found, is_sum, jax.lax.psum(sums, names) if names else sums)

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
    # XLA asks for this inside of the caller's `jax.set_mesh`.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
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
    """Only the batch may be sharded."""
    names = (f"whole{n}" for n in itertools.count())
    mappings, others = [], []
    for a, axis in zip((*given, *wanted), (*rows.arrays, *rows.results), strict=True):
        factors = ["batch" if n == axis else next(names) for n in range(len(a.shape))]
        others += [name for name in factors if name != "batch"]
        mappings.append(ArrayMapping(*factors))
    parts = tuple(mappings[: len(given)]), tuple(mappings[len(given) :])
    return SdyShardingRule(*parts, need_replication_factors=tuple(others))
