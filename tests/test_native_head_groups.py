"""Groups of heads as rows of the batch: which heads are divided, and with which results."""

import jax
import jax.numpy as jnp
import pytest
from agreement import check_native
from matrix_memories import CHUNKWISE, Memory, RetNet, Titans
from models import learned, random

import noria as nr

pytest.importorskip("llvmlite")

from noria.backends.native import kernel_call

WIDTH = 5
MEMORIES: list[type[Memory]] = [*CHUNKWISE, Titans]
KINDS = {kind.__name__: kind for kind in MEMORIES}
#: Memories of which all heads read the same keys: their gradients are sums over the heads.
SHARED = {"Mamba2"}


@pytest.fixture
def rows(monkeypatch):
    """The rows of each kernel, and whether it takes the steps in reverse."""
    found = []
    call = kernel_call._call

    def recorded(loop, arrays, **options):
        found.append((loop.batch(arrays), loop.call.reverse))
        return call(loop, arrays, **options)

    monkeypatch.setattr(kernel_call, "_call", recorded)
    return found


def layer_of(kind, heads, size=16, **options):
    return learned(kind.make(heads, size, WIDTH, jnp.float64), **options)


@pytest.mark.sampled(29)
@pytest.mark.parametrize("cores", [2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_heads_of_one_example_are_divided(name, cores, rows, tune):
    tune(cores=cores, thread_flops=1, matrix_state_bytes=1)
    check_native(layer_of(KINDS[name], 4), random(1, 1, 5, WIDTH))
    divided = {in_reverse for count, in_reverse in rows if count == cores}
    assert divided == ({False} if name in SHARED else {False, True})


@pytest.mark.sampled(23)
@pytest.mark.parametrize("name", KINDS)
def test_heads_with_lengths_and_resets_in_reverse(name, rows, tune):
    tune(cores=6, thread_flops=1, matrix_state_bytes=1)
    resets = random(3, 2, 5) > 0.5
    layer = layer_of(KINDS[name], 3, reverse=True)
    check_native(layer, random(1, 2, 5, WIDTH), lengths=jnp.array([5, 3]), resets=resets)
    # The rows would copy shared keys, or the initial state that a reset puts back.
    assert (6 in {count for count, _ in rows}) == (name not in {"Mamba2", "MLSTM"})


@pytest.mark.parametrize(
    ("batch", "heads", "cores", "count"),
    [
        (1, 3, 2, 3),  # as few as all threads need, of equal size
        (1, 4, 3, 4),
        (1, 6, 16, 6),
        (2, 4, 3, 4),
        (3, 4, 3, 3),  # the examples are enough
        (1, 1, 4, 1),
        (1, 5, 1, 1),
    ],
)
def test_number_of_rows(batch, heads, cores, count, rows, tune):
    tune(cores=cores, thread_flops=1, matrix_state_bytes=1)
    check_native(layer_of(RetNet, heads), random(1, batch, 4, WIDTH))
    assert max(found for found, _ in rows) == count


def test_small_work_and_small_states_are_not_divided(rows, tune):
    tune(cores=2, thread_flops=10**9)
    check_native(layer_of(RetNet, 4), random(1, 1, 4, WIDTH))
    tune(cores=2, thread_flops=1, matrix_state_bytes=2**20)
    check_native(layer_of(RetNet, 4), random(1, 1, 4, WIDTH))
    assert {count for count, _ in rows} == {1}


class Mixing(RetNet):
    """Each head reads the matrix of another one."""

    def __call__(self, S, x):
        return super().__call__(jnp.roll(S, 1, 0), x)


class Reading(RetNet):
    """The output is a sum over heads."""

    def output(self, S, x):
        return super().output(S, x).reshape(self.heads, -1).sum(0)


class Summed(RetNet):
    """The decay of a head is a sum over all of them."""

    def __call__(self, S, x):
        return super().__call__(S / (1 + (S * S).sum()), x)


@pytest.mark.parametrize("kind", [Mixing, Reading, Summed])
def test_heads_that_read_each_other_are_not_divided(kind, rows, tune):
    tune(cores=2, thread_flops=1, matrix_state_bytes=1)
    check_native(layer_of(kind, 4), random(1, 1, 5, WIDTH))
    assert {count for count, in_reverse in rows if not in_reverse} == {1}


class First(RetNet):
    """The output is a part of the heads."""

    def output(self, S, x):
        return S[: self.heads // 2].sum(1).reshape(-1)


class Last(RetNet):
    """The output has the heads on its last axis."""

    def output(self, S, x):
        return jnp.einsum("hk,hkv->vh", self.of("q", x), S)


class Counting(RetNet):
    """Beside the matrices there is a number for all heads."""

    def __call__(self, state, x):
        S, n = state
        return super().__call__(S, x) / (1 + 0.1 * n), n + 1

    def output(self, state, x):
        return super().output(state[0], x)

    def initial_state(self):
        return super().initial_state(), jnp.zeros(())


class Stacked(RetNet):
    """Numbers that are computed in the loop are stacked to a vector of the heads."""

    def __call__(self, S, x):
        gates = [jnp.where(x[n] > 0, 1, 0.5**n) for n in range(self.heads)]
        return super().__call__(S, x) * jnp.stack(gates)[:, None, None]


class Unread(RetNet):
    """A part of the state is replaced, and never read."""

    def __call__(self, state, x):
        return super().__call__(state[0], x), self.of("k", x)[:, 0]

    def output(self, state, x):
        return super().output(state[0], x)

    def initial_state(self):
        return super().initial_state(), jnp.zeros((self.heads,))


@pytest.mark.parametrize("kind", [First, Last, Counting, Stacked, Unread])
def test_outputs_and_numbers_besides(kind, tune):
    """Parts of the step before and after the loop are not divided."""
    tune(cores=2, thread_flops=1, matrix_state_bytes=1)
    check_native(layer_of(kind, 4), random(1, 1, 5, WIDTH))


def test_rows_of_many_steps_equal_the_definition(rows, tune):
    """Segments, in which the forward loop runs again, and several time blocks."""
    tune(cores=2, thread_flops=1, stored_bytes=1, segment_bytes=2**14)
    for kind in (RetNet, KINDS["GatedDeltaNet"]):
        check_native(layer_of(kind, 2, 32), random(1, 1, 200, WIDTH))
    assert {count for count, _ in rows} == {2}


def test_examples_under_vmap_and_heads(rows, tune):
    """`jax.vmap` folds examples into one batch; only then is it clear how many there are."""
    tune(cores=4, thread_flops=1, matrix_state_bytes=1)
    layer = layer_of(RetNet, 4)
    native, plain = (nr.with_backend(layer, name) for name in ("native", "plain"))
    xs = random(1, 2, 6, WIDTH)
    for run in (jax.vmap(native), jax.jit(jax.vmap(native))):
        assert jnp.allclose(run(xs), jax.vmap(plain)(xs), rtol=1e-10, atol=1e-10)
    assert 4 in {count for count, _ in rows}
