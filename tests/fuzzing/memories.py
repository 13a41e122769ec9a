"""Random matrix memories: the equations of one matrix of the state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fuzzing.spellings import ACROSS, ALONG, GATES, KEYS, OUTER, Writer, turned

#: Sizes of keys and values: those that fill no vectors, and those that do.
SIZES = (1, 2, 3, 5, 7, 17, 33, 8, 8, 16, 32)
#: Numbers of all heads of a matrix, at most.
MOST = 1500
#: Along which axes of the matrix a decay differs, and how often; ``"fixed"`` is one without input,
#: ``"both"`` a product of one for keys and one for values, and ``"stable"`` has a stabiliser.
DECAYS = {"none": 2, "head": 3, "fixed": 1, "key": 4, "value": 2, "both": 1, "stable": 1}
#: What is added beside the reads of a query, and how often.
READS = {"after": 6, "before": 2, "sums": 1, "norm": 1, "other": 1}

Projection = Callable[[str], Any]


@dataclass(frozen=True)
class Memory:
    """A matrix ``S`` for each head, and vectors beside it.

    Attributes:
        heads: ``()`` or the number of heads.
        keys: the number of keys.
        values: the number of values.
        key_last: whether the last axis has the keys, and not the one before.
        updates: names in `UPDATES`, one after the other in each step.
        decay: a name in `DECAYS`.
        gate: the function of the decay, in `GATES`.
        last: whether the decay comes after the updates.
        key: the function of keys, in `KEYS`.
        shared: projections that all heads share.
        normaliser: whether there is a sum of keys, by which reads are divided.
        reads: names in `READS`.
    """

    heads: tuple[int, ...]
    keys: int
    values: int
    key_last: bool
    updates: tuple[str, ...]
    decay: str
    gate: str
    last: bool
    key: str
    shared: frozenset[str]
    normaliser: bool
    reads: tuple[str, ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator, linear: bool) -> "Memory":
        """One that has a chunkwise form if it is ``linear``, or any."""
        heads = () if rng.random() < 0.25 else (int(rng.integers(1, 5)),)
        least, keys, values = 2 if linear else 1, 0, 0
        while min(keys, values) < least or keys * values * np.prod(heads) > MOST:
            keys, values = (int(n) for n in rng.choice(SIZES, 2))
        names = [name for name, (often, _) in UPDATES.items() for _ in range(often)]
        names = [name for name in names if not linear or name in LINEAR]
        updates = tuple(map(str, rng.choice(names, 1 + (rng.random() < 0.25))))
        decays = [name for name, often in DECAYS.items() for _ in range(often)]
        decay = str(rng.choice([name for name in decays if name != "both" or not linear]))
        some = {"after": 6, "before": 2} if linear else READS
        known = [read for read, often in some.items() if rng.random() < often / 8]
        return cls(
            heads,
            keys,
            values,
            bool(rng.random() < 0.4),
            updates,
            decay,
            str(rng.choice([*GATES])),
            bool(rng.random() < 0.3),
            str(rng.choice([*KEYS])),
            frozenset(name for name in ("k0", "v0", "q", "b0") if heads and rng.random() < 0.15),
            decay == "stable" or (decay in ("none", "head", "fixed", "key") and rng.random() < 0.2),
            tuple(known) or ("after",),
        )

    @property
    def has_stabiliser(self) -> bool:
        return self.decay == "stable"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of its projections, without the heads of those that are shared."""
        found = {"q": (self.keys,), "r": (self.values,)}
        for n in range(len(self.updates)):
            found |= {f"k{n}": (self.keys,), f"v{n}": (self.values,), f"b{n}": (1,)}
            found |= {f"p{n}": (self.keys,)}
        of_decay = {"key": self.keys, "both": self.keys, "value": self.values}
        found |= {"a": (of_decay.get(self.decay, 1),), "d": (self.values,), "i": (1,)}
        return {
            name: shape if name in self.shared else (*self.heads, *shape)
            for name, shape in found.items()
        }

    def zeros(self, dtype: Any) -> dict[str, jax.Array]:
        """The arrays of its state."""
        sides = (self.values, self.keys) if self.key_last else (self.keys, self.values)
        found = {"S": jnp.zeros((*self.heads, *sides), dtype)}
        if self.normaliser:
            found["n"] = jnp.zeros((*self.heads, self.keys), dtype)
        if self.has_stabiliser:
            found["m"] = jnp.zeros(self.heads, dtype)
        return found

    def following(
        self, write: Writer, of: Projection, state: dict[str, Any], fixed: Any
    ) -> dict[str, Any]:
        """The next state. ``of`` gives a projection by its name, ``fixed`` is a parameter."""
        rules, key = Rules(self, write), KEYS[self.key]
        found, S = dict(state), state["S"]
        scale: Any = 1
        if self.has_stabiliser:
            i, f = of("i")[..., 0], jax.nn.log_sigmoid(of("a")[..., 0])
            found["m"] = m = jnp.maximum(f + state["m"], i)
            decay, scale = jnp.exp(f + state["m"] - m)[..., None], jnp.exp(i - m)[..., None]
        else:
            decay = GATES[self.gate](fixed if self.decay == "fixed" else of("a"))
        S = S if self.last else self.decayed(rules, S, decay, of)
        for n, name in enumerate(self.updates):
            k = key(of(f"k{n}")) * scale
            if self.normaliser and not n:
                found["n"] = (state["n"] if self.decay == "none" else decay * state["n"]) + k
            others = jax.nn.sigmoid(of(f"b{n}")), key(of(f"p{n}"))
            S = UPDATES[name][1](rules, S, k, of(f"v{n}"), *others)
        return found | {"S": self.decayed(rules, S, decay, of) if self.last else S}

    def decayed(self, rules: "Rules", S: Any, decay: Any, of: Projection) -> Any:
        match self.decay:
            case "none":
                return S
            case "key":
                return rules.times(S, rules.on_keys(decay))
            case "value":
                return rules.times(S, rules.on_values(decay))
            case "both":
                other = GATES[self.gate](of("d"))
                return rules.times(rules.times(S, rules.on_keys(decay)), rules.on_values(other))
            case _:
                return rules.times(S, decay[..., None])

    def read(
        self, write: Writer, of: Projection, before: dict[str, Any], after: dict[str, Any]
    ) -> dict[str, jax.Array]:
        """What a step emits, by the names in `READS`."""
        rules, q = Rules(self, write), of("q")
        S = after["S"]
        made: dict[str, Callable[[], Any]] = {
            "after": lambda: self.normalised(rules.by_key(S, q), q, after),
            "before": lambda: self.normalised(rules.by_key(before["S"], q), q, before),
            "sums": lambda: S.sum(-1 if write.flip() else -2),
            "norm": lambda: jnp.sqrt(0.1 + (S * S).sum((-2, -1))),
            "other": lambda: rules.by_value(S, of("r")),
        }
        return {name: made[name]() for name in self.reads}

    def normalised(self, y: Any, q: Any, state: dict[str, Any]) -> Any:
        if not self.normaliser:
            return y
        size = jnp.abs((state["n"] * q).sum(-1, keepdims=True))
        least = jnp.exp(-jnp.tanh(state["m"]))[..., None] if self.has_stabiliser else 0.7123
        return y / jnp.maximum(size, least)


@dataclass(frozen=True)
class Rules:
    """Products of keys, values and the matrix, in the order of its axes."""

    memory: Memory
    write: Writer

    def outer(self, k: Any, v: Any) -> Any:
        return self.write.pick(OUTER)(*((v, k) if self.memory.key_last else (k, v)))

    def by_key(self, S: Any, k: Any) -> Any:
        """Values."""
        return self.write.pick(ALONG if self.memory.key_last else ACROSS)(S, k)

    def by_value(self, S: Any, v: Any) -> Any:
        """Keys."""
        return self.write.pick(ACROSS if self.memory.key_last else ALONG)(S, v)

    def on_keys(self, a: Any) -> Any:
        return a[..., None, :] if self.memory.key_last else a[..., None]

    def on_values(self, a: Any) -> Any:
        return a[..., None] if self.memory.key_last else a[..., None, :]

    def times(self, S: Any, a: Any) -> Any:
        if self.write.flip():
            a = jnp.broadcast_to(a, S.shape)
        return a * S if self.write.flip() else S * a

    def mixed(self, S: Any, k: Any, b: Any) -> Any:
        """By a matrix: ``(1 - b k k^T) S``."""
        T = jnp.eye(k.shape[-1], dtype=k.dtype) - self.write.pick(OUTER)(b * k, k)
        return S @ turned(T) if self.memory.key_last else T @ S


def _delta(r: Rules, S: Any, k: Any, v: Any, b: Any, p: Any) -> Any:
    return S + (
        r.outer(b * k, v - r.by_key(S, k)) if r.write.flip() else _slow_delta(r, S, k, v, b)
    )


def _slow_delta(r: Rules, S: Any, k: Any, v: Any, b: Any) -> Any:
    return r.outer(k, b * v) - r.outer(k, b * r.by_key(S, k))


#: What a step does to ``S``, and how often; ``k``, ``p`` are keys, ``v`` values, ``b`` a rate.
UPDATES: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (4, lambda r, S, k, v, b, p: S + r.outer(k, v)),
    "rate": (2, lambda r, S, k, v, b, p: r.outer(k * b, v) + S),
    "rest": (1, lambda r, S, k, v, b, p: r.times(S, (1 - b)[..., None]) + r.outer(k, b * v)),
    "delta": (5, _delta),
    "remove": (1, lambda r, S, k, v, b, p: S - r.outer(b * k, r.by_key(S, k))),
    "reflect": (1, lambda r, S, k, v, b, p: S - 2 * r.outer(k, r.by_key(S, k))),
    "low rank": (2, lambda r, S, k, v, b, p: S - r.outer(b * p, r.by_key(S, k)) + r.outer(k, v)),
    "two": (1, lambda r, S, k, v, b, p: S + r.outer(p, v) - r.outer(k, b * v)),
    "mixed": (1, lambda r, S, k, v, b, p: r.mixed(S, k, b) + r.outer(k, v)),
    "erase": (1, lambda r, S, k, v, b, p: S * (1 - r.outer(b * k, jnp.tanh(v))) + r.outer(k, v)),
    "values": (1, lambda r, S, k, v, b, p: S - 0.1 * r.outer(r.by_value(S, v), jnp.tanh(v))),
    "descend": (1, lambda r, S, k, v, b, p: S - r.outer(k, b * jnp.tanh(r.by_key(S, k) - v))),
    "bend": (1, lambda r, S, k, v, b, p: jnp.tanh(S + r.outer(k, v))),
    "softmax": (1, lambda r, S, k, v, b, p: jax.nn.softmax(S, -1) + r.outer(k, v)),
    "gram": (1, lambda r, S, k, v, b, p: jnp.tanh(S - 0.1 * (S @ turned(S)) @ S) + r.outer(k, v)),
}
#: Those with a chunkwise form. The others are not linear, or mix what chunks keep apart.
LINEAR = ("add", "rate", "rest", "delta", "remove", "reflect", "low rank", "two")
