"""Random cells with matrices in their state: one or two memories, and vectors beside them."""

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from fuzzing.memories import Memory, Projection
from fuzzing.spellings import PROJECT, Writer

#: What a cell has besides, and how often in ten: the input before, a vector that does not depend on
#: matrices, a vector that does, and a counter.
BESIDE = {"before": 2, "free": 2, "fed": 2, "count": 1}
#: How often it attends to entries that no step changes. They have a generator of their own: a seed
#: gives the same as before otherwise.
ENTRIES = 0.2


def is_of_matrices(seed: int) -> bool:
    """Whether the cell of a seed has matrices in its state: one of four does."""
    return seed % 4 == 1


class MatrixCell(nr.Cell):
    """Memories that read projections of the input; the step gives its output on the way.

    ``spelling`` is the seed of the ways in which equations are written. If they are ``linked``, the
    second memory stores what the first one reads.
    """

    weights: dict[str, jax.Array]
    zero: tuple[jax.Array, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    memories: tuple[Memory, ...] = eqx.field(static=True)
    spelling: int = eqx.field(static=True)
    linked: bool = eqx.field(static=True)
    emits_state: bool = eqx.field(static=True)

    is_rough = False
    linear = False

    def arrays(self, n: int, state: dict[str, Any]) -> dict[str, Any]:
        """Those of a memory."""
        return {name[0]: a for name, a in state.items() if name[1:] == str(n)}

    def seen(self, state: dict[str, Any], x: jax.Array) -> jax.Array:
        """What projections are of: the input with vectors of the state."""
        z = x.astype(self.zero[0].dtype)
        if "before" in state:
            z = z + 0.5 * state["before"]
        if "count" in state:
            z = z * jnp.cos(state["count"].astype(z.dtype))
        if "entries" in state:
            z = z + jax.nn.softmax(state["entries"] @ z) @ state["entries"]
        return jnp.concatenate([z, *(state[name] for name in ("free", "fed") if name in state)])

    def projections(self, n: int, z: jax.Array) -> Projection:
        """Those of a memory, by name; one product gives all of them if they have one weight."""
        shapes = self.memories[n].shapes()
        if (whole := self.weights.get(f"all {n}")) is None:
            write = Writer(self.spelling)
            ways = {name: write.pick(PROJECT) for name in shapes}
            return lambda name: ways[name](self.weights[f"{name} {n}"], z)
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()
        pieces = dict(zip(shapes, jnp.split(whole @ z, ends[:-1]), strict=True))
        return lambda name: pieces[name].reshape(shapes[name])

    def step(self, state: Any, x: jax.Array) -> tuple[dict[str, Any], Any]:
        """The next state, and what is emitted."""
        before, write = dict(zip(self.names, state, strict=True)), Writer(self.spelling)
        z = self.seen(before, x)
        after: dict[str, Any] = {}
        ys: list[Any] = []
        for n, memory in enumerate(self.memories):
            own, of = self.arrays(n, before), self.projections(n, z)
            if self.linked and n:
                of = partial(_linked, of, ys[0]["after"])
            new = memory.following(write, of, own, self.weights[f"fixed {n}"])
            ys.append(memory.read(write, of, own, new))
            after |= {f"{name}{n}": a for name, a in new.items()}
        for name in self.names[len(after) :]:
            after[name] = self.beside(name, before, x, z, ys)
        return after, {"y": ys} | ({"state": tuple(after.values())} if self.emits_state else {})

    def beside(self, name: str, before: dict[str, Any], x: Any, z: Any, ys: list[Any]) -> Any:
        """The next value of an array that is no memory's."""
        match name:
            case "before":
                return x.astype(before[name].dtype)
            case "entries":
                return before[name]
            case "count":
                return before[name] + 1
            case "free":
                return jnp.tanh(self.weights[name] @ z)
            case _:
                read = next(iter(ys[0].values()))
                return jnp.tanh(self.weights[name] @ z + jnp.tanh(read).sum())

    def __call__(self, state: Any, x: jax.Array) -> Any:
        after, y = self.step(state, x)
        return tuple(after[name] for name in self.names), y

    def initial_state(self) -> Any:
        return tuple(jnp.zeros_like(a) for a in self.zero)


class OutputCell(MatrixCell):
    """Its output is read from the state after the step."""

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return super().__call__(state, x)[0]

    def output(self, state: Any, x: jax.Array) -> Any:
        """Projections are of the next vectors, as the cell has no others any more."""
        now = dict(zip(self.names, state, strict=True))
        z, write, ys = self.seen(now, x), Writer(self.spelling + 1), []
        for n, memory in enumerate(self.memories):
            own = self.arrays(n, now)
            ys.append(memory.read(write, self.projections(n, z), own, own))
        return ys


def _linked(of: Projection, read: Any, name: str) -> Any:
    return read if name == "v0" else of(name)


def random_matrix_cell(seed: int, dtype: Any) -> tuple[MatrixCell, int]:
    """A cell, and how many features it takes."""
    rng = np.random.default_rng([seed, 6])
    features, linear = int(rng.integers(1, 7)), bool(rng.random() < 0.6)
    memories = [Memory.drawn(rng, linear)]
    linked = bool(rng.random() < 0.1) and not linear and "after" in memories[0].reads
    if linked:
        memories.append(memories[0])
    elif rng.random() < 0.15:
        memories.append(Memory.drawn(rng, linear))
    state = {f"{name}{n}": a for n, m in enumerate(memories) for name, a in m.zeros(dtype).items()}
    sizes = {"before": (features,), "free": (3,), "fed": (2,), "count": ()}
    for name, often in BESIDE.items():
        if rng.random() < often / 10 and not (linear and name == "fed"):
            state[name] = jnp.zeros(sizes[name], jnp.int32 if name == "count" else dtype)
    if np.random.default_rng([seed, 8]).random() < ENTRIES:
        state["entries"] = jnp.zeros((3, features), dtype)
    width = features + sum(sizes[name][0] for name in ("free", "fed") if name in state)
    shapes: dict[str, tuple[int, ...]] = {}
    for n, m in enumerate(memories):
        some = m.shapes()
        if rng.random() < 0.2:
            some = {"all": (sum(map(math.prod, some.values())),)}
        shapes |= {f"{name} {n}": (*shape, width) for name, shape in some.items()}
        shapes[f"fixed {n}"] = (*m.heads, 1)
    shapes |= {name: (*sizes[name], width) for name in ("free", "fed") if name in state}
    weights = {
        name: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]), dtype)
        for name, shape in shapes.items()
    }
    make = MatrixCell if rng.random() < 0.4 else OutputCell
    spelling, emits_state = int(rng.integers(2**16)), bool(rng.random() < 0.2)
    options = tuple(state), tuple(memories), spelling, linked, emits_state
    return make(weights, tuple(state.values()), *options), features
