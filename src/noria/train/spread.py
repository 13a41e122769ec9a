"""``spread``: models on all devices of a mesh, batches cut into rows; and the same for ``fit``."""

import math
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noria.backends.native.plan.cores import share_cores
from noria.train.machines import processes_here

T = TypeVar("T")


def spread(tree: T, mesh: Mesh, axis: str | tuple[str, ...] = "data") -> T:
    """Models and batches on the devices of a mesh, for data-parallel training.

    ::

        model, opt_state, batch = spread((model, opt_state, batch), mesh, "data")

    Each device holds all arrays of a module, and its own rows of every other array. A compiled
    function of them then computes its rows on each device, and sums gradients over devices.

    Args:
        tree: any pytree of modules, optimiser states and arrays ``(batch, ...)``. In a run of
            several processes each of them passes the same tree, and keeps its own rows.
        mesh: the devices, from `jax.make_mesh`.
        axis: the mesh axis, or several, along which rows are cut.

    Returns:
        The tree, with arrays of JAX. Rows that the devices cannot share out evenly, and numbers
        without an axis, are on every device. An array of a module that is on this mesh already
        keeps its place, so that a part of a model can be cut along another axis.

    Raises:
        ValueError: if the mesh has no such axis.

    PyTorch's ``DistributedDataParallel`` wraps the model, and needs a sampler for the data.
    `noria.fit` does all of it with ``mesh=``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> model = nr.GRU(2, 3, key=jax.random.key(0))
        >>> model, xs = nr.spread((model, jnp.zeros((8, 5, 2))), mesh, "data")
        >>> xs.sharding.spec == jax.P("data")
        True
    """
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    if unknown := [name for name in axes if name not in mesh.axis_names]:
        raise ValueError(
            f"spread(axis={axis!r}): the mesh has no axis {unknown[0]!r}; "
            f"expected one of {', '.join(map(repr, mesh.axis_names))}."
        )
    places = Places(mesh, axes)

    def put(node: Any) -> Any:
        if isinstance(node, eqx.Module):
            arrays, rest = eqx.partition(
                node, lambda leaf: isinstance(leaf, np.ndarray | jax.Array)
            )
            return eqx.combine(jtu.tree_map(places.whole, arrays), rest)
        return places.rows(node) if isinstance(node, np.ndarray | jax.Array) else node

    found: T = jtu.tree_map(put, tree, is_leaf=lambda node: isinstance(node, eqx.Module))
    return found


def as_jax(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def examples(batch: Any) -> int:
    """The number of examples in a batch: the first axis of its first array, or 1 without axes."""
    for leaf in jtu.tree_leaves(batch):
        return leaf.shape[0] if getattr(leaf, "shape", ()) else 1
    return 1


def as_auto(mesh: Mesh | None) -> Mesh | None:
    """The same devices, with axes along which XLA shards on its own."""
    if mesh is None:
        return None
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


class Places:
    """Where arrays of a run are: on the devices of a mesh, or where they are without one.

    Args:
        mesh: the devices, or ``None``.
        axes: the mesh axes along which batches are cut; by default ``data``, or all of them.
    """

    def __init__(self, mesh: Mesh | None, axes: tuple[str, ...] = ()):
        self.mesh, self._devices, self._wishes = mesh, cast(Mesh, mesh), dict[float, Any]()
        self.processes = 1 if mesh is None else jax.process_count()
        if mesh is None:
            return

        self._axes = axes or (("data",) if "data" in mesh.axis_names else mesh.axis_names)
        self.parts = math.prod(mesh.shape[name] for name in self._axes)
        if self.processes > 1:
            share_cores(processes_here())

    @property
    def delay(self) -> int:
        """Steps that may be started before the numbers of a step are read.

        A CPU computes a step in the time of the thread that starts it.
        """
        return int(self.processes > 1 or jax.default_backend() != "cpu")

    def whole(self, array: Any) -> Any:
        """An array that each device holds."""
        if self.mesh is None:
            return array
        given = getattr(array, "sharding", None)
        if isinstance(given, NamedSharding) and given.device_set == set(self.mesh.devices.flat):
            return jax.device_put(array, NamedSharding(self.mesh, given.spec))
        return self._put(array, PartitionSpec())

    def at(self, arrays: tuple[Any, ...], like: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arrays in the places of others."""
        if self.mesh is None:
            return arrays
        pairs = zip(arrays, like, strict=True)
        return tuple(self._put(array, other.sharding.spec) for array, other in pairs)

    def everywhere(self, tree: T) -> T:
        """A tree of arrays that each device holds."""
        found: T = jtu.tree_map(self.whole, tree)
        return found

    def rows(self, array: Any) -> Any:
        """An array of which each device holds its own rows."""
        return self._put(array, self._spec(np.shape(array)))

    def batch(self, tree: T, rows: int, first: int = 0) -> T:
        """A batch of so many ``rows``, cut into rows: all arrays with as many as the first one.

        The arrays have all rows, or those of this process, which begin at number ``first``.
        """
        if self.mesh is None:
            return tree
        count = examples(tree)

        def put(leaf: Any) -> Any:
            if not np.shape(leaf) or leaf.shape[0] != count:
                return self._put(leaf, PartitionSpec())
            shape = (rows, *leaf.shape[1:])
            return self._put(leaf, self._spec(shape), shape, first)

        arrays, rest = eqx.partition(tree, lambda leaf: hasattr(leaf, "shape"))
        found: T = eqx.combine(jtu.tree_map(put, arrays), rest)
        return found

    def rows_here(self, count: int) -> slice:
        """The rows of a batch of ``count`` that the devices of this process need."""
        sharding = NamedSharding(self._devices, self._spec((count,)))
        found = [rows.indices(count)[:2] for (rows,) in _indices(sharding, (count,))]
        return slice(min(start for start, _ in found), max(stop for _, stop in found))

    def wish(self, number: float) -> Any:
        """A number from each process, such that all processes learn the sum with a step.

        It is the argument of a compiled function that returns its sum. Without other processes it
        costs nothing.
        """
        if self.processes == 1 or self.mesh is None:
            return 0.0
        if number not in self._wishes:
            sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
            part = np.full(1, number, np.float32)
            self._wishes[number] = jax.make_array_from_callback(
                (self.mesh.size,), sharding, lambda index: part
            )
        return self._wishes[number]

    def readable(self, tree: T) -> T:
        """The arrays of a tree with all rows on each device, so that every process can read them.

        All processes have to call it.
        """
        if self.processes == 1:
            return tree
        whole = NamedSharding(self._devices, PartitionSpec())
        found: T = jax.jit(lambda tree: tree, out_shardings=whole)(tree)
        return found

    def as_rows(self, tree: T) -> T:
        """The same for traced arrays."""
        if self.mesh is None:
            return tree
        found: T = jtu.tree_map(
            lambda leaf: jax.lax.with_sharding_constraint(
                leaf, NamedSharding(self._devices, self._spec(leaf.shape))
            ),
            tree,
        )
        return found

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Rows are cut if the devices can share them out evenly."""
        if not shape or shape[0] == 0 or shape[0] % self.parts:
            return PartitionSpec()
        return PartitionSpec(self._axes if len(self._axes) > 1 else self._axes[0])

    def _put(
        self,
        array: Any,
        spec: PartitionSpec,
        shape: tuple[int, ...] | None = None,
        first: int = 0,
    ) -> Any:
        """An array of a ``shape`` of which ``array`` has some rows, from ``first`` on."""
        sharding = NamedSharding(self._devices, spec)
        if self.processes == 1 or not getattr(array, "is_fully_addressable", True):
            return jax.device_put(array, sharding)
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = self._put(jax.random.key_data(array), spec)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        local = np.asarray(array)

        def part(index: Any) -> np.ndarray:
            if not first:
                return local[index]
            start, stop, _ = index[0].indices(shape[0] if shape else 0)
            return local[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback(shape or local.shape, sharding, part)


def _indices(sharding: NamedSharding, shape: tuple[int, ...]) -> list[Any]:
    """What the devices of this process hold of an array."""
    return [*sharding.addressable_devices_indices_map(shape).values()]
