"""One step of RNN, GRU and LSTM in NumPy with all options, gate by gate, as ONNX defines them.

The arrays are a dict: ``W``, ``U``, ``b``, ``b_h`` in Noria's order of blocks, ``p`` and ``W_r``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from oracles import Array, sigmoid

Function = Callable[[Array], Array]


def keras2_hard_sigmoid(a: Array) -> Array:
    """Between 0 and 1, which it meets at -2.5 and 2.5."""
    return np.where(a < -2.5, 0.0, np.where(a > 2.5, 1.0, 0.2 * a + 0.5))


def relu(a: Array) -> Array:
    return np.where(a > 0, a, 0.0)


def softsign(a: Array) -> Array:
    return a / (1 + np.abs(a))


def bounded(a: Array, clip: float | None) -> Array:
    return a if clip is None else np.minimum(np.maximum(a, -clip), clip)


def row(arrays: dict[str, Array], gate: int, gates: int) -> dict[str, Array]:
    """The rows of one gate of all arrays with gates; zeros for a bias that is missing."""
    size = len(arrays["W"]) // gates
    part = slice(gate * size, (gate + 1) * size)
    biases = {n: arrays.get(n, np.zeros(gates * size))[part] for n in ("b", "b_h")}
    return {"W": arrays["W"][part], "U": arrays["U"][part], **biases}


def rnn(arrays: dict[str, Array], h: Array, x: Array, f: Function, clip: float | None) -> Array:
    one = row(arrays, 0, 1)
    return f(bounded(one["W"] @ x + one["b"] + one["U"] @ h + one["b_h"], clip))


def gru(
    arrays: dict[str, Array],
    h: Array,
    x: Array,
    f: Function = sigmoid,
    g: Function = np.tanh,
    clip: float | None = None,
    linear_before_reset: bool = True,
) -> Array:
    r, z, n = (row(arrays, gate, 3) for gate in range(3))
    reset = f(bounded(r["W"] @ x + r["b"] + r["U"] @ h + r["b_h"], clip))
    update = f(bounded(z["W"] @ x + z["b"] + z["U"] @ h + z["b_h"], clip))
    if linear_before_reset:
        inner = reset * (n["U"] @ h + n["b_h"])
    else:
        inner = n["U"] @ (reset * h) + n["b_h"]
    new = g(bounded(n["W"] @ x + n["b"] + inner, clip))
    return (1 - update) * new + update * h


def lstm(
    arrays: dict[str, Array],
    state: tuple[Array, Array],
    x: Array,
    f: Function = sigmoid,
    g: Function = np.tanh,
    h: Function | None = None,
    clip: float | None = None,
    coupled: bool = False,
) -> tuple[Any, Any]:
    before, c = state
    names = "igo" if coupled else "ifgo"
    rows = {gate: row(arrays, n, len(names)) for n, gate in enumerate(names)}
    looks = names.replace("g", "")
    zeros = np.zeros(len(looks) * len(c))
    peepholes = dict(zip(looks, np.split(arrays.get("p", zeros), len(looks)), strict=True))

    def linear(gate: str, memory: Array) -> Array:
        one = rows[gate]
        sum_ = one["W"] @ x + one["b"] + one["U"] @ before + one["b_h"]
        return bounded(sum_ + peepholes.get(gate, 0) * memory, clip)

    i = f(linear("i", c))
    forget = 1 - i if coupled else f(linear("f", c))
    after = forget * c + i * g(linear("g", c))
    y = f(linear("o", after)) * (h or g)(after)
    return (arrays["W_r"] @ y if "W_r" in arrays else y), after
