"""`RNNCell`, `LSTMCell`, `GRUCell`, `GRUv3Cell`: their options, and what earlier versions wrote."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gated_oracles as onnx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles
import pytest
from agreement import assert_agree, scanned
from cell_checks import numbers
from models import AUTO, arrays_of, assert_close, noise, random

import noria as nr
from noria.activations import keras2_hard_sigmoid

KEY = jax.random.key(7)
GOLDEN = Path(__file__).parent / "golden"
CELLS = {"rnn": nr.RNNCell, "lstm": nr.LSTMCell, "gru": nr.GRUCell, "gruv3": nr.GRUv3Cell}
TIME, IN, HIDDEN = 5, 3, 4

#: Functions by name: (ours, the oracle's).
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "tanh": (jnp.tanh, np.tanh),
    "sigmoid": (jax.nn.sigmoid, oracles.sigmoid),
    "relu": (jax.nn.relu, onnx.relu),
    "softsign": (jax.nn.soft_sign, onnx.softsign),
    "hard": (keras2_hard_sigmoid, onnx.keras2_hard_sigmoid),
}

#: Settings of each cell.
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *(("rnn", {"activation": f, "clip": c}) for f, c in (("relu", None), ("tanh", 0.4))),
    *(
        (name, settings)
        for name in ("gru", "gruv3")
        for settings in (
            {"activation": "softsign", "gate_activation": "hard"},
            {"clip": 0.4},
        )
    ),
    ("lstm", {"activation": "softsign", "gate_activation": "hard"}),
    ("lstm", {"output_activation": "softsign"}),
    ("lstm", {"peepholes": True}),
    ("lstm", {"proj_size": 2}),
    ("lstm", {"coupled_gates": True}),
    ("lstm", {"clip": 0.4}),
    ("lstm", {"peepholes": True, "coupled_gates": True, "proj_size": 6, "clip": 0.5}),
]
each_setting = pytest.mark.parametrize(
    ("name", "settings"), [pytest.param(n, s, id="-".join([n, *s])) for n, s in SETTINGS]
)


def made(name: str, settings: dict[str, Any]) -> Any:
    """A cell with both biases, whose parameters are all random."""
    ours = {n: FUNCTIONS[v][0] if n.endswith("activation") else v for n, v in settings.items()}
    options: dict[str, Any] = {"recurrent_bias": True, "dtype": jnp.float64, **ours}
    return noise(CELLS[name](IN, HIDDEN, key=KEY, **options), 11, 0.7)


def by_oracle(name: str, settings: dict[str, Any], cell: Any, state: Any, xs: Any) -> list[Any]:
    """The leaves of the final state, and the outputs."""
    names = ("W", "U", "b", "b_h", "p", "W_r")
    arrays = {n: a for n in names if (a := getattr(cell, n, None)) is not None}
    own = {"activation": "g", "gate_activation": "f", "output_activation": "h", "clip": "clip"}
    options = {
        own[n]: FUNCTIONS[v][1] if n.endswith("activation") else v
        for n, v in settings.items()
        if n in own
    }
    step: Any = getattr(onnx, name.removesuffix("v3"))
    if name == "rnn":
        options["f"] = options.pop("g")
    if name == "gruv3":
        options["linear_before_reset"] = False
    if name == "lstm":
        options["coupled"] = settings.get("coupled_gates", False)
    ys = []
    for x in xs:
        state = step(arrays, state, x, **options)
        ys.append(oracles.emitted(state))
    return [*jtu.tree_leaves(state), np.stack(ys)]


@each_setting
def test_options_give_values_and_gradients_of_their_equations(name, settings):
    """The derivative along a random direction is compared with finite differences."""
    cell, xs = made(name, settings), random(2, TIME, IN)
    start = noise(cell.initial_state(), 3, 0.5)
    (final, ys), cotangents = scanned(nr.Recurrence(cell, backend="reference"), xs, start)
    arrays, structure = jtu.tree_flatten(numbers((cell, start, xs)))

    def results(arrays: list[Any]) -> list[Any]:
        return by_oracle(name, settings, *jtu.tree_unflatten(structure, arrays))

    assert_close([*jtu.tree_leaves(final), ys], results(arrays), 1e-11)
    weights = numbers(jtu.tree_leaves(noise((final, ys), 7)))
    steps = [numbers(noise(jnp.zeros_like(a), n, 1e-6)) for n, a in enumerate(arrays, 10)]
    ends = [results([a + sign * s for a, s in zip(arrays, steps, strict=True)]) for sign in (1, -1)]
    change = sum(np.sum(w * (a - b)) for w, a, b in zip(weights, *ends, strict=True))
    slope = sum(np.sum(c * s) for c, s in zip(numbers(cotangents), steps, strict=True))
    np.testing.assert_allclose(2 * slope, change, rtol=1e-5, atol=1e-11)


@pytest.mark.sampled(11)
@each_setting
def test_options_are_compiled(name, settings):
    """Forward and gradient, with lengths, resets and NaN in the padding; steps and a batch."""
    cell = made(name, settings)
    layer, xs = nr.Recurrence(cell), random(2, 3, TIME, IN)
    lengths, resets = jnp.array([5, 0, 3]), jnp.zeros((3, TIME), bool).at[0, 2].set(True)
    xs = jnp.where(jnp.arange(TIME)[:, None] < lengths[:, None, None], xs, jnp.nan)
    definition = nr.with_backend(layer, "reference")
    assert_agree(layer, definition, xs, tolerance=1e-9, lengths=lengths, resets=resets)
    found = nr.explain(layer, xs)
    assert found.backend == AUTO, found.reason
    state, y = layer.step(None, xs[:, 0])
    assert_close(jnp.where(lengths[:, None] > 0, y, 0), layer(xs, lengths=lengths)[:, 0], 1e-12)
    start = jtu.tree_map(lambda a: jnp.broadcast_to(a, (3, *a.shape)), cell.initial_state())
    assert_close(cell(start, xs[:, 0]), state, 1e-12)


# --- what earlier versions wrote -----------------------------------------------------------------

I = nr.initializers
#: Options of the frozen draws.
DRAWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "drawn": {
        "init": I.glorot_uniform(),
        "recurrent_init": I.orthogonal(),
        "bias": I.uniform(0.1),
        "recurrent_bias": I.normal(0.5),
    },
    "bf16": {"dtype": jnp.bfloat16},
    "drawn16": {
        "init": I.normal(1.0),
        "recurrent_init": I.orthogonal(),
        "bias": I.uniform(0.3),
        "recurrent_bias": I.uniform(0.2),
        "dtype": jnp.bfloat16,
    },
    "inner": {"bias": False, "recurrent_bias": I.normal(0.5)},
    "forget": {"forget_bias": 1.0},
    "forget16": {"forget_bias": 1.0, "bias": I.uniform(0.3), "dtype": jnp.bfloat16},
}


@pytest.fixture(scope="module")
def frozen() -> dict[str, np.ndarray]:
    """Drawn and computed in November 2026, before these cells were declared ones."""
    return dict(np.load(GOLDEN / "gated_cells.npz"))


def drawn(name: str) -> dict[str, np.ndarray]:
    """What a cell draws, as the frozen arrays are: numbers in 16 bits as whole numbers."""
    found = dict[str, np.ndarray]()
    for options in DRAWS if name == "lstm" else [o for o in DRAWS if "forget" not in o]:
        cell = CELLS[name](3, 2, key=KEY, **{"dtype": jnp.float32, **DRAWS[options]})
        for array, bits in arrays_of(cell).items():
            if bits is not None:
                narrow = bits.dtype == jnp.bfloat16
                found[f"{name}/{options}/{array}"] = bits.view(np.uint16) if narrow else bits
    return found


#: The arguments are the folder of the tests, the file to write, and the cell.
DRAW = """
import sys
import jax
import numpy as np
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
from test_gated_cells import drawn
np.savez(sys.argv[2], **drawn(sys.argv[3]))
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["lstm", "rnn", "gru", "gruv3"])
def test_a_key_draws_the_numbers_that_it_drew_before(name, frozen, tmp_path):
    """In a process of its own. In this one, XLA makes no fused multiply-adds as for a user."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=1"}
    command = [sys.executable, "-c", DRAW, Path(__file__).parent, tmp_path / "drawn.npz", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "drawn.npz"))
    assert {*found} == {key for key in frozen if key.startswith(f"{name}/")}
    for key, array in found.items():
        np.testing.assert_array_equal(array, frozen[key], err_msg=key)


def stack(**options: Any) -> Any:
    k, f32 = jax.random.split(jax.random.key(5), 4), {"dtype": jnp.float32}
    return nr.Chain(
        nr.RNN(3, 2, jax.nn.relu, key=k[0], **f32),
        nr.LSTM(2, 2, key=k[1], learn_initial_state=True, **f32, **options),
        nr.Bidirectional(
            nr.GRU(2, 2, key=k[2], recurrent_bias=True, **f32),
            nr.GRUv3(2, 2, key=k[3], bias=False, **f32),
        ),
        nr.RNN(4, 2, nr.Dense(2, 2, key=k[0], **f32), key=k[0], **f32),
    )


def test_an_earlier_file_is_loaded(frozen):
    loaded = nr.load(GOLDEN / "gated_cells.safetensors", stack())
    np.testing.assert_allclose(loaded(frozen["model/xs"]), frozen["model/ys"], atol=1e-6)


def test_a_file_has_the_options(tmp_path):
    nr.save(tmp_path / "m", stack())
    for options, text in (
        ({"gate_activation": keras2_hard_sigmoid}, "'sigmoid' in the file, 'keras2_hard_sigmoid'"),
        ({"clip": 1.0}, "clip is None in the file, 1.0 in the model"),
        ({"coupled_gates": True}, "coupled_gates is False in the file, True in the model"),
        ({"peepholes": True}, r"only the model has layers\[1\].cell.p"),
    ):
        with pytest.raises(ValueError, match=text):
            nr.load(tmp_path / "m", stack(**options))


# --- constructors --------------------------------------------------------------------------------


def test_two_hard_sigmoids():
    x = jnp.linspace(-4, 4, 81)
    expected = onnx.keras2_hard_sigmoid(np.asarray(x))
    np.testing.assert_allclose(keras2_hard_sigmoid(x), expected, rtol=1e-6, atol=1e-7)
    assert abs(keras2_hard_sigmoid(x) - jax.nn.hard_sigmoid(x)).max() > 0.08


@pytest.mark.parametrize("make", [nr.RNN, nr.LSTM, nr.GRU, nr.GRUv3])
def test_layers_in_one_call(make):
    """``num_layers`` layers are those of the keys that `jax.random.split` gives."""
    chain = make(3, 4, key=KEY, num_layers=2, reverse=True)
    assert isinstance(chain, nr.Chain)
    assert len(chain) == 2
    keys = jax.random.split(KEY)
    expected = nr.Chain(
        *(make(n, 4, key=k, reverse=True) for n, k in zip((3, 4), keys, strict=True))
    )
    assert_close(jtu.tree_leaves(chain), jtu.tree_leaves(expected), 0)
    assert all(isinstance(layer, nr.Recurrence) and layer.reverse for layer in chain)
    assert len(make(3, 4, key=KEY, num_layers=1)) == 1


def test_layers_with_projections_and_states():
    states = tuple(nr.LSTMState(jnp.full(2, n), jnp.full(4, n)) for n in (1.0, 2.0))
    chain = nr.LSTM(3, 4, key=KEY, num_layers=2, proj_size=2, initial_state=states)
    assert chain(jnp.ones((5, 3))).shape == (5, 2)
    assert_close(chain.initial_state(), states, 0)
    with pytest.raises(ValueError, match=r"expected a tuple of 3 states, one a layer"):
        nr.GRU(3, 4, key=KEY, num_layers=3, initial_state=jnp.zeros(4))
    with pytest.raises(ValueError, match=r"GRU\(num_layers=0\): num_layers is 0; expected a whole"):
        nr.GRU(3, 4, key=KEY, num_layers=0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no forget gate": (
        {"forget_bias": 1.0, "coupled_gates": True},
        "needs a forget gate to be added to; drop coupled_gates=True",
    ),
    "clip": ({"clip": -1.0}, r"LSTMCell\(in_size=3, hidden_size=4\): clip is -1.0; expected a pos"),
    "projection": ({"proj_size": 0}, "proj_size is 0; expected a whole number of at least 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_says_what_is_wrong(name):
    options, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        nr.LSTMCell(3, 4, key=KEY, **options)


def test_a_state_that_does_not_fit_a_projection():
    cell = nr.LSTMCell(3, 4, key=KEY, proj_size=2)
    with pytest.raises(ValueError, match="expected h of 2 features and c of 4"):
        cell(nr.LSTMState(jnp.zeros(2), jnp.zeros(2)), jnp.zeros(3))


def test_weights_cannot_be_left_out():
    make: Any = nr.GRUCell
    with pytest.raises(TypeError, match="init is False; expected an initialiser, or None for"):
        make(3, 4, key=KEY, init=False)
