"""Closed forms from the trackers of Flux and Lux; frozen arrays of PyTorch, Keras and Flax.

``scripts/make_golden.py`` makes the arrays.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from frameworks import into

import noria as nr

GOLDEN = Path(__file__).parent / "golden"
FILES = {name: dict(np.load(GOLDEN / f"{name}.npz")) for name in ("torch", "keras", "flax")}
CASES = [
    (f, case)
    for f, arrays in FILES.items()
    for case in sorted({key.split("/")[0] for key in arrays})
]


def identity_rnn(W: float, U: float, b: float) -> nr.RNNCell:
    arrays = (jnp.array([[W]], float), jnp.array([[U]], float), jnp.array([b], float))
    return nr.RNNCell.from_arrays(*arrays, activation=lambda x: x)


def test_flux_identity_rnn():
    """Flux 0.14's suite: h0 = 7, x = 2, 3 with weights 5 and 4 gives 167, and these gradients."""
    h0, xs = jnp.array([7.0]), jnp.array([[2.0], [3.0]])
    layer = nr.Recurrence(identity_rnn(5, 4, 0))
    assert layer(h0, xs)[-1, 0] == 167
    cell, state = jax.grad(lambda cell, h0: nr.Recurrence(cell)(h0, xs)[-1, 0], argnums=(0, 1))(
        layer.cell, h0
    )
    assert (cell.W[0, 0], cell.U[0, 0], cell.b[0], state[0]) == (11, 66, 5, 16)


def test_flux_1547():
    xs = jnp.array([[0.3], [2.5]])
    layer = nr.Recurrence(identity_rnn(0.7, 0.001, 0.85))
    np.testing.assert_allclose(layer(xs)[:, 0], [1.06, 2.60106], rtol=1e-12)
    gradient = nr.grad(lambda layer: layer(xs).sum())(layer)
    np.testing.assert_allclose(gradient.cell.W[0, 0], 2.8003, rtol=1e-12)


def test_lux_302_keeps_the_order_of_outputs():
    ys = nr.Recurrence(identity_rnn(1, 1, 0))(jnp.array([[0.5], [0.0], [0.7], [0.8]]))
    np.testing.assert_allclose(ys[:, 0], [0.5, 0.5, 1.2, 2.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("cell", "count"),
    [(nr.RNNCell, 45), (nr.LSTMCell, 180), (nr.GRUCell, 135), (nr.GRUv3Cell, 135)],
)
def test_flux_parameter_counts(cell, count):
    """3 => 5 in Flux; its GRUv3 has 160, of which 25 are never used."""
    made = cell(3, 5, key=jax.random.key(0))
    assert nr.count_parameters(made) == count
    without = cell(3, 5, key=jax.random.key(0), bias=False)
    assert nr.count_parameters(without) == count - made.b.size
    used = nr.grad(lambda c: jnp.sum(nr.Recurrence(c)(jnp.ones((3, 3)))))(made)
    assert all(np.asarray(leaf).any(axis=-1).all() for leaf in jtu.tree_leaves(used))


def test_flux_default_initialisation():
    """Glorot-uniform on the stacked matrix, zero bias, no forget bias."""
    for cell, gates in ((nr.RNNCell, 1), (nr.LSTMCell, 4), (nr.GRUCell, 3), (nr.GRUv3Cell, 3)):
        made = cell(200, 100, key=jax.random.key(1))
        for weight, columns in ((made.W, 200), (made.U, 100)):
            bound = (6 / (columns + gates * 100)) ** 0.5
            assert 0.99 * bound < np.abs(weight).max() <= bound
            np.testing.assert_allclose(np.std(weight), bound / 3**0.5, rtol=0.02)
        assert not np.asarray(made.b).any()
        assert made.b_h is None


def of(framework: str, case: str) -> dict[str, np.ndarray]:
    prefix = f"{case}/"
    return {
        key.removeprefix(prefix): a for key, a in FILES[framework].items() if key.startswith(prefix)
    }


def pack(h, c):
    return h if c is None else nr.LSTMState(h, c)


@pytest.mark.sampled(13)
@pytest.mark.parametrize(("framework", "case"), CASES)
@pytest.mark.parametrize("backend", ["scan", "reference"])
def test_frozen_arrays(framework, case, backend):
    """Outputs, final states, and all gradients, biases and initial states included."""
    arrays = {name: jnp.asarray(a) for name, a in of(framework, case).items()}
    both = case.endswith("packed")
    suffixes = ("", "_reverse") if both else ("",)
    weights = {
        name.removeprefix("grad_"): arrays[name.removeprefix("grad_")]
        for name in arrays
        if "grad_" in name
    }
    states = {name: weights.pop(name) for name in ("h0", "c0") if name in weights}
    xs = weights.pop("xs")
    lengths = arrays.get("lengths")

    def run(weights, states, xs):
        state = pack(states["h0"], states.get("c0"))
        layers = [
            nr.Recurrence(into(framework, case, weights, suffix), backend=backend)
            for suffix in suffixes
        ]
        if both:
            state = tuple(jtu.tree_map(lambda leaf, n=n: leaf[n], state) for n in range(2))
            final, ys = nr.Bidirectional(layers[0], layers[1]).scan(state, xs, lengths=lengths)
            final = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *final)
        else:
            final, ys = layers[0].scan(state, xs)
        return final, ys

    (final, ys), pull = jax.vjp(run, weights, states, xs)
    np.testing.assert_allclose(ys, arrays["ys"], rtol=1e-9, atol=1e-11)
    for got, name in zip(jtu.tree_leaves(final), ("h_final", "c_final"), strict=False):
        np.testing.assert_allclose(got, arrays[name], rtol=1e-9, atol=1e-11)
    dweights, dstates, dxs = pull((pack(arrays["dh"], arrays.get("dc")), arrays["dys"]))
    for name, gradient in {**dweights, **dstates, "xs": dxs}.items():
        np.testing.assert_allclose(
            gradient, arrays[f"grad_{name}"], rtol=1e-9, atol=1e-11, err_msg=name
        )
