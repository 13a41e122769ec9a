"""A random cell, how it is run, and by which transformation of JAX: all drawn from a seed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from agreement import pulled
from models import noise, poisoned

import noria as nr
from fuzzing.cells import FuzzedCell, NoisyCell, random_cell
from fuzzing.matrices import MatrixCell, is_of_matrices, random_matrix_cell
from noria.ops.chunkwise import Chunking

#: What is done with a layer, and how often; some cotangents become `TANGENTS`.
TRANSFORMATIONS = {
    "values": 3,
    "cotangents": 10,
    "steps": 2,
    "pieces": 2,
    "vmap of cotangents": 3,
    "cotangents of vmap": 3,
    "cotangents of cotangents": 2,
    "tangents": 0,
    "tangents of cotangents": 0,
}
#: In place of cotangents, and how often. They are drawn last: a seed gives the same as before.
TANGENTS = {"cotangents": 8, "tangents": 1, "tangents of cotangents": 1}
#: Numbers of bits and kinds of the cell's own numbers, and how often.
DTYPES = {"float64": 8, "float32": 6, "bfloat16": 3, "float16": 1}
INPUTS = {"own": 14, "int32": 1, "uint8": 1, "bool": 1}
#: Thresholds that decide how a loop runs (see `tuning`), and small values of them: threads, time
#: blocks and the like then occur at small sizes.
NUMBERS: dict[str, list[Any]] = {
    "thread_flops": [1, 300],
    "stage_flops": [1, 50],
    "block_rows": [1, 3, 5],
    "block_bytes": [1, 100],
    "small_weight_bytes": [1, 64],
    "cached_weight_bytes": [1, 64],
    "unpacked_rows": [0, 64],
    "step_rows": [0],
    "cores": [1, 2, 3],
    "staged_bytes": [1, 60],
    "pieces": [4, 64],
    "chunk_bytes": [1, 200],
    "widest_sum": [0, 4],
}
#: The same for gradients in segments. They have a generator of their own: a seed gives the same
#: cell as before.
SEGMENTS: dict[str, list[Any]] = {
    "matrix_state_bytes": [1, 64],
    "recomputed_ratio": [0, 1],
    "stored_bytes": [0, 100],
    "segment_bytes": [1, 200],
    "segment_steps": [1, 2],
}
#: The rest of them, which a third of all cases change, with a generator of their own.
OTHERS: dict[str, list[Any]] = {
    "chunking": [Chunking(2, 1, 4), Chunking(4, 2, 16), Chunking(1, 4, 40)],
    "feature_rows": [0, 4],
    "uncached_feature_rows": [0, 2],
    "unpacked_step_rows": [0, 1],
    "repeated_numbers": [0, 20],
    "small_weight_examples": [1],
    "block_examples": [1, 2],
    "uncached_block_examples": [1],
    "read_out_examples": [0, 2],
    "tile_rows": [1, 3],
    "panel_vectors": [(1, 1), (1, 2)],
    "few_rows": [0, 1],
    "prefetch_bytes": [0, 64],
    "prefetched_weight_bytes": [(0, 0), (2**30, 2**30)],
    "depth_steps": [(1, 1), (2, 3)],
    "block_weight_ratio": [1, 2**20],
    "block_vectors": [1, 2],
    "elementwise_vectors": [1, 3],
    "matrix_vectors": [1, 2],
    "product_vectors": [(1, 1), (2, 2)],
    "window_bytes": [0, 200],
    "carried_numbers": [1, 8],
    "update_vectors": [1, 2],
    "update_rows": [(1, 1), (2, 3)],
    "row_pieces": [1, 2],
    "taps": [1, 4],
    "unit_weight_bytes": [1],
    "unit_rows": [1, 3],
    "uncached_unit_rows": [1, 3],
    "unit_step_rows": [1, 3],
    "unit_features": [(1, 1), (8, 16)],
    "unit_block_rows": [1, 5],
    "unit_block_bytes": [1, 300],
    "unit_block_examples": [1],
    "unit_update_features": [1, 8],
    "unit_update_rows": [1, 40],
    "unit_panel_bytes": [1],
    "part_bytes": [1],
}


@dataclass(frozen=True)
class Case:
    """What a seed gives.

    Where it is not ``compiled``, the oracle runs all but the native loops. A cell that is
    ``closed_over`` is run as a plain function. Of a ``partial`` case some results are wanted only.
    """

    seed: int
    cell: FuzzedCell | MatrixCell
    start: Any
    layer_options: dict[str, Any]
    xs: jax.Array
    state: Any
    options: dict[str, Any]
    transformation: str
    mapped: str
    numbers: dict[str, Any]
    compiled: bool
    closed_over: bool
    partial: bool
    backends: tuple[str, ...]

    @property
    def dtype(self) -> Any:
        return self.cell.zero[0].dtype

    @property
    def rough(self) -> bool:
        """Whether some of it is computed in 32 bits, whatever the cell's own numbers are."""
        return self.cell.is_rough

    def layer(self, backend: str) -> nr.Recurrence:
        options = dict(self.layer_options)
        if backend in ("reference", "plain"):
            options = {k: v for k, v in options.items() if k not in ("save", "checkpoint")}
        if backend in ("associative", "chunkwise"):
            options.pop("save", None)
        return nr.Recurrence(self.cell, self.start, backend=backend, **options)

    def function(self, backend: str) -> tuple[Callable[..., Any], list[Any]]:
        """The transformed layer as a function of its differentiable arrays; and these arrays."""
        trained = self.layer(backend), self.state, self.xs
        smooth, rest = eqx.partition(trained, eqx.is_inexact_array)
        arrays, tree = jtu.tree_flatten(smooth)
        leaves = _real(arrays)

        def run(*leaves: Any) -> tuple[list[Any], list[Any]]:
            smooth = jtu.tree_unflatten(tree, _joined(leaves, arrays))
            layer, state, xs = eqx.combine(smooth, rest)
            found = _real(jtu.tree_leaves(self.run(layer, state, xs, backend)))
            return [a for a in found if eqx.is_inexact_array(a)], [
                a for a in found if not eqx.is_inexact_array(a)
            ]

        weights = len(_real(jtu.tree_leaves(eqx.filter(trained[0], eqx.is_inexact_array))))
        which = [
            self.mapped == "both" or (n < weights) == (self.mapped == "weights")
            for n in range(len(leaves))
        ]
        function = self.transformed(run, which if any(which) else [True] * len(leaves))
        return (self.some_of(function) if self.partial else function), leaves

    def some_of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Without results that nobody wants: what leads to them alone need not be computed."""

        def some(*leaves: Any) -> Any:
            found, rng = function(*leaves), np.random.default_rng(self.seed)
            return [[a for a in part if rng.random() < 0.4] or part[:1] for part in found]

        return some

    def run(self, layer: Any, state: Any, xs: Any, backend: str) -> Any:
        if (
            self.closed_over
        ):  # a plain function, and not a cell: its arrays are found when it is traced
            options = {k: getattr(layer, k) for k in ("reverse", "backend", "save", "checkpoint")}
            cell = layer.cell
            layer = nr.Recurrence(lambda state, x: cell(state, x), layer.initial_state(), **options)
        if self.transformation == "steps" and backend != "reference":
            return self.stepped(layer, state, xs)
        if self.transformation == "pieces" and backend != "reference":
            return self.halves(layer, state, xs)
        return layer.scan(state, xs, **self.options)

    def stepped(self, layer: Any, state: Any, xs: Any) -> Any:
        """One step after the other."""
        axis, ys = xs.ndim - 2, []
        state = self.batched(layer, state)
        for t in range(xs.shape[axis]):
            at = functools.partial(jax.lax.index_in_dim, index=t, axis=axis, keepdims=False)
            state, y = layer.step(state, at(xs), **{k: at(v) for k, v in self.options.items()})
            ys.append(y)
        return state, jtu.tree_map(lambda *some: jnp.stack(some, axis), *ys)

    def batched(self, layer: Any, state: Any) -> Any:
        own = layer.initial_state() if state is None else state
        batch = self.xs.shape[:-2]
        zero = self.cell.zero
        return jtu.tree_map(lambda a, z: jnp.broadcast_to(a, batch + z.shape), own, zero)

    def halves(self, layer: Any, state: Any, xs: Any) -> Any:
        """In two pieces, the state carried from one to the other."""
        axis, middle, ys = xs.ndim - 2, xs.shape[xs.ndim - 2] // 2, []
        for begin, end in ((0, middle), (middle, xs.shape[axis])):
            cut = functools.partial(
                jax.lax.slice_in_dim, start_index=begin, limit_index=end, axis=axis
            )
            state, y = layer.scan(state, cut(xs), **{k: cut(v) for k, v in self.options.items()})
            ys.append(y)
        return state, jtu.tree_map(lambda *some: jnp.concatenate(some, axis), *ys)

    def transformed(self, run: Callable[..., Any], which: list[bool]) -> Callable[..., Any]:
        """``run`` gives what can be differentiated, and the rest."""
        axes = [0 if mapped else None for mapped in which]
        both = functools.partial(_pulled, run, self.seed)

        def widened(leaves: Any) -> list[Any]:
            return [_two(a) if mapped else a for a, mapped in zip(leaves, which, strict=True)]

        match self.transformation:
            case "values":
                return run
            case "vmap of cotangents":
                return lambda *leaves: jax.vmap(both, axes)(*widened(leaves))
            case "cotangents of vmap":
                return lambda *leaves: _pulled(jax.vmap(run, axes), self.seed, *widened(leaves))
            case "cotangents of cotangents":
                return lambda *leaves: _pulled(both, self.seed + 1, *leaves)
            case "tangents":
                return functools.partial(_pushed, run, self.seed)
            case "tangents of cotangents":
                return functools.partial(_pushed, both, self.seed + 1)
            case _:
                return both


def _pulled(run: Callable[..., Any], seed: int, *leaves: Any) -> tuple[list[Any], list[Any]]:
    """Results, and cotangents of the arguments for random ones of the results; and the rest."""
    (values, rest), cotangents = pulled(run, *leaves, seed=seed)
    return [*values, *cotangents], rest


def _pushed(run: Callable[..., Any], seed: int, *leaves: Any) -> tuple[list[Any], list[Any]]:
    """Results, and their tangents for random ones of the arguments; and the rest."""
    values, tangents, rest = jax.jvp(run, leaves, noise(leaves, seed), has_aux=True)
    return [*values, *tangents], rest


def _real(arrays: Any) -> list[Any]:
    """The arrays, with two in the place of a complex one."""
    return [part for a in arrays for part in ([a.real, a.imag] if jnp.iscomplexobj(a) else [a])]


def _joined(arrays: Any, like: Any) -> list[Any]:
    """The inverse of `_real`."""
    rest = iter(arrays)
    return [
        jax.lax.complex(next(rest), next(rest)) if jnp.iscomplexobj(a) else next(rest) for a in like
    ]


def _two(a: jax.Array) -> jax.Array:
    return jnp.stack([a, a * jnp.asarray(0.875, a.dtype)])


def random_case(seed: int) -> Case:
    """A layer, its input, how it is run, and which backends are compared with the definition."""
    rng = np.random.default_rng(10_000 + seed)
    dtype = jnp.dtype(_drawn(rng, DTYPES))
    dtype = (
        dtype
        if jax.config.read("jax_enable_x64") or dtype != jnp.float64
        else jnp.dtype(jnp.float32)
    )
    make = random_matrix_cell if is_of_matrices(seed) else random_cell
    cell, features = make(seed, dtype)
    kind = _drawn(rng, TRANSFORMATIONS)
    noisy, whole = isinstance(cell, NoisyCell), kind in ("steps", "pieces")
    kind = "cotangents" if noisy and whole else kind
    whole = whole and not noisy
    time = int(rng.integers(2, 4) if whole else rng.integers(1, 5))
    batch = [(), (1,), (2,), (3,)][rng.integers(4)]
    if rng.random() < 0.06:  # more rows than a block of registers has
        batch, time = (int(rng.integers(7, 18)),), min(time, 2)
    elif rng.random() < 0.08 and batch in ((), (1,)):
        time = int(rng.integers(5, 14))
    if is_of_matrices(seed) and kind != "steps" and batch in ((), (1,), (2,), (3,)):
        time = int(np.random.default_rng([seed, 7]).integers(2, 12))  # several chunks
    start = _state(rng, cell.zero, ()) if rng.random() < 0.8 else cell.zero
    shape = batch if rng.random() < 0.5 else ()
    state = _state(rng, cell.zero, shape) if rng.random() < 0.4 else None
    backends = ["auto"] + ["scan"] * (rng.random() < 0.3) + ["plain"] * (rng.random() < 0.06)
    backends += ["associative"] * cell.linear + ["chunkwise"] * is_of_matrices(seed)
    numbers = _numbers(rng, NUMBERS) | _numbers(np.random.default_rng([seed, 1]), SEGMENTS)
    if (own := np.random.default_rng([seed, 2])).random() < 1 / 3:
        numbers |= _numbers(own, OTHERS)
    case = Case(
        seed=seed,
        cell=cell,
        start=start,
        layer_options=_layer_options(rng, whole),
        xs=_input(rng, (*batch, time, features), dtype),
        state=state,
        options=_options(rng, batch, time, whole, noisy),
        transformation=kind,
        mapped=["inputs", "weights", "both"][rng.integers(3)],
        numbers=numbers,
        compiled=bool(rng.random() < 0.2),
        closed_over=bool(rng.random() < 0.1) and not noisy,
        partial=bool(rng.random() < 0.3),
        backends=tuple(backends),
    )
    if "lengths" in case.options and is_of_matrices(seed):
        case = replace(case, xs=poisoned(case.xs, case.options["lengths"]))
    return replace(case, transformation=_drawn(rng, TANGENTS)) if kind == "cotangents" else case


def _numbers(rng: np.random.Generator, values: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        name: some[rng.integers(len(some))] for name, some in values.items() if rng.random() < 0.4
    }


def _drawn(rng: np.random.Generator, often: dict[str, int]) -> str:
    return str(rng.choice([name for name, count in often.items() for _ in range(count)]))


def _state(rng: np.random.Generator, zero: Any, batch: tuple[int, ...]) -> Any:
    def one(a: jax.Array) -> jax.Array:
        shape = batch + a.shape
        if jnp.issubdtype(a.dtype, jnp.complexfloating):
            return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape), a.dtype)
        if jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(rng.normal(size=shape), a.dtype)
        return jnp.asarray(rng.integers(0, 2, shape), a.dtype)

    return jtu.tree_map(one, zero)


def _input(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    kind = _drawn(rng, INPUTS)
    if kind == "own":
        return jnp.asarray(rng.normal(size=shape), dtype)
    return jnp.asarray(rng.integers(0, 2 if kind == "bool" else 4, shape), kind)


def _layer_options(rng: np.random.Generator, whole: bool) -> dict[str, Any]:
    ways: list[dict[str, Any]] = [
        {},
        {},
        {},
        {"save": "states"},
        {"checkpoint": int(rng.integers(1, 4))},
    ]
    ways += [{"checkpoint": "sqrt"}, {"checkpoint": 2, "save": "states"}]
    chosen = ways[rng.integers(len(ways))]
    reverse = bool(rng.random() < 0.4) and not whole
    return {"reverse": reverse, "learn_initial_state": bool(rng.random() < 0.5), **chosen}


def _options(
    rng: np.random.Generator, batch: tuple[int, ...], time: int, whole: bool, noisy: bool
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.random() < 0.3 and not whole:
        options["lengths"] = jnp.asarray(rng.integers(0, time + 1, batch), jnp.int32)
    if rng.random() < 0.3:
        options["resets"] = jnp.asarray(rng.random((*batch, time)) < 0.4)
    if noisy:
        options["key"] = jax.random.key(int(rng.integers(2**31)))
    return options
