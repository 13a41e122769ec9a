"""The importers beside the frameworks themselves, where they are installed; not run by default.

Modules and models are live, and their files are written by the frameworks.
"""

import os
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

import noria as nr

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(0)
XS = RNG.normal(size=(3, 6, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def plain():
    """As a user has it: 32 bits, and promotion."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b):
    scale = np.abs(np.asarray(b)).max()
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5 * scale, rtol=0)


def identical(a, b):
    pairs = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    assert all(np.array_equal(x, y) for x, y in pairs)


# --- PyTorch -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


CASES = [
    (kind, options)
    for kind in ("LSTM", "GRU", "RNN")
    for options in (
        {},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 3, "bias": False},
        {"batch_first": True, "bidirectional": True},
    )
] + [
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_recurrent_modules_and_their_files(torch, kind, options, tmp_path):
    module = getattr(torch.nn, kind)(4, 5, **{"batch_first": True, **options})
    layer = nr.from_torch(module)
    lengths = torch.tensor([6, 2, 4])
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(XS), lengths, batch_first=True, enforce_sorted=False
    )
    ys, state = module(packed)
    expected = torch.nn.utils.rnn.pad_packed_sequence(ys, batch_first=True)[0].detach()
    final, got = layer.scan(None, jnp.asarray(XS), lengths=jnp.asarray(lengths.numpy()))
    close(got, expected)
    parts = jtu.tree_leaves(final)  # h and c of each layer and direction
    for n, theirs in enumerate(state if kind == "LSTM" else [state]):
        for a, b in zip(parts[n :: 2 if kind == "LSTM" else 1], theirs, strict=True):
            close(a, b.detach())
    settings = {"nonlinearity": module.nonlinearity} if kind == "RNN" else {}
    for name, old in (("zip.pt", True), ("old.pt", False)):
        checkpoint = {"step": 3, "model": {f"rnn.{k}": v for k, v in module.state_dict().items()}}
        path = tmp_path / name
        torch.save(checkpoint, path, _use_new_zipfile_serialization=old)
        identical(nr.from_torch(path, prefix="model.rnn", **settings), layer)
    back = getattr(torch.nn, kind)(4, 5, **{"batch_first": True, **options})
    back.load_state_dict({name: torch.tensor(a) for name, a in nr.to_torch(layer).items()})
    assert torch.equal(back(torch.tensor(XS))[0], module(torch.tensor(XS))[0])


def test_other_modules(torch, tmp_path):
    nn = torch.nn
    for module, xs in (
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2)).eval(), XS),
        (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.GELU(), nn.SiLU()), XS),
        (nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.ELU(0.5)), np.array([[1, 2], [6, 0]])),
    ):
        layer = nr.from_torch(module)
        close(layer(jnp.asarray(xs)), module(torch.tensor(xs)).detach())
        back = nr.to_torch(layer)
        assert sorted(back) == sorted(module.state_dict())
    for options in (
        {"padding": 2, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"groups": 2, "bias": False},
    ):
        conv = nn.Conv1d(4, 6, 3, **options)
        expected = conv(torch.tensor(XS).transpose(1, 2)).transpose(1, 2).detach()
        close(nr.from_torch(conv)(jnp.asarray(XS)), expected)
    for kind in ("LSTMCell", "GRUCell", "RNNCell"):
        cell = getattr(nn, kind)(4, 5)
        got = nr.from_torch(cell)
        state = got.initial_state()
        theirs = cell(torch.tensor(XS[0, 0]))
        ours = got(state, jnp.asarray(XS[0, 0]))
        pairs = zip(ours, theirs, strict=True) if kind == "LSTMCell" else [(ours, theirs)]
        for a, b in pairs:
            close(a, b.detach())
        identical(nr.to_torch(got), {k: v.numpy() for k, v in cell.state_dict().items()})


def test_modules_that_are_refused(torch, tmp_path):
    nn = torch.nn

    mine = type("Mine", (nn.LSTM,), {})

    for module, message in (
        (mine(2, 3), "Mine is no layer that is known, and its forward is code"),
        (nn.Sequential(nn.Conv1d(2, 2, 1), nn.Linear(2, 2)), "Conv1d works on"),
        (nn.Embedding(2, 2, max_norm=1.0), "Embedding has max_norm="),
        (nn.LayerNorm([2, 3]), "LayerNorm has the shape"),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode='circular'"),
    ):
        with pytest.raises(ValueError, match=message):
            nr.from_torch(module)
    with pytest.raises(ValueError, match="nonlinearity was given, but RNN tells its own"):
        nr.from_torch(nn.RNN(2, 3), nonlinearity="relu")
    torch.save(nn.LSTM(2, 3), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"it names torch.nn.modules.rnn.LSTM, which is code"):
        nr.from_torch(tmp_path / "module.pt")
    torch.jit.save(torch.jit.script(nn.LSTM(2, 3)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match="it is a TorchScript program"):
        nr.from_torch(tmp_path / "script.pt")
    script = nr.from_torch(torch.jit.load(tmp_path / "script.pt"))
    assert script.cell.U.shape == (12, 3)


def test_check_hands_tensors_to_modules(torch):
    class Tagger(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(4, 5, batch_first=True)
            self.head = torch.nn.Linear(5, 2)

        def forward(self, xs):
            return self.head(self.rnn(xs)[0])

    tagger = Tagger()
    model = nr.Chain(nr.from_torch(tagger, "rnn"), nr.from_torch(tagger, "head"))
    assert nr.check(model, tagger, XS).agrees
    with torch.no_grad():
        tagger.head.bias += 1
    found = nr.check(model, [tagger.rnn, tagger.head], XS)
    assert (found.agrees, found.layer) == (False, 1)


# --- Keras ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("h5py")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def models(keras):
    layers = keras.layers
    yield keras.Sequential(
        [
            keras.Input((None, 4)),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="ave"),
            layers.GRU(5, return_sequences=True, reset_after=False, activation="relu"),
            layers.TimeDistributed(layers.Dense(2, activation="gelu")),
            layers.LayerNormalization(),
            layers.RNN(layers.LSTMCell(3), return_sequences=True),
            layers.Conv1D(3, 3, padding="causal", activation="tanh"),
            layers.GRU(3, recurrent_activation="hard_sigmoid"),
            layers.Dropout(0.2),
            layers.Dense(2, activation="softmax"),
        ]
    )
    inputs = keras.Input((None, 4))
    hidden = layers.Masking()(inputs)
    hidden = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(hidden)
    hidden = layers.SimpleRNN(3, dropout=0.1)(hidden)
    yield keras.Model(inputs, layers.Dense(1)(hidden))


def test_models_and_files_of_keras(keras, tmp_path):
    lengths, padded = np.array([6, 2, 4]), XS.copy()
    for n, length in enumerate(lengths):
        padded[n, length:] = 0
    for model, xs, valid in zip(models(keras), (XS, padded), (None, lengths), strict=True):
        model.set_weights([RNG.normal(size=w.shape) * 0.5 for w in model.get_weights()])
        for name in ("m.keras", "m.h5", "m.weights.h5"):
            (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        sources: list[Any] = [(model, {}), (tmp_path / "m.keras", {}), (tmp_path / "m.h5", {})]
        sources.append((tmp_path / "m.weights.h5", {"config": model.to_json()}))
        expected = np.asarray(model(xs))
        for source, options in sources:
            again = nr.from_keras(source, **options)
            close(nr.last(again(jnp.asarray(xs), lengths=valid), valid), expected)
            identical(nr.to_keras(again), model.get_weights())


def test_layers_of_keras(keras):
    layers = keras.layers
    for layer in (
        layers.LSTM(3, return_sequences=True, go_backwards=True, unit_forget_bias=False),
        layers.SimpleRNN(3, return_sequences=True, activation="relu", use_bias=False),
        layers.Embedding(5, 3),
    ):
        xs = np.array([[1, 4, 2]]) if isinstance(layer, layers.Embedding) else XS
        expected = np.asarray(layer(xs))
        if getattr(layer, "go_backwards", False):
            expected = expected[:, ::-1]
        close(nr.from_keras(layer)(jnp.asarray(xs)), expected)


# --- Flax ----------------------------------------------------------------------------------------


def drawn(tree):
    leaves, structure = jtu.tree_flatten(tree)
    return jtu.tree_unflatten(
        structure, [jnp.asarray(RNG.normal(size=a.shape), jnp.float32) / 2 for a in leaves]
    )


def test_modules_of_linen():
    nn = pytest.importorskip("flax.linen")
    lstm, gru, simple = nn.LSTMCell, nn.GRUCell, nn.SimpleCell
    for module, options in (
        (nn.RNN(lstm(5)), {}),
        (nn.RNN(nn.OptimizedLSTMCell(5)), {}),
        (nn.RNN(gru(5)), {}),
        (nn.RNN(simple(5)), {"activation": jnp.tanh}),
        (nn.Bidirectional(nn.RNN(lstm(5)), nn.RNN(gru(3))), {}),
        (nn.Sequential([nn.RNN(lstm(5)), nn.RNN(gru(3)), nn.Dense(2)]), {}),
        (nn.LayerNorm(), {"kind": "LayerNorm", "epsilon": 1e-6}),
    ):
        variables = drawn(module.init(jax.random.key(0), XS))
        layer = nr.from_flax(variables, **options)
        close(layer(jnp.asarray(XS)), module.apply(variables, XS))
        params = nr.to_flax(layer)
        assert sorted(params) == sorted(variables["params"])
        identical(params, variables["params"])


def test_modules_of_nnx():
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    for module, strict in (
        (nnx.RNN(nnx.LSTMCell(4, 5, rngs=rngs)), False),
        (nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=rngs)), True),
        (nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs)), True),
        (nnx.RNN(nnx.SimpleCell(4, 5, activation_fn=jax.nn.relu, rngs=rngs)), True),
        (nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs), reverse=True, keep_order=True), True),
        (nnx.Bidirectional(*(nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs)) for _ in range(2))), True),
        (
            nnx.Sequential(
                nnx.RNN(nnx.GRUCell(4, 3, rngs=rngs)), jnp.tanh, nnx.LayerNorm(3, rngs=rngs),
                nnx.Dropout(0.5, deterministic=True, rngs=rngs), nnx.Linear(3, 2, rngs=rngs),
            ),
            True,
        ),
    ):  # fmt: skip
        state = nnx.state(module, nnx.Param)
        nnx.update(module, drawn(state))
        layer = nr.from_flax(module)
        close(layer(jnp.asarray(XS)), module(XS))
        if strict:
            before = nnx.to_pure_dict(nnx.state(module, nnx.Param))
            empty = jtu.tree_map(jnp.zeros_like, nnx.state(module, nnx.Param))
            nnx.replace_by_pure_dict(empty, nr.to_flax(layer, "nnx"))
            identical(nnx.to_pure_dict(empty), before)
    with pytest.raises(TypeError, match="a module tells its settings; pass none"):
        nr.from_flax(module, epsilon=1.0)
    with pytest.raises(ValueError, match="reverse=True without keep_order=True"):
        nr.from_flax(nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs), reverse=True))


def test_a_missing_framework_is_not_needed():
    """Only live modules need theirs, and whoever has one has it."""
    with suppress(ImportError):
        import flax  # noqa: F401
    assert nr.from_flax({"kernel": np.ones((2, 2), np.float32)}).W.shape == (2, 2)
