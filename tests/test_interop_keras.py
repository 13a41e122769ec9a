"""Weights of Keras in and out: frozen outputs of Keras, and files of all its versions."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
import keras_file as kf  # noqa: E402

import noria as nr  # noqa: E402

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "keras.npz"))
KEYS = jax.random.split(jax.random.key(0), 8)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(2, 5, 3))
CLASSES = {
    "lstm": ("LSTM", {}),
    "gru_reset_after": ("GRU", {"reset_after": True}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
    "simple_rnn": ("SimpleRNN", {}),
}


def drawn(gates, size, inputs=3, bias=None):
    shapes = (inputs, gates * size), (size, gates * size), (gates * size,) if bias is None else bias
    return [RNG.normal(size=shape) for shape in shapes]


def named(arrays, layer="lstm_1"):
    names = ("kernel", "recurrent_kernel", "bias")
    return {f"{layer}/{name}:0": a for name, a in zip(names, arrays, strict=False)}


# --- In ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["keras", "legacy"])
@pytest.mark.parametrize("case", CLASSES)
def test_frozen_outputs(case, form, tmp_path):
    kind, settings = CLASSES[case]
    data = {k.split("/")[1]: a for k, a in GOLDEN.items() if k.startswith(f"{case}/")}
    arrays = [data[name] for name in ("kernel", "recurrent_kernel", "bias")]
    config = kf.sequential(kf.recurrent(kind, "first", 6, **settings))
    if form == "keras":
        group = {f"cell/vars/{n}": array for n, array in enumerate(arrays)}
        weights = kf.weights_3({"some_name": ("first", group)})
        path = kf.keras_3(tmp_path / "m.keras", config, weights)
    else:
        path = kf.legacy(tmp_path / "m.h5", {"first": named(arrays, "first")}, config)
    layer = nr.from_keras(path)
    state = [jnp.asarray(data[name]) for name in ("h0", "c0") if name in data]
    start = nr.LSTMState(*state) if len(state) == 2 else state[0]
    ys = layer(start, jnp.asarray(data["xs"]))
    np.testing.assert_allclose(ys, data["ys"], rtol=1e-10, atol=1e-12)
    back = nr.to_keras(layer)
    assert all(np.array_equal(a, b) for a, b in zip(back, arrays, strict=True))


def test_a_chain_of_layers_with_the_names_of_classes_only(tmp_path):
    """Older versions write no names of layers: ``lstm``, ``lstm_1`` are the order of the model."""
    first, second, dense = drawn(4, 2), drawn(4, 3, 2), [RNG.normal(size=(3, 2)), np.ones(2)]
    config = kf.sequential(
        kf.layer("InputLayer", "in"),
        kf.recurrent("LSTM", "b", 2),
        kf.layer("Dropout", "drop", rate=0.5, noise_shape=None),
        kf.recurrent("LSTM", "a", 3),
        kf.layer("TimeDistributed", "t", layer=kf.layer("Dense", "d", units=2, activation="relu")),
    )
    groups = {
        "lstm": ("b", {f"cell/vars/{n}": a for n, a in enumerate(first)}),
        "lstm_1": ("a", {f"cell/vars/{n}": a for n, a in enumerate(second)}),
        "time_distributed": ("t", {f"layer/vars/{n}": a for n, a in enumerate(dense)}),
        "dropout": ("drop", {"seed_generator/vars/0": np.zeros(2, np.uint32)}),
        "input_layer": ("in", {}),
    }
    expected = np.maximum(kf.lstm(second, kf.lstm(first, XS)) @ dense[0] + 1, 0)
    for names in (True, False):
        data = kf.weights_3(groups)
        if not names:
            path = tmp_path / "raw.h5"
            path.write_bytes(data)
            with h5py.File(path, "r+") as file:
                for group in groups:
                    del file[f"layers/{group}/vars"].attrs["name"]
            data = path.read_bytes()
        model = nr.from_keras(kf.keras_3(tmp_path / "m.keras", config, data))
        assert [type(layer).__name__ for layer in model] == [
            *("Recurrence", "Dropout", "Recurrence", "Dense")
        ]
        np.testing.assert_allclose(model(jnp.asarray(XS)), expected, rtol=1e-10)


@pytest.mark.parametrize("new", [True, False])
def test_a_functional_chain(tmp_path, new):
    arrays = drawn(3, 2, bias=(2, 6))
    layers = [
        kf.layer("InputLayer", "x"),
        kf.layer("Masking", "mask", mask_value=0.0),
        kf.recurrent("GRU", "gru", 2, reset_after=True, return_sequences=False),
        kf.layer("Activation", "out", activation="softmax"),
    ]
    config = kf.functional(layers, [(), ("x",), ("mask",), ("gru",)], new)
    reports: list[nr.Report] = []
    path = kf.legacy(
        tmp_path / "f.h5",
        {"x": {}, "mask": {}, "gru": named(arrays, "gru"), "out": {}},
        config,
    )
    model = nr.from_keras(path, report=reports.append)
    final = kf.gru(arrays, XS, True)[:, -1]
    expected = np.exp(final) / np.exp(final).sum(-1, keepdims=True)
    np.testing.assert_allclose(nr.last(model(jnp.asarray(XS))), expected, rtol=1e-10)
    notes = " ".join(reports[0].notes)
    assert "mask masks steps that are 0.0: pass lengths=" in notes
    assert "gru has return_sequences=False: noria.last(ys, lengths)" in notes


def test_layers_that_are_joined_are_no_chain(tmp_path):
    layers = [kf.layer("InputLayer", "x"), kf.layer("Concatenate", "cat")]
    config = kf.functional([*layers], [(), ("x", "x")], True)
    path = kf.legacy(tmp_path / "f.h5", {"x": {"x/a": np.ones(1)}, "cat": {}}, config)
    with pytest.raises(ValueError, match="cat reads x, x: the model is no chain; pass layer="):
        nr.from_keras(path)


@pytest.mark.parametrize("version", ["1.2.2", "2.2.4", "3.0.0"])
def test_the_hard_sigmoid_is_that_of_the_version(tmp_path, version):
    arrays = drawn(4, 2)
    config = kf.sequential(kf.recurrent("LSTM", "lstm_1", 2, recurrent_activation="hard_sigmoid"))
    path = kf.legacy(tmp_path / "m.h5", {"lstm_1": named(arrays)}, config, version)
    gate = kf.new_hard_sigmoid if version[0] == "3" else kf.old_hard_sigmoid
    expected = kf.lstm(arrays, XS, gate)
    np.testing.assert_allclose(nr.from_keras(path)(jnp.asarray(XS)), expected, rtol=1e-10)


def test_weights_alone_ask_for_what_they_do_not_tell(tmp_path):
    first, second = drawn(4, 2), drawn(4, 3, 2)
    layers = {"lstm_1": named(first), "lstm_2": named(second, "lstm_2")}
    path = kf.legacy(tmp_path / "w.h5", layers)
    with pytest.raises(ValueError, match="do not tell the activation of lstm_1; pass activation="):
        nr.from_keras(path)
    with pytest.raises(ValueError, match="do not tell the recurrent_activation of lstm_1"):
        nr.from_keras(path, activation="tanh")
    model = nr.from_keras(path, activation="tanh", recurrent_activation="hard_sigmoid")
    expected = kf.lstm(second, kf.lstm(first, XS, kf.old_hard_sigmoid), kf.old_hard_sigmoid)
    np.testing.assert_allclose(model(jnp.asarray(XS)), expected, rtol=1e-10)
    one = nr.from_keras(path, "lstm_2", activation="tanh", recurrent_activation="sigmoid")
    np.testing.assert_allclose(
        one(jnp.asarray(XS[..., :2])), kf.lstm(second, XS[..., :2]), rtol=1e-10
    )
    with pytest.raises(TypeError, match="epsilon was given, but LSTM does not have it"):
        nr.from_keras(path, activation="tanh", recurrent_activation="sigmoid", epsilon=1)


def test_a_configuration_beside_the_weights(tmp_path):
    arrays = drawn(4, 2)
    path = kf.legacy(tmp_path / "w.h5", {"lstm_1": named(arrays)})
    text = json.dumps(kf.sequential(kf.recurrent("LSTM", "lstm_1", 2)))
    (tmp_path / "m.json").write_text(text)
    for config in (text, tmp_path / "m.json", str(tmp_path / "m.json"), json.loads(text)):
        layer = nr.from_keras(path, config=config)
        np.testing.assert_allclose(layer(jnp.asarray(XS)), kf.lstm(arrays, XS), rtol=1e-10)
    with pytest.raises(TypeError, match="activation was given, but the configuration tells it"):
        nr.from_keras(path, config=text, activation="tanh")


def test_weights_of_cudnn(tmp_path):
    """The memory of each block of the kernel is that of its transpose's shape."""
    size, inputs = 2, 3
    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        plain = drawn(gates, size, inputs, bias=(2, gates * size))
        blocks = np.split(plain[0], gates, axis=1)
        kernel = np.concatenate([b.T.reshape(inputs, size) for b in blocks], axis=1)
        inner = np.concatenate([b.T for b in np.split(plain[1], gates, axis=1)], axis=1)
        path = kf.legacy(
            tmp_path / f"{kind}.h5", {"r": named([kernel, inner, plain[2].ravel()], "r")}
        )
        layer = nr.from_keras(path)
        if kind == "LSTM":
            expected = kf.lstm([*plain[:2], plain[2].sum(0)], XS)
        else:
            expected = kf.gru(plain, XS, True)
        np.testing.assert_allclose(layer(jnp.asarray(XS)), expected, rtol=1e-10)
        config = kf.sequential(kf.layer(f"CuDNN{kind}", "r", units=2, return_sequences=True))
        again = nr.from_keras(path, config=config)
        assert all(map(np.array_equal, jtu.tree_leaves(layer), jtu.tree_leaves(again)))


def test_a_file_of_keras_1(tmp_path):
    """One array for each gate, and other names of the settings."""
    arrays = drawn(4, 2)
    parts = {kind: np.split(a, 4, axis=-1) for kind, a in zip("WUb", arrays, strict=True)}
    stored = {
        f"lstm_1_{kind}_{gate}": parts[kind]["ifco".index(gate)]
        for gate in "icfo"
        for kind in "WUb"
    }
    config = kf.sequential(
        kf.layer(
            "LSTM",
            "lstm_1",
            output_dim=2,
            activation="tanh",
            inner_activation="hard_sigmoid",
            return_sequences=True,
            consume_less="cpu",
        ),
        kf.layer("Dense", "d", output_dim=1, activation="linear", bias=True),
        kf.layer("Dropout", "drop", p=0.5),
    )
    config["config"] = config["config"]["layers"]
    dense = {"d_W": RNG.normal(size=(2, 1)), "d_b": np.ones(1)}
    layers = {"lstm_1": stored, "d": dense, "drop": {}}
    model = nr.from_keras(kf.legacy(tmp_path / "m.h5", layers, config, "1.2.2"))
    expected = kf.lstm(arrays, XS, kf.old_hard_sigmoid) @ dense["d_W"] + 1
    np.testing.assert_allclose(model(jnp.asarray(XS)), expected, rtol=1e-10)


def test_a_bidirectional_layer(tmp_path):
    ways = drawn(4, 2), drawn(4, 2)
    inner = kf.recurrent("LSTM", "lstm", 2)
    config = kf.sequential(kf.layer("Bidirectional", "bi", layer=inner, merge_mode="ave"))
    stored = {
        f"bi/{way}_lstm/{name}:0": a
        for way, arrays in zip(("forward", "backward"), ways, strict=True)
        for name, a in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True)
    }
    path = kf.legacy(tmp_path / "m.h5", {"bi": stored}, config)
    layer = nr.from_keras(path)
    expected = (kf.lstm(ways[0], XS) + kf.lstm(ways[1], XS[:, ::-1])[:, ::-1]) / 2
    np.testing.assert_allclose(layer(jnp.asarray(XS)), expected, rtol=1e-10)
    back = nr.to_keras(layer)
    assert all(np.array_equal(a, b) for a, b in zip(back, ways[0] + ways[1], strict=True))
    weights = kf.legacy(tmp_path / "w.h5", {"bi": stored})
    options: dict[str, Any] = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    with pytest.raises(ValueError, match="do not tell the merge_mode of bi"):
        nr.from_keras(weights, **options)
    again = nr.from_keras(weights, merge_mode="ave", **options)
    np.testing.assert_allclose(again(jnp.asarray(XS)), expected, rtol=1e-10)


def test_final_states_of_both_directions_are_no_sequence(tmp_path):
    inner = kf.recurrent("LSTM", "lstm", 2, return_sequences=False)
    config = kf.sequential(
        kf.layer("Bidirectional", "bi", layer=inner, merge_mode="concat"),
        kf.layer("Dense", "d", units=1, activation="linear"),
    )
    ways = [*drawn(4, 2), *drawn(4, 2)]
    stored = {f"bi/{n}": a for n, a in enumerate(ways)}
    layers = {"bi": stored, "d": {"d/a": np.ones((4, 1)), "d/b": np.ones(1)}}
    path = kf.legacy(tmp_path / "m.h5", layers, config)
    with pytest.raises(ValueError, match="d reads the final states of both directions of bi"):
        nr.from_keras(path)
    (forward, backward), _ = nr.from_keras(path, "bi").scan(None, jnp.asarray(XS))
    np.testing.assert_allclose(forward.h, kf.lstm(ways[:3], XS)[:, -1], rtol=1e-10)
    np.testing.assert_allclose(backward.h, kf.lstm(ways[3:], XS[:, ::-1])[:, -1], rtol=1e-10)


def test_backwards_layers_keep_positions(tmp_path):
    """Keras reverses the outputs of ``go_backwards``, so the next layer runs backwards, too."""
    first, second = drawn(4, 2), drawn(3, 2, 2)
    config = kf.sequential(
        kf.recurrent("LSTM", "a", 2, go_backwards=True),
        kf.recurrent("GRU", "b", 2, reset_after=False),
    )
    path = kf.legacy(tmp_path / "m.h5", {"a": named(first, "a"), "b": named(second, "b")}, config)
    expected = kf.gru(second, kf.lstm(first, XS[:, ::-1]), False)[:, ::-1]
    np.testing.assert_allclose(nr.from_keras(path)(jnp.asarray(XS)), expected, rtol=1e-10)


def test_layers_of_single_steps(tmp_path):
    table, gamma, beta = RNG.normal(size=(5, 3)), RNG.normal(size=3), RNG.normal(size=3)
    kernel = RNG.normal(size=(2, 3, 2))
    config = kf.sequential(
        kf.layer("Embedding", "e", input_dim=5, output_dim=3, mask_zero=True),
        kf.layer("SpatialDropout1D", "drop", rate=0.1),
        kf.layer("LayerNormalization", "n", axis=[2], epsilon=0.1, center=True, scale=True),
        kf.layer(
            *("Conv1D", "c"),
            filters=2,
            kernel_size=[2],
            strides=[1],
            padding="causal",
            use_bias=False,
            activation="tanh",
        ),
    )
    layers = {"e": {"e/t": table}, "drop": {}, "n": {"n/g": gamma, "n/b": beta}, "c": {"k": kernel}}
    model = nr.from_keras(kf.legacy(tmp_path / "m.h5", layers, config))
    rows = table[[1, 4, 0]]
    centred = rows - rows.mean(-1, keepdims=True)
    norm = centred / np.sqrt(rows.var(-1, keepdims=True) + 0.1) * gamma + beta
    before = np.concatenate([np.zeros((1, 3)), norm[:-1]])
    expected = np.tanh(before @ kernel[0] + norm @ kernel[1])
    np.testing.assert_allclose(model(jnp.array([1, 4, 0])), expected, rtol=1e-10)


# --- What is refused -----------------------------------------------------------------------------

LSTM = drawn(4, 2)

CONFIGS = [
    ([kf.layer("Lambda", "l", function="code")], "l is a Lambda, which is not known"),
    ([{**kf.recurrent("LSTM", "l", 2), "module": "mine"}], "l is a mine>LSTM, which is not known"),
    ([kf.recurrent("LSTM", "l", 3)], r"l.kernel:0 has shape \(3, 8\); expected \(any, 12\)"),
    ([kf.recurrent("LSTM", "l", 2, activation="snake")], "'snake' is no known activation"),
    ([kf.recurrent("LSTM", "l", 2, use_bias=False)], "it does not know l.bias:0"),
    ([kf.layer("LSTM", "l", units=2)], "the configuration of l lacks a part: 'activation'"),
    ([kf.layer("Bidirectional", "l", layer=kf.recurrent("LSTM", "x", 2), merge_mode=None)],
     "l merges its directions with None"),
    ([kf.layer("Embedding", "l")], r"kernel:0.*expected|it does not know"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "message"), CONFIGS)
def test_what_is_refused(layers, message, tmp_path):
    path = kf.legacy(tmp_path / "m.h5", {"l": named(LSTM, "l")}, kf.sequential(*layers))
    with pytest.raises(ValueError, match=f"^from_keras.*{message}"):
        nr.from_keras(path)


def test_wrong_sources(tmp_path):
    path = kf.legacy(tmp_path / "m.h5", {"l": named(LSTM, "l")})
    with pytest.raises(ValueError, match="there is no layer 'k'; expected one of l"):
        nr.from_keras(path, layer="k")
    with pytest.raises(TypeError, match="source is a list; expected a layer or a model of Keras"):
        nr.from_keras([1])
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no.h5"))):
        nr.from_keras(tmp_path / "no.h5")
    with pytest.raises(ValueError, match="the configuration is no JSON"):
        nr.from_keras(path, config="{")
    with pytest.raises(ValueError, match=r"not one of Keras; expected model.to_json\(\)"):
        nr.from_keras(path, config="{}")


def test_a_missing_h5py_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py; install it with: pip install 'noria\[mod"):
        nr.from_keras(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nr.LSTM(2, 3, key=KEYS[0], peepholes=True), "LSTMCell has peepholes="),
        (nr.Recurrence(lambda h, x: h + x, jnp.zeros(2)), "Keras has no Function|no function"),
        (nr.Bidirectional(nr.GRUCell(2, 3, key=KEYS[0])), "both directions share their arrays"),
        (nr.GRU(2, 3, key=KEYS[0], initial_state=jnp.ones(3)), "its initial state is not zero"),
    ],
)
def test_what_keras_does_not_have(layer, message):
    with pytest.raises(ValueError, match=message):
        nr.to_keras(layer)


@pytest.mark.parametrize("make", [nr.LSTM, nr.GRU, nr.GRUv3, nr.RNN])
def test_a_layer_of_noria_returns_with_identical_outputs(make, tmp_path):
    layer = nr.Chain(
        nr.Bidirectional(make(2, 3, key=KEYS[0]), make(2, 3, key=KEYS[1])),
        make(6, 3, key=KEYS[2]),
    )
    kind = {"GRUv3": "GRU", "RNN": "SimpleRNN"}.get(make.__name__, make.__name__)
    arrays = nr.to_keras(layer)
    inner = kf.recurrent(kind, "x", 3, reset_after=make is nr.GRU)
    config = kf.sequential(
        kf.layer("Bidirectional", "bi", layer=inner, merge_mode="concat"),
        kf.recurrent(kind, "r", 3, reset_after=make is nr.GRU),
    )
    stored = {f"v{n}": a for n, a in enumerate(arrays)}
    layers = {"bi": dict(list(stored.items())[:6]), "r": dict(list(stored.items())[6:])}
    again = nr.from_keras(kf.legacy(tmp_path / "m.h5", layers, config))
    xs, lengths = jax.random.normal(KEYS[4], (3, 5, 2)), jnp.array([5, 0, 2])
    for a, b in zip(
        jtu.tree_leaves(layer.scan(None, xs, lengths=lengths)),
        jtu.tree_leaves(again.scan(None, xs, lengths=lengths)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
