"""Matrix memories: machine code, the derived chunkwise form, one by hand, and the plain loop.

    python benchmarks/chunkwise.py [TIME HEADS SIZE [CELL ...]]

The cells are those of ``tests/matrix_memories.py``, with one example and 128 inputs. Calls take
turns. For each form the table has the median wall time, the time of ``plain`` divided by it, and
the temporary memory of the program. Three cells have a chunkwise form by hand, in plain JAX; its
outputs are compared first. Other thresholds can be tried by editing
`noria.ops.chunkwise.Chunking`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid

import noria as nr

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from matrix_memories import CHUNKWISE, Memory, unit

WIDTH, TURNS = 128, 9
FORMS = ("plain", "auto", "chunkwise")


# --- by hand --------------------------------------------------------------------------------------

# The reads within a chunk are products of all steps of the chunk; only the matrix between chunks
# needs a scan (Yang et al. 2023, arXiv 2312.06635; Yang et al. 2024, arXiv 2406.06484). The batch,
# the heads and the chunks are one axis: XLA multiplies small matrices slower with several.


def retnet(cell: Memory, xs: jax.Array, size: int = 64) -> jax.Array:
    """S' = gamma S + k v^T, y = q^T S'."""
    q, k, v = (_chunks(cell, name, xs, size) for name in "qkv")
    t = jnp.arange(size)
    gamma = 1 - 2.0 ** (-1 - jnp.arange(cell.heads, dtype=xs.dtype))[:, None, None]

    def of_chunks(factors: jax.Array) -> jax.Array:
        return jnp.tile(jnp.repeat(factors, xs.shape[1] // size, 0), (xs.shape[0], 1, 1))

    between = t[:, None] - t
    decays = of_chunks(jnp.where(between >= 0, gamma ** jnp.maximum(between, 0), 0))
    scores = (q @ _turned(k)) * decays
    added = _turned(k * of_chunks(gamma ** (size - 1 - t)[:, None])) @ v
    states = _carried(cell, xs, size, of_chunks(gamma**size), added)
    return _joined(cell, xs, scores @ v + (q * of_chunks(gamma ** (t + 1)[:, None])) @ states)


def hgrn2(cell: Memory, xs: jax.Array, size: int = 32) -> jax.Array:
    """S' = diag(f) S + (1 - f) v^T: decays as logarithms, which limits the steps of a chunk."""
    q, f, v = (_chunks(cell, name, xs, size) for name in "qfv")
    k, total = sigmoid(-f), jnp.cumsum(log_sigmoid(f), 1)
    query = q * jnp.exp(total)
    scores = jnp.tril(query @ _turned(k * jnp.exp(-total)))
    added = _turned(k * jnp.exp(total[:, -1:] - total)) @ v
    states = _carried(cell, xs, size, jnp.exp(total[:, -1])[:, :, None], added)
    return _joined(cell, xs, scores @ v + query @ states)


def delta_net(cell: Memory, xs: jax.Array, size: int = 32) -> jax.Array:
    """S' = S + b k (v - k^T S)^T: the WY form, with the inverse by squaring."""
    q, k, v, b = (_chunks(cell, name, xs, size) for name in "qkvb")
    k, b = unit(k), sigmoid(b)
    power = -jnp.tril(b * (k @ _turned(k)), -1)
    inverse = jnp.eye(size, dtype=xs.dtype) + power
    for _ in range(size.bit_length() - 2):
        power = power @ power
        inverse = inverse + inverse @ power
    removed, written = inverse @ (b * k), inverse @ (b * v)
    one = jnp.ones((len(k), 1, 1), xs.dtype)
    states = _carried(cell, xs, size, one, _turned(k) @ written, -(_turned(k) @ removed))
    reads = q @ states + jnp.tril(q @ _turned(k)) @ (written - removed @ states)
    return _joined(cell, xs, reads)


BY_HAND = {"RetNet": retnet, "HGRN2": hgrn2, "DeltaNet": delta_net}


def _turned(a: jax.Array) -> jax.Array:
    return jnp.swapaxes(a, 1, 2)


def _chunks(cell: Memory, name: str, xs: jax.Array, size: int) -> jax.Array:
    """A projection of the input, ``(batch * heads * chunks, steps, numbers)``."""
    a = jnp.einsum("hnw,btw->bhtn", cell.W[name], xs)
    return a.reshape(-1, size, a.shape[-1])


def _joined(cell: Memory, xs: jax.Array, reads: jax.Array) -> jax.Array:
    """The reads of all chunks, ``(batch, time, heads * numbers)``."""
    reads = reads.reshape(len(xs), cell.heads, xs.shape[1], -1)
    return jnp.moveaxis(reads, 1, 2).reshape(*xs.shape[:2], -1)


def _carried(
    cell: Memory,
    xs: jax.Array,
    size: int,
    decay: jax.Array,
    added: jax.Array,
    mix: jax.Array | None = None,
) -> jax.Array:
    """The matrix before each chunk: ``S' = decay * S + mix S + added``."""
    rows, count = len(xs) * cell.heads, xs.shape[1] // size

    def one(state: jax.Array, chunk: Any) -> tuple[jax.Array, jax.Array]:
        decay, added, mix = chunk
        after = state * decay + added
        return after if mix is None else after + mix @ state, state

    given = jax.tree.map(
        lambda a: jnp.swapaxes(a.reshape(rows, count, *a.shape[1:]), 0, 1), (decay, added, mix)
    )
    _, states = jax.lax.scan(one, jnp.zeros((rows, *added.shape[1:]), added.dtype), given)
    return jnp.swapaxes(states, 0, 1).reshape(-1, *added.shape[1:])


# --- the table ------------------------------------------------------------------------------------


def training(run: Callable[..., Any], layer: Any, xs: jax.Array) -> Any:
    return nr.value_and_grad(lambda layer: (run(layer, xs) ** 2).mean())(layer)


def forms_of(cell: Any) -> dict[str, tuple[Callable[..., Any], Any]]:
    """By name: a function, and its model."""
    layers = {form: nr.Recurrence(cell, backend=form) for form in FORMS}
    forms: dict[str, tuple[Callable[..., Any], Any]] = {
        form: (lambda layer, xs: layer(xs), layer) for form, layer in layers.items()
    }
    by_hand = BY_HAND.get(type(cell).__name__)
    return forms | ({} if by_hand is None else {"by hand": (by_hand, cell)})


def seconds(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def _temporary(program: Any) -> float:
    """Megabytes of temporary memory."""
    return float(program.memory_analysis().temp_size_in_bytes) / 1e6


def main(steps: int, heads: int, size: int, *names: str) -> None:
    kinds = [k for k in CHUNKWISE if not names or k.__name__ in names]
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(1, steps, WIDTH)), jnp.float32)
    names = *FORMS, "by hand"
    print(f"| {steps} steps, {heads} heads of {size} | | {' | '.join(names)} |")
    print("|" + "---|" * (2 + len(names)))
    for kind in kinds:
        forms = forms_of(kind.make(heads, size, WIDTH, jnp.float32))
        values = {name: run(model, xs) for name, (run, model) in forms.items()}
        for value in values.values():
            np.testing.assert_allclose(value, values["plain"], atol=1e-4 * np.abs(value).max())
        for mode in ("inference", "training"):
            calls, memory = {}, {}
            for name, (run, model) in forms.items():
                function = run if mode == "inference" else partial(training, run)
                program = jax.jit(function).lower(model, xs).compile()
                calls[name] = partial(program, model, xs)
                memory[name] = _temporary(program)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(TURNS):
                for name, call in calls.items():
                    times[name].append(seconds(call))
            plain = median(times["plain"])
            cells = [
                f"{1e3 * median(times[name]):.1f} ms, {plain / median(times[name]):.2f}, "
                f"{memory[name]:.0f} MB"
                if name in calls
                else ""
                for name in names
            ]
            print(f"| {kind.__name__} | {mode} | {' | '.join(cells)} |", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    steps, heads, size = (int(a) for a in sys.argv[1:4] or ("2048", "4", "32"))
    main(steps, heads, size, *sys.argv[4:])
