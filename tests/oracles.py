"""Independent float64 oracles in NumPy: one example, one step, gate by gate from the papers.

Weights are `(out, in)`: `W` is `(gates*H, I)` and multiplies the input `x` `(I,)`; `U` is
`(gates*H, H)` and multiplies the state `h` `(H,)`; `b` (input side) and `b_h` (recurrent side) are
`(gates*H,)` or None. Gates are stacked row blocks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Bias = Array | None
Activation = Callable[[Array], Array]
State = Any  # an array, or a tuple of arrays whose first is the emitted output
Step = Callable[[State, Array], State]


def f64(*arrays: ArrayLike) -> list[Array]:
    """Copy each array to float64, so that NumPy computes each product in this precision."""
    return [np.array(a, dtype=np.float64) for a in arrays]


def bias(b: ArrayLike | None, rows: int) -> Array:
    """Give the bias as float64, zeros where there is none."""
    return np.zeros(rows) if b is None else np.array(b, dtype=np.float64)


def sigmoid(a: Array) -> Array:
    """s(a) = 1 / (1 + exp(-a)), written as (1 + tanh(a/2)) / 2, which does not overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def rnn(
    h: Array,
    x: Array,
    W: Array,
    U: Array,
    b: Bias = None,
    b_h: Bias = None,
    activation: Activation = np.tanh,
) -> Array:
    """Elman 1990, "Finding structure in time": h' = act(W x + b + U h + b_h)."""
    h, x, W, U = f64(h, x, W, U)
    H = len(h)
    b, b_h = bias(b, H), bias(b_h, H)
    return activation(W @ x + b + U @ h + b_h)


def lstm(
    state: tuple[Array, Array], x: Array, W: Array, U: Array, b: Bias = None, b_h: Bias = None
) -> tuple[Array, Array]:
    """Row blocks i, f, g, o: c' = s(f) c + s(i) tanh(g); h' = s(o) tanh(c').

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. Gives (h', c').
    """
    h, c, x, W, U = f64(*state, x, W, U)
    H = len(h)
    b, b_h = bias(b, 4 * H), bias(b_h, 4 * H)
    i = sigmoid(W[0:H] @ x + b[0:H] + U[0:H] @ h + b_h[0:H])
    f = sigmoid(W[H : 2 * H] @ x + b[H : 2 * H] + U[H : 2 * H] @ h + b_h[H : 2 * H])
    g = np.tanh(W[2 * H : 3 * H] @ x + b[2 * H : 3 * H] + U[2 * H : 3 * H] @ h + b_h[2 * H : 3 * H])
    o = sigmoid(W[3 * H : 4 * H] @ x + b[3 * H : 4 * H] + U[3 * H : 4 * H] @ h + b_h[3 * H : 4 * H])
    c_new = f * c + i * g
    h_new = o * np.tanh(c_new)
    return h_new, c_new


def gru(h: Array, x: Array, W: Array, U: Array, b: Bias = None, b_h: Bias = None) -> Array:
    """Row blocks r, z, n: n = tanh(W_n x + b_n + r (U_n h + b_hn)); h' = (1-z) n + z h.

    The reset comes after the recurrent product: Cho et al. 2014, arXiv 1406.1078 v1.
    """
    h, x, W, U = f64(h, x, W, U)
    H = len(h)
    b, b_h = bias(b, 3 * H), bias(b_h, 3 * H)
    r = sigmoid(W[0:H] @ x + b[0:H] + U[0:H] @ h + b_h[0:H])
    z = sigmoid(W[H : 2 * H] @ x + b[H : 2 * H] + U[H : 2 * H] @ h + b_h[H : 2 * H])
    n = np.tanh(
        W[2 * H : 3 * H] @ x + b[2 * H : 3 * H] + r * (U[2 * H : 3 * H] @ h + b_h[2 * H : 3 * H])
    )
    return (1.0 - z) * n + z * h


def gruv3(h: Array, x: Array, W: Array, U: Array, b: Bias = None, b_h: Bias = None) -> Array:
    """Row blocks r, z, n: n = tanh(W_n x + b_n + U_n (r h) + b_hn); h' = (1-z) n + z h.

    The reset comes before the recurrent product: Cho et al. 2014, arXiv 1406.1078 v3.
    """
    h, x, W, U = f64(h, x, W, U)
    H = len(h)
    b, b_h = bias(b, 3 * H), bias(b_h, 3 * H)
    r = sigmoid(W[0:H] @ x + b[0:H] + U[0:H] @ h + b_h[0:H])
    z = sigmoid(W[H : 2 * H] @ x + b[H : 2 * H] + U[H : 2 * H] @ h + b_h[H : 2 * H])
    n = np.tanh(
        W[2 * H : 3 * H] @ x + b[2 * H : 3 * H] + U[2 * H : 3 * H] @ (r * h) + b_h[2 * H : 3 * H]
    )
    return (1.0 - z) * n + z * h


def emitted(state: State) -> Array:
    """Give the output of a state: the array, or the first of the tuple."""
    return state[0] if isinstance(state, tuple) else state


def run(
    step: Step,
    state: State,
    xs: ArrayLike,
    *,
    initial: State,
    length: int | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[State, Array]:
    """Run `step(state, x) -> state` over one example `xs` `(T, I)`: final state, outputs `(T, H)`.

    Steps from `length` on do not exist; their outputs are zero. `resets[t]` cuts the sequence
    between t-1 and t, and the episodes are run apart. The one met first starts from `state`, the
    others from `initial`; forward, `resets[0]` makes the first start from `initial` too. `reverse`
    goes from the last valid step to step 0, with outputs at the places of their inputs.
    """
    (xs,) = f64(xs)
    T = len(xs)
    length = T if length is None else int(length)
    starts_anew = np.zeros(T, dtype=bool) if resets is None else np.array(resets, dtype=bool)
    assert 0 <= length <= T, f"length {length} is outside 0..{T}"
    assert starts_anew.shape == (T,), f"resets has shape {starts_anew.shape}, expected ({T},)"

    ys = np.zeros((T, *np.shape(emitted(state))))
    xs, starts_anew = xs[:length], starts_anew[:length]
    if length == 0:
        return state, ys

    cuts = [t for t in range(1, length) if starts_anew[t]]
    episodes = list(
        zip([0, *cuts], [*cuts, length], strict=True)
    )  # (first step, one past the last)
    for k, (begin, end) in enumerate(reversed(episodes) if reverse else episodes):
        if k > 0 or (starts_anew[0] and not reverse):
            state = initial
        for t in range(end - 1, begin - 1, -1) if reverse else range(begin, end):
            state = step(state, xs[t])
            ys[t] = emitted(state)
    return state, ys


def numerical_gradient(
    f: Callable[..., float], arrays: Sequence[ArrayLike], eps: float = 1e-6
) -> list[Array]:
    """Central differences (f(a + eps) - f(a - eps)) / (2 eps) of `f(*arrays)`, entry by entry."""
    points = f64(*arrays)
    gradients = [np.zeros_like(a) for a in points]
    for a, gradient in zip(points, gradients, strict=True):
        for index in np.ndindex(a.shape):
            kept = a[index]
            a[index] = kept + eps
            above = float(f(*points))
            a[index] = kept - eps
            below = float(f(*points))
            a[index] = kept
            gradient[index] = (above - below) / (2.0 * eps)
    return gradients
