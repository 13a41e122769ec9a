"""Convolutions and pooling, against loops in NumPy: sequences, blocks, lengths, resets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import assert_close, cotangents, random

import noria as nr
from noria.layers.window import window_of

KEY = jax.random.key(0)
IN, OUT = 4, 6


class Form(NamedTuple):
    """The options of a layer."""

    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: Any = "causal"

    @property
    def reach(self) -> int:
        return (self.kernel_size - 1) * self.dilation

    def steps(self, k: int) -> range:
        """The steps of window ``k``, some of them outside of the sequence."""
        if self.padding == "causal":  # it ends with its block
            last = (k + 1) * self.stride - 1
            return range(last - self.reach, last + 1, self.dilation)
        if self.padding == "same":
            first = k * self.stride - self.reach // 2
        else:
            first = k * self.stride - (0 if self.padding == "valid" else self.padding[0])
        return range(first, first + self.reach + 1, self.dilation)

    def number(self, time: int) -> int:
        """The number of windows, by counting."""
        if time == 0:
            return 0
        if self.padding == "causal":
            return sum((k + 1) * self.stride <= time for k in range(time))
        if self.padding == "same":
            return sum(k * self.stride < time for k in range(time))
        behind = 0 if self.padding == "valid" else self.padding[1]
        return sum(self.steps(k)[-1] < time + behind for k in range(time + 2 * behind + 1))


CAUSAL = [
    Form(3),
    Form(1),
    Form(2, dilation=3),
    Form(3, stride=2),
    Form(2, stride=3),
    Form(5, stride=3, dilation=2, groups=2),
]
#: Other paddings whose windows end within their block.
STREAMING = [*CAUSAL, Form(3, stride=2, padding=(2, 0)), Form(3, stride=2, padding=(1, 1))]
#: The same number of outputs for a sequence as for its episodes.
KEEPING = [*STREAMING, Form(3, padding="same"), Form(4, stride=2, dilation=2, padding="same")]
ALL = [
    *KEEPING,
    Form(3, padding="valid"),
    Form(4, stride=3, padding="valid"),
    Form(3, padding=(4, 3)),
    Form(2, groups=2, padding="valid"),
]
POOLS = [form for form in ALL if form.dilation == form.groups == 1 and form.padding != (4, 3)]


def conv(form: Form) -> nr.Conv1d:
    kernel_size, stride, dilation, groups, padding = form
    return nr.Conv1d.from_arrays(
        random(1, OUT, IN // groups, kernel_size),
        random(2, OUT),
        stride=stride,
        dilation=dilation,
        groups=groups,
        padding=padding,
    )


def conv_oracle(form: Form, xs: np.ndarray) -> np.ndarray:
    layer = conv(form)
    W, b = np.asarray(layer.W), np.asarray(layer.b)
    ys = []
    for k in range(form.number(len(xs))):
        y = b.copy()
        for j, t in enumerate(form.steps(k)):
            for o in range(OUT if 0 <= t < len(xs) else 0):
                group = o // (OUT // form.groups)
                features = xs[t].reshape(form.groups, -1)[group]
                y[o] += W[o, :, j] @ features
        ys.append(y)
    return np.array(ys).reshape(-1, OUT)


def pooled(kind: Any, form: Form) -> nr.Layer:
    layer: nr.Layer = kind(form.kernel_size, form.stride, padding=form.padding, size=IN)
    return layer


def pool_oracle(of: Callable[..., Any], form: Form, xs: np.ndarray) -> np.ndarray:
    return np.array(
        [
            of([xs[t] for t in form.steps(k) if 0 <= t < len(xs)], axis=0)
            for k in range(form.number(len(xs)))
        ]
    ).reshape(-1, IN)


#: The layer and its oracle, by name.
KINDS: dict[str, tuple[Callable[[Form], Any], Callable[[Form, np.ndarray], np.ndarray]]] = {
    "conv": (conv, conv_oracle),
    "max": (
        lambda form: pooled(nr.MaxPool1d, form),
        lambda form, xs: pool_oracle(np.max, form, xs),
    ),
    "mean": (
        lambda form: pooled(nr.MeanPool1d, form),
        lambda form, xs: pool_oracle(np.mean, form, xs),
    ),
}


def cases(forms: list[Form]) -> Any:
    found = [(kind, form) for kind in KINDS for form in forms if kind == "conv" or form in POOLS]
    return pytest.mark.parametrize(
        ("kind", "form"), found, ids=[f"{k}-{'-'.join(map(str, f))}" for k, f in found]
    )


def made(kind: str, form: Form) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    layer, oracle = KINDS[kind]
    return layer(form), lambda xs: oracle(form, np.asarray(xs))


@pytest.mark.parametrize("form", ALL)
def test_the_number_of_windows(form):
    kernel_size, stride, dilation, _, padding = form
    window = window_of("", kernel_size, stride, dilation, padding)
    assert [window.count(time) for time in range(30)] == [form.number(time) for time in range(30)]
    assert window.counts(np.arange(30)).tolist() == [form.number(time) for time in range(30)]
    assert window.streams == (form in STREAMING or form.kernel_size == 1)
    assert window.keeps_time == (form in KEEPING)


@pytest.mark.sampled(17)
@cases(ALL)
def test_sequences_are_those_of_the_definition(kind, form):
    layer, oracle = made(kind, form)
    for time in (13, 2):
        xs = random(time, 2, time, IN)
        expected = np.array([oracle(x) for x in xs])
        assert_close(layer(xs), jnp.asarray(expected), 1e-12)
        assert_close(layer(xs[1]), jnp.asarray(expected[1]), 1e-12)
        assert layer.output_lengths(time) == expected.shape[1]


@pytest.mark.sampled(17)
@cases(ALL)
def test_lengths_are_sequences_of_their_own(kind, form):
    """With NaN in the padding: outputs and cotangents are those of each example alone."""
    layer, oracle = made(kind, form)
    lengths = np.array([13, 0, 7, 2])
    valid = np.arange(13) < lengths[:, None]
    xs = np.where(valid[..., None], random(0, 4, 13, IN), np.nan)
    ys = layer(xs, lengths=lengths)
    numbers = layer.output_lengths(lengths).tolist()
    for x, y, length, number in zip(xs, ys, lengths.tolist(), numbers, strict=True):
        assert number == form.number(length)
        np.testing.assert_allclose(y[:number], oracle(x[:length]), atol=1e-12)
        assert not np.asarray(y[number:]).any()
    _, (_, _, dxs) = cotangents(layer, None, jnp.asarray(xs), lengths=jnp.asarray(lengths))
    assert np.isfinite(dxs).all()
    assert not np.asarray(dxs)[~valid].any()


@pytest.mark.sampled(17)
@cases(STREAMING)
def test_blocks_give_the_outputs_and_the_state_of_the_sequence(kind, form):
    layer, _ = made(kind, form)
    xs = random(0, 3, 4 * form.stride, IN)
    final, ys = layer.scan(None, xs)
    state, outputs = layer.initial_state(batch=3), []
    for block in xs.reshape(3, 4, form.stride, IN).swapaxes(0, 1):
        state, y = layer.step(state, block if form.stride > 1 else block[:, 0])
        outputs.append(y)
    assert_close((state, jnp.stack(outputs, 1)), (final, ys), 1e-12)
    first, head = layer.scan(None, xs[:, : form.stride])
    second, tail = layer.scan(first, xs[:, form.stride :])
    assert_close((second, jnp.concatenate([head, tail], 1)), (final, ys), 1e-12)


@pytest.mark.sampled(25)
@cases(STREAMING)
def test_the_state_at_the_lengths_goes_on(kind, form):
    layer, _ = made(kind, form)
    s = form.stride
    xs, more, lengths = random(0, 3, 5 * s, IN), random(1, 3, 2 * s, IN), s * np.array([5, 0, 2])
    state, _ = layer.scan(None, xs, lengths=lengths)
    ys = layer(state, more)
    for n, length in enumerate(lengths):
        whole = layer(jnp.concatenate([xs[n, :length], more[n]]))
        assert_close(ys[n], whole[length // s :], 1e-12)


@pytest.mark.sampled(21)
@cases(KEEPING)
def test_resets_are_sequences_of_their_own(kind, form):
    layer, oracle = made(kind, form)
    s = form.stride
    xs, resets = random(0, 2, 6 * s, IN), np.zeros((2, 6 * s), bool)
    resets[0, [0, 2 * s, 3 * s]] = True
    state, ys = layer.scan(None, xs, resets=resets)
    parts = [
        oracle(np.asarray(xs[0, a:b])) for a, b in ((0, 2 * s), (2 * s, 3 * s), (3 * s, 6 * s))
    ]
    np.testing.assert_allclose(ys[0], np.concatenate(parts), atol=1e-12)
    np.testing.assert_allclose(ys[1], oracle(np.asarray(xs[1])), atol=1e-12)
    if form not in STREAMING or layer.initial_state() is None:
        assert jtu.tree_leaves(state) == []
        return
    alone, _ = layer.scan(None, xs[0, 3 * s :])
    assert_close(jtu.tree_map(lambda a: a[0], state), alone, 0)
    lengths = s * np.array([3, 6])  # the episode that begins there is padding
    state, _ = layer.scan(None, xs, resets=resets, lengths=lengths)
    alone, _ = layer.scan(None, xs[0, 2 * s : 3 * s])
    assert_close(jtu.tree_map(lambda a: a[0], state), alone, 0)
    before = layer.scan(None, xs)[0]
    block = xs[:, :s] if s > 1 else xs[:, 0]
    found = layer.step(before, block, resets=jnp.array([True, False]))
    fresh, kept = layer.step(None, block), layer.step(before, block)
    for one, new, old in zip(*map(jtu.tree_leaves, (found, fresh, kept)), strict=True):
        assert_close((one[0], one[1]), (new[0], old[1]), 0)


def test_a_reset_within_a_block():
    """It is an error where its value is known, and else acts at the start of the block."""
    layer, xs = conv(Form(3, stride=2)), random(0, 6, IN)
    inside, start = jnp.array([0, 0, 0, 1, 0, 0], bool), jnp.array([0, 0, 1, 0, 0, 0], bool)
    with pytest.raises(ValueError, match="resets is true at step 3; expected multiples of its"):
        layer(xs, resets=inside)
    found = jax.jit(lambda resets: layer(xs, resets=resets))(inside)
    assert_close(found, layer(xs, resets=start), 1e-12)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_transformations(kind):
    layer, _ = made(kind, Form(3, stride=2))
    xs, lengths = random(0, 3, 8, IN), jnp.array([8, 1, 4])
    resets = jnp.zeros((3, 8), bool).at[0, 4].set(True)
    expected = layer.scan(None, xs, lengths=lengths, resets=resets)

    def run(xs: jax.Array, n: jax.Array, resets: jax.Array) -> Any:
        return layer.scan(None, xs, lengths=n, resets=resets)

    assert_close(jax.jit(run)(xs, lengths, resets), expected, 1e-12)
    assert_close(jax.vmap(run)(xs, lengths, resets), expected, 1e-12)
    twice = jax.vmap(jax.vmap(run))(*(a[None] for a in (xs, lengths, resets)))
    assert_close(twice, jtu.tree_map(lambda a: a[None], expected), 1e-12)
    mapped = jax.vmap(layer.step, (None, 0))(None, xs[:, :2])
    assert_close(mapped, layer.step(None, xs[:, :2]), 1e-12)
    narrow = nr.cast(layer, jnp.bfloat16)
    assert narrow(xs.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer(xs[:, :0]).shape == (3, 0, expected[1].shape[-1])
    assert layer(xs[:, :1]).shape == (3, 0, expected[1].shape[-1])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_windows(kind):
    layer, _ = made(kind, Form(3))
    ys = np.asarray(layer(random(0, 2, 9, IN).at[0, 3].set(jnp.nan)))
    assert np.isnan(ys).any((0, 2)).tolist() == [False] * 3 + [True] * 3 + [False] * 3
    assert np.isfinite(ys[1]).all()


@pytest.mark.full
@pytest.mark.parametrize("form", ALL)
def test_torch_gives_the_same(form):
    torch = pytest.importorskip("torch")
    layer, xs = conv(form), random(0, 2, 13, IN)
    kernel_size, stride, dilation, groups, _ = form
    theirs = torch.nn.Conv1d(
        IN, OUT, kernel_size, stride, dilation=dilation, groups=groups, dtype=torch.float64
    )
    arrays = {"weight": layer.W, "bias": layer.b}
    theirs.load_state_dict({name: torch.tensor(np.asarray(a)) for name, a in arrays.items()})
    # PyTorch pads both sides alike and cuts nothing, so the sequence is made by hand.
    first, last = form.steps(0)[0], form.steps(form.number(13) - 1)[-1]
    padded = np.pad(xs, [(0, 0), (max(0, -first), max(0, last - 12)), (0, 0)])[:, max(0, first) :]
    ys = theirs(torch.tensor(padded).swapaxes(1, 2)).swapaxes(1, 2).detach().numpy()
    number = form.number(13)
    assert number <= ys.shape[1]
    np.testing.assert_allclose(layer(xs), ys[:, :number], atol=1e-12)
