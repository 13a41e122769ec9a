"""Write frozen reference arrays of recurrent layers from PyTorch, Keras and Flax.

Run ``python scripts/make_golden.py`` where all three frameworks are installed; it writes
``tests/golden/{torch,keras,flax}.npz``. Tests read these files and need none of the frameworks.
The stored files were made with torch 2.13.0 (CPU), keras 3.15.1 (JAX backend), flax 0.12.8 and
jax 0.10.2.

Every array is named ``<case>/<array>`` and is float64 (``lengths`` is int64). A case with batch B,
time T, inputs I and hidden units H has these arrays:

=====================  =========================================================================
xs                     inputs (B, T, I)
h0, c0                 random initial states (B, H); c0 for LSTMs only
dys, dh, dc            random cotangents of ys (B, T, H), of h_final and of c_final
ys, h_final, c_final   outputs (B, T, H) and final states (B, H)
<weight>               every weight, with the layout and the name that the framework uses
grad_<name>            gradient of sum(ys * dys) + sum(h_final * dh) [+ sum(c_final * dc)] with
                       respect to xs, h0, c0 and every weight
=====================  =========================================================================

The two packed torch cases are bidirectional. Their ys and dys are (B, T, 2H) with the forward half
first, states and their cotangents are (2, B, H), and ``lengths`` (B,) holds the true lengths.
Padded steps of ``xs`` and ``dys`` are random, so they must be ignored. Padded steps of ``ys`` and
``grad_xs`` are zero. The backward direction of a sequence of length n starts from its initial state
at step n - 1 and ends at step 0.

The next table gives gate orders and bias layouts. Gates are stacked in the given order along the
axis marked G. A plain NumPy forward pass from the stored weights checks each row: it must reproduce
all stored outputs to 1e-10.

======================  ===========================  ===========  =================================
case                    kernels                      gate order   biases
======================  ===========================  ===========  =================================
torch rnn_tanh,         weight_ih (H, I),            -            bias_ih (H,) + bias_hh (H,)
rnn_relu                weight_hh (H, H)
torch lstm, bilstm      weight_ih (4H=G, I),         i, f, g, o   bias_ih (4H,) + bias_hh (4H,)
                        weight_hh
torch gru, bigru        weight_ih (3H=G, I),         r, z, n      bias_ih (3H,), bias_hh (3H,); the
                        weight_hh                                 bias_hh of n is inside the reset
                                                                  product
keras simple_rnn        kernel (I, H),               -            bias (H,)
                        recurrent_kernel
keras lstm              kernel (I, 4H=G),            i, f, c, o   bias (4H,)
                        recurrent_kernel
keras gru_reset_after   kernel (I, 3H=G),            z, r, h      bias (2, 3H): row 0 input, row 1
                        recurrent_kernel                          recurrent; the recurrent bias of h
                                                                  is inside the reset product
keras gru_reset_before  kernel (I, 3H=G),            z, r, h      bias (3H,), input side only; the
                        recurrent_kernel                          reset gate scales h before its
                                                                  product
flax simple             cell_i_kernel (I, H),        -            cell_i_bias (H,), input side only
                        cell_h_kernel
flax lstm               cell_i{g}_kernel (I, H),     one array    cell_h{g}_bias (H,), recurrent
                        cell_h{g}_kernel (H, H)      per gate:    side only
                                                     i, f, g, o
flax gru                cell_i{g}_kernel (I, H),     one array    cell_i{g}_bias (H,) for r, z, n;
                        cell_h{g}_kernel (H, H)      per gate:    cell_hn_bias (H,), inside the
                                                     r, z, n      reset product; no biases hr, hz
======================  ===========================  ===========  =================================

Torch multiplies by the transposed kernels (x @ W.T), Keras and Flax do not (x @ W). The torch names
end in ``_l0``, and in ``_l0_reverse`` for the backward direction. All GRUs use
h' = (1 - z) * n + z * h, all LSTMs c' = f * c + i * g and h' = o * tanh(c'). The Flax classes are
the SimpleCell, OptimizedLSTMCell and GRUCell of linen under nn.RNN. Flax orders the LSTM carry
(c, h), torch and Keras order it (h, c).

The Keras layers run with activation=jnp.tanh: on the JAX backend the tanh of Keras rounds float64
to float32.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

Arrays = dict[str, np.ndarray]
State = tuple[np.ndarray, ...]
Step = Callable[[np.ndarray, State], State]
Forward = Callable[[dict[str, Any], Any, Sequence[Any]], tuple[Any, Sequence[Any]]]

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
BATCH, TIME, INPUTS, HIDDEN = 3, 5, 4, 6
LENGTHS = np.array([5, 3, 1])
WEIGHT_SCALE = 0.5
TOLERANCE = 1e-10


# --- Random data --------------------------------------------------------------------------------


def case_rng(name: str) -> np.random.Generator:
    """Return a generator seeded by the case name, so that cases do not depend on each other."""
    return np.random.default_rng(list(name.encode()))


def draw_data(rng: np.random.Generator, has_cell: bool, directions: int = 1) -> Arrays:
    """Draw inputs, initial states and cotangents.

    With two directions the states get a leading axis.
    """
    state = (BATCH, HIDDEN) if directions == 1 else (directions, BATCH, HIDDEN)
    shapes = {
        "xs": (BATCH, TIME, INPUTS),
        "dys": (BATCH, TIME, directions * HIDDEN),
        "h0": state,
        "dh": state,
    }
    if has_cell:
        shapes |= {"c0": state, "dc": state}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def draw_weights(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Draw all weights, biases included, from one normal distribution."""
    return {name: WEIGHT_SCALE * rng.standard_normal(shape) for name, shape in shapes.items()}


def state_names(data: Arrays) -> list[str]:
    """Return the letters of the states of a case: h, and c for an LSTM."""
    return ["h", "c"] if "c0" in data else ["h"]


def scalar_loss(ys: Any, finals: Sequence[Any], dys: Any, dfinals: Sequence[Any]) -> Any:
    """Contract outputs and final states with their cotangents."""
    return (ys * dys).sum() + sum(
        (final * d).sum() for final, d in zip(finals, dfinals, strict=True)
    )


def collect(
    data: Arrays, weights: Arrays, ys: Any, finals: Sequence[Any], grads: dict[str, Any]
) -> Arrays:
    """Merge all arrays of one case into one flat dictionary of NumPy arrays."""
    outputs = {"ys": ys} | {
        f"{s}_final": final for s, final in zip(state_names(data), finals, strict=True)
    }
    named_grads = {f"grad_{name}": grad for name, grad in grads.items()}
    return {
        name: np.asarray(value) for name, value in (data | weights | outputs | named_grads).items()
    }


# --- PyTorch ------------------------------------------------------------------------------------


def torch_layer(kind: str, bidirectional: bool) -> Any:
    """Build the float64 torch layer of one kind."""
    options = {"batch_first": True, "bidirectional": bidirectional, "dtype": torch.float64}
    if kind.startswith("rnn_"):
        return torch.nn.RNN(INPUTS, HIDDEN, nonlinearity=kind.removeprefix("rnn_"), **options)
    return {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](INPUTS, HIDDEN, **options)


def torch_forward(
    layer: Any, xs: Any, states: Sequence[Any], packed: bool
) -> tuple[Any, list[Any]]:
    """Run a torch layer.

    For unpacked cases, add the torch axis of layers and directions, and remove it afterwards.
    """
    if packed:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(LENGTHS), batch_first=True
        )
    else:
        inputs, states = xs, [s[None] for s in states]
    ys, finals = layer(inputs, tuple(states) if len(states) == 2 else states[0])
    finals = list(finals) if len(states) == 2 else [finals]
    if packed:
        return torch.nn.utils.rnn.pad_packed_sequence(ys, batch_first=True, total_length=TIME)[
            0
        ], finals
    return ys, [s[0] for s in finals]


def torch_case(name: str, kind: str, packed: bool) -> Arrays:
    """Make all arrays of one torch case."""
    rng = case_rng(f"torch/{name}")
    data = draw_data(rng, kind == "lstm", directions=2 if packed else 1)
    layer = torch_layer(kind, bidirectional=packed)
    params = dict(layer.named_parameters())
    weights = draw_weights(rng, {key: tuple(param.shape) for key, param in params.items()})
    with torch.no_grad():
        for key, param in params.items():
            param.copy_(torch.tensor(weights[key]))
    tensors = {
        key: torch.tensor(value, requires_grad=key in ("xs", "h0", "c0"))
        for key, value in data.items()
    }
    letters = state_names(data)
    ys, finals = torch_forward(layer, tensors["xs"], [tensors[f"{s}0"] for s in letters], packed)
    scalar_loss(ys, finals, tensors["dys"], [tensors[f"d{s}"] for s in letters]).backward()
    grads = {key: t.grad for key, t in (tensors | params).items() if t.requires_grad}
    arrays = collect(data, weights, ys.detach(), [s.detach() for s in finals], grads)
    return arrays | ({"lengths": LENGTHS} if packed else {})


# --- Keras and Flax, both on JAX ----------------------------------------------------------------


def jax_case(data: Arrays, weights: Arrays, forward: Forward) -> Arrays:
    """Make all arrays of a case from a pure (weights, xs, states) -> (ys, final states)."""
    letters = state_names(data)
    dfinals = [data[f"d{s}"] for s in letters]
    inputs = {key: jnp.asarray(data[key]) for key in ["xs", *(f"{s}0" for s in letters)]}

    def loss(inputs: dict[str, Any], weights: dict[str, Any]) -> Any:
        ys, finals = forward(weights, inputs["xs"], [inputs[f"{s}0"] for s in letters])
        return scalar_loss(ys, finals, data["dys"], dfinals), (ys, finals)

    variables = {key: jnp.asarray(value) for key, value in weights.items()}
    grads, (ys, finals) = jax.grad(loss, argnums=(0, 1), has_aux=True)(inputs, variables)
    return collect(data, weights, ys, finals, grads[0] | grads[1])


def keras_layer(name: str) -> Any:
    """Build one Keras layer with the float64 tanh of JAX, after a check of its default activations.

    The tanh of Keras is computed in float32.
    """
    classes = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM}
    layer_class = classes.get(name, keras.layers.GRU)
    variant = {"reset_after": name == "gru_reset_after"} if layer_class is keras.layers.GRU else {}
    default = layer_class(HIDDEN, **variant)
    assert default.activation is keras.activations.tanh
    assert name == "simple_rnn" or default.recurrent_activation is keras.activations.sigmoid
    options = {
        "return_sequences": True,
        "return_state": True,
        "dtype": "float64",
        "activation": jnp.tanh,
    }
    layer = layer_class(HIDDEN, **variant, **options)
    layer.build((BATCH, TIME, INPUTS))
    return layer


def keras_case(name: str) -> Arrays:
    """Make all arrays of one Keras case."""
    rng = case_rng(f"keras/{name}")
    data = draw_data(rng, name == "lstm")
    layer = keras_layer(name)
    weights = draw_weights(rng, {v.name: tuple(v.shape) for v in layer.trainable_variables})
    order = [v.name for v in layer.trainable_variables]

    def forward(
        weights: dict[str, Any], xs: Any, states: Sequence[Any]
    ) -> tuple[Any, Sequence[Any]]:
        trainable = [weights[key] for key in order]
        (ys, *finals), _ = layer.stateless_call(
            trainable, layer.non_trainable_variables, xs, initial_state=list(states)
        )
        return ys, finals

    return jax_case(data, weights, forward)


def flax_case(name: str) -> Arrays:
    """Make all arrays of one Flax (linen) case."""
    rng = case_rng(f"flax/{name}")
    data = draw_data(rng, name == "lstm")
    cell_class = {"simple": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[name]
    cell = cell_class(HIDDEN, dtype=jnp.float64, param_dtype=jnp.float64)
    layer = nn.RNN(cell, return_carry=True)
    params = flatten_dict(layer.init(jax.random.key(0), jnp.asarray(data["xs"]))["params"])
    paths = {"_".join(path): path for path in params}
    weights = draw_weights(rng, {key: params[path].shape for key, path in paths.items()})

    def forward(
        weights: dict[str, Any], xs: Any, states: Sequence[Any]
    ) -> tuple[Any, Sequence[Any]]:
        tree = unflatten_dict({paths[key]: value for key, value in weights.items()})
        carry = tuple(reversed(states)) if len(states) == 2 else states[0]
        carry, ys = layer.apply({"params": tree}, xs, initial_carry=carry)
        return ys, list(reversed(carry)) if len(states) == 2 else [carry]

    return jax_case(data, weights, forward)


# --- NumPy replay of the stored weights ---------------------------------------------------------


def sigmoid(a: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1.0 / (1.0 + np.exp(-a))


def lstm_update(i: np.ndarray, f: np.ndarray, g: np.ndarray, o: np.ndarray, c: np.ndarray) -> State:
    """Return the next (h, c) from the four pre-activations and the cell state."""
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_update(z: np.ndarray, n: np.ndarray, h: np.ndarray) -> State:
    """Return the next (h,) from the pre-activations of update gate and candidate and the state."""
    z = sigmoid(z)
    return ((1.0 - z) * np.tanh(n) + z * h,)


def torch_step(kind: str, w: Arrays, suffix: str) -> Step:
    """Return the NumPy step of one direction of a torch layer."""

    def step(x: np.ndarray, state: State) -> State:
        a = x @ w[f"weight_ih{suffix}"].T + w[f"bias_ih{suffix}"]
        b = state[0] @ w[f"weight_hh{suffix}"].T + w[f"bias_hh{suffix}"]
        if kind == "lstm":
            i, f, g, o = np.split(a + b, 4, axis=-1)
            return lstm_update(i, f, g, o, state[1])
        if kind == "gru":
            (a_r, a_z, a_n), (b_r, b_z, b_n) = np.split(a, 3, axis=-1), np.split(b, 3, axis=-1)
            return gru_update(a_z + b_z, a_n + sigmoid(a_r + b_r) * b_n, state[0])
        return (np.tanh(a + b) if kind == "rnn_tanh" else np.maximum(a + b, 0.0),)

    return step


def keras_gru_step(w: Arrays, reset_after: bool, x: np.ndarray, h: np.ndarray) -> State:
    """Return the next state of a Keras GRU, either variant."""
    bias_x, bias_h = w["bias"] if reset_after else (w["bias"], np.zeros(3 * HIDDEN))
    a_z, a_r, a_n = np.split(x @ w["kernel"] + bias_x, 3, axis=-1)
    u_z, u_r, u_n = np.split(w["recurrent_kernel"], 3, axis=-1)
    b_z, b_r, b_n = np.split(bias_h, 3)
    r = sigmoid(a_r + h @ u_r + b_r)
    candidate = r * (h @ u_n + b_n) if reset_after else (r * h) @ u_n
    return gru_update(a_z + h @ u_z + b_z, a_n + candidate, h)


def keras_step(name: str, w: Arrays) -> Step:
    """Return the NumPy step of a Keras layer."""

    def step(x: np.ndarray, state: State) -> State:
        if name.startswith("gru"):
            return keras_gru_step(w, name == "gru_reset_after", x, state[0])
        a = x @ w["kernel"] + state[0] @ w["recurrent_kernel"] + w["bias"]
        if name == "simple_rnn":
            return (np.tanh(a),)
        i, f, c, o = np.split(a, 4, axis=-1)
        return lstm_update(i, f, c, o, state[1])

    return step


def flax_step(name: str, w: Arrays) -> Step:
    """Return the NumPy step of a Flax cell."""

    def step(x: np.ndarray, state: State) -> State:
        h = state[0]
        if name == "simple":
            return (np.tanh(x @ w["cell_i_kernel"] + w["cell_i_bias"] + h @ w["cell_h_kernel"]),)
        a = {g: x @ w[f"cell_i{g}_kernel"] for g in "ifgorzn" if f"cell_i{g}_kernel" in w}
        b = {g: h @ w[f"cell_h{g}_kernel"] for g in a}
        if name == "lstm":
            i, f, g, o = (a[k] + b[k] + w[f"cell_h{k}_bias"] for k in "ifgo")
            return lstm_update(i, f, g, o, state[1])
        a_r, a_z, a_n = (a[k] + w[f"cell_i{k}_bias"] for k in "rzn")
        return gru_update(
            a_z + b["z"], a_n + sigmoid(a_r + b["r"]) * (b["n"] + w["cell_hn_bias"]), h
        )

    return step


def scan(step: Step, xs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Run a step over axis -2 of xs and stack the first state of every step."""
    ys = []
    for t in range(xs.shape[-2]):
        state = step(xs[..., t, :], state)
        ys.append(state[0])
    return np.stack(ys, axis=-2), state


def replay(step: Step, arrays: Arrays) -> Arrays:
    """Recompute the outputs of a unidirectional case."""
    letters = state_names(arrays)
    ys, finals = scan(step, arrays["xs"], tuple(arrays[f"{s}0"] for s in letters))
    return {"ys": ys} | {f"{s}_final": final for s, final in zip(letters, finals, strict=True)}


def replay_packed(steps: Sequence[Step], arrays: Arrays) -> Arrays:
    """Recompute the outputs of a bidirectional packed case, by sequence and direction."""
    letters = state_names(arrays)
    outputs = {"ys": np.zeros_like(arrays["ys"])} | {
        f"{s}_final": np.zeros_like(arrays[f"{s}0"]) for s in letters
    }
    for b, length in enumerate(arrays["lengths"]):
        for d, (step, stride) in enumerate(zip(steps, (1, -1), strict=True)):
            initial = tuple(arrays[f"{s}0"][d, b] for s in letters)
            ys, finals = scan(step, arrays["xs"][b, :length][::stride], initial)
            outputs["ys"][b, :length, d * HIDDEN : (d + 1) * HIDDEN] = ys[::stride]
            for s, final in zip(letters, finals, strict=True):
                outputs[f"{s}_final"][d, b] = final
    return outputs


def check(name: str, arrays: Arrays, replayed: Arrays) -> None:
    """Assert that the NumPy replay reproduces all outputs, and check dtypes and values."""
    for key, value in replayed.items():
        error = np.max(np.abs(value - arrays[key]))
        assert error < TOLERANCE, f"{name}/{key}: NumPy replay differs by {error:.1e}"
    for key, value in arrays.items():
        assert value.dtype == (np.int64 if key == "lengths" else np.float64), (
            f"{name}/{key} is {value.dtype}"
        )
        assert np.all(np.isfinite(value)), f"{name}/{key} is not finite"
        assert np.any(value), f"{name}/{key} is all zero"


# --- Files --------------------------------------------------------------------------------------


def make_torch() -> dict[str, Arrays]:
    """Make and check all torch cases."""
    cases = {}
    for kind in ("rnn_tanh", "rnn_relu", "lstm", "gru"):
        cases[kind] = torch_case(kind, kind, packed=False)
        check(kind, cases[kind], replay(torch_step(kind, cases[kind], "_l0"), cases[kind]))
    for kind in ("lstm", "gru"):
        name = f"bi{kind}_packed"
        arrays = cases[name] = torch_case(name, kind, packed=True)
        steps = [torch_step(kind, arrays, suffix) for suffix in ("_l0", "_l0_reverse")]
        check(name, arrays, replay_packed(steps, arrays))
    return cases


def make_keras() -> dict[str, Arrays]:
    """Make and check all Keras cases."""
    cases = {
        name: keras_case(name)
        for name in ("simple_rnn", "lstm", "gru_reset_after", "gru_reset_before")
    }
    for name, arrays in cases.items():
        check(name, arrays, replay(keras_step(name, arrays), arrays))
    return cases


def make_flax() -> dict[str, Arrays]:
    """Make and check all Flax cases."""
    cases = {name: flax_case(name) for name in ("simple", "lstm", "gru")}
    for name, arrays in cases.items():
        check(name, arrays, replay(flax_step(name, arrays), arrays))
    return cases


def save(framework: str, cases: dict[str, Arrays]) -> None:
    """Write all cases of one framework into one compressed file."""
    flat: dict[str, Any] = {
        f"{name}/{key}": value for name, arrays in cases.items() for key, value in arrays.items()
    }
    path = GOLDEN / f"{framework}.npz"
    np.savez_compressed(path, **flat)
    print(
        f"{path.name}: {len(cases)} cases, {len(flat)} arrays, {path.stat().st_size / 1000:.1f} kB"
    )


def main() -> None:
    """Make the three files."""
    torch.set_num_threads(1)
    jax.config.update("jax_enable_x64", True)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for framework, make in {"torch": make_torch, "keras": make_keras, "flax": make_flax}.items():
        save(framework, make())


if __name__ == "__main__":
    main()
