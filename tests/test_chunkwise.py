"""The chunkwise form of matrix memories: which steps have one, and whether it is right."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import pytest
from agreement import assert_agree, pulled
from fuzzing.spellings import ACROSS, OUTER
from matrix_memories import CHUNKWISE, GLA, TTT, DeltaNet, RetNet, Titans
from models import assert_close, learned, noise, random

import noria as nr
from noria.compiler import chunkwise
from noria.ops.chunkwise import Chunking, matrix_recurrence

HEADS, SIZE, WIDTH, TIME = 2, 3, 4, 11
LENGTHS = jnp.array([11, 0, 6])
RESETS = jnp.zeros((3, TIME), bool).at[0, jnp.array([0, 5, 6])].set(True).at[2, 3].set(True)

#: Several chunks in a segment, and several segments.
SMALL = Chunking(steps=4, key_steps=4, rows=16)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(chunkwise, "CHUNKING", SMALL)


def layer_of(kind: Any, **options: Any) -> nr.Recurrence:
    cell = kind.make(HEADS, SIZE, WIDTH)
    return learned(cell, noise(cell.initial_state(), 3), **options)


@pytest.mark.sampled(203)
@pytest.mark.parametrize("kind", CHUNKWISE)
@pytest.mark.parametrize("masks", [("lengths", "resets"), (), ("lengths",), ("resets",)])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
def test_against_reference(kind, masks, reverse, batched):
    """Values, final state and cotangents of parameters, input, initial and passed state."""
    layer = layer_of(kind, reverse=reverse, backend="chunkwise")
    options: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS}
    options = {name: options[name] if batched else options[name][2] for name in masks}
    xs = random(0, *([3] if batched else []), TIME, WIDTH)
    if "lengths" in masks:
        valid = jnp.arange(TIME)[:, None] < options["lengths"][..., None, None]
        xs = jnp.where(valid, xs, jnp.nan)
    state = noise(layer.initial_state(), 5)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, state, **options)


class OneHead(nr.Cell):
    """A delta rule whose heads are axes of size 1, which some spellings drop and put back."""

    W: jax.Array
    heads: tuple[int, ...]
    outer: str
    across: str

    def initial_state(self):
        return jnp.zeros((*self.heads, SIZE, SIZE))

    def __call__(self, S, x):
        k, q, v, g = (a.reshape(*self.heads, SIZE) for a in jnp.split(self.W @ x, 4))
        v = v - ACROSS[self.across](S, k / 3)
        S = jax.nn.sigmoid(g[..., None]) * S + OUTER[self.outer](k / 3, v)
        return S, ACROSS[self.across](S, q).reshape(-1)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("heads", [(1,), (1, 1), (2, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("across", ACROSS)
def test_heads_of_size_one(heads, outer, across):
    cell = OneHead(0.5 * random(1, 4 * SIZE * max(heads), WIDTH), heads, outer, across)
    layer = learned(cell, noise(cell.initial_state(), 3), backend="chunkwise")
    masks: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS}
    xs = random(0, 3, TIME, WIDTH)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, **masks)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TTT, r"mul at tests/matrix_memories.py:\d+ is not linear in the matrix"),
        (Titans, r"at tests/matrix_memories.py:\d+ makes one matrix of the state depend on"),
    ],
)
def test_refused(kind, reason):
    xs = random(0, TIME, WIDTH)
    layer = nr.Recurrence(kind.make(HEADS, SIZE, WIDTH), backend="chunkwise")
    with pytest.raises(ValueError, match=rf'backend="chunkwise" needs .*{reason}'):
        layer(xs)
    page = nr.explain(nr.with_backend(layer, "scan"), xs)
    assert "no chunkwise form" in str(page)
    assert jtu.tree_all([page.chunkwise in str(page), not page.linear])


@pytest.mark.parametrize("options", [{}, {"lengths": jnp.array([TIME, 1])}])
def test_explained(options):
    page = nr.explain(layer_of(RetNet, backend="chunkwise"), random(0, 2, TIME, WIDTH), **options)
    assert (page.backend, page.chunkwise) == ("chunkwise", "yes")
    assert "loop: chunk by chunk" in str(page)
    assert nr.explain(nr.GRU(2, 3, key=jax.random.key(0)), jnp.ones((4, 2))).chunkwise == ""


def test_vmap_checkpoint_and_streaming():
    xs, layer = random(0, 3, TIME, WIDTH), layer_of(GLA, backend="chunkwise")
    state, ys = layer.scan(None, xs)
    for found in (
        jax.vmap(lambda x: layer.scan(None, x))(xs),
        layer_of(GLA, backend="chunkwise", checkpoint=5).scan(None, xs),
    ):
        assert_close(found, (state, ys), 1e-12)
    middle, first = layer.scan(None, xs[:, :6])
    last, second = layer.scan(middle, xs[:, 6:])
    assert_close((last, jnp.concatenate([first, second], 1)), (state, ys), 1e-12)


def one_by_one(decay: Any, write: Any, value: Any, start: Any, feedback: Any, read: Any) -> Any:
    """The equations of `matrix_recurrence`."""

    def step(S: jax.Array, x: Any) -> Any:
        d, u, v, w, q = x
        return d[..., None] * S + jnp.swapaxes(u, -1, -2) @ (v + w @ S), q @ S

    return jax.lax.scan(step, start, (decay, write, value, feedback, read))


def arguments(keys: int, seed: int = 0, scale: float = 1.0, steps: int = 40) -> Any:
    k = random(seed, steps, 2, 2, 4)
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    decay = jax.nn.sigmoid(scale * random(seed + 1, steps, 2, keys) + 1)
    v, q, start = random(2, steps, 2, 2, 3), random(3, steps, 2, 1, 4), random(4, 2, 4, 3)
    return decay, k, v, start, -0.6 * k * decay[..., None, :], q


@pytest.mark.sampled(11)
@pytest.mark.parametrize("keys", [1, 4], ids=["number", "keys"])
@pytest.mark.parametrize("case", ["mild", "zero", "negative", "tiny", "saturated"])
def test_decays(keys, case):
    """Decays of zero, of either sign, and whose product underflows; with exact gradients."""
    decay, *rest = arguments(keys, scale=300.0 if case == "saturated" else 1.0)
    if case == "zero":
        decay = decay.at[7:9].set(0).at[20, 0].set(0)
    decay = {"negative": -decay, "tiny": 1e-300 * decay}.get(case, decay)

    def chunks(*args: Any) -> Any:
        decay, write, value, start, feedback, read = args
        return matrix_recurrence(decay, write, value, start, feedback=feedback, read=read)

    found, expected = (pulled(jax.jit(f), decay, *rest) for f in (chunks, one_by_one))
    assert all(jnp.isfinite(a).all() for a in jtu.tree_leaves(found))
    assert_close(found, expected, 1e-11)


@pytest.mark.parametrize("keys", [1, 4], ids=["number", "keys"])
def test_a_matrix_that_nothing_reads(keys):
    """Only its last value is wanted."""
    decay, write, value, start, *_ = arguments(keys)
    found, reads = jax.jit(matrix_recurrence)(decay, write, value, start)
    zero = jnp.zeros_like(write)
    assert reads is None
    assert_close(found, one_by_one(decay, write, value, start, zero, zero)[0], 1e-11)


def test_equal_keys_in_float32():
    """Powers of the coupling of 32 equal keys would reach 1e8 and cancel."""
    cell = DeltaNet.make(1, 4, 3, jnp.float32)
    cell = DeltaNet({**cell.W, "b": 50 + 0 * cell.W["b"]}, 1, 4)  # a rate of one
    xs = jnp.ones((64, 3), jnp.float32)
    layer = nr.Recurrence(cell, backend="chunkwise")
    assert_close(layer(xs), nr.with_backend(layer, "plain")(xs), 1e-5)


@pytest.mark.full
def test_sixteen_bits():
    args = jtu.tree_map(lambda a: a.astype(jnp.bfloat16), arguments(4))
    final, reads = matrix_recurrence(*args[:4], feedback=args[4], read=args[5])
    wide = jtu.tree_map(lambda a: a.astype(jnp.float32), args)
    assert reads is not None
    assert final.dtype == reads.dtype == jnp.bfloat16
    assert_close(
        jtu.tree_map(lambda a: a.astype(jnp.float32), (final, reads)), one_by_one(*wide), 1e-2
    )
