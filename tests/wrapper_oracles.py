"""Wrappers of cells, made around two cells, and their equations in NumPy.

The oracles keep the whole past in lists, where the cells keep windows. `test_wrappers` compares
them, and ``scripts/mutate_cells.py`` changes the wrappers and asks whether it would notice.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from models import noise
from oracles import sigmoid

import noria as nr
from noria.cells import MGUCell
from noria.cells.draws import for_call
from noria.cells.wrappers import ProjectedCell, ResidualCell
from noria.cells.wrappers_clockwork import ClockworkCell
from noria.cells.wrappers_dropout import DropConnect, VariationalDropout
from noria.cells.wrappers_fast_slow import FastSlowCell
from noria.cells.wrappers_gates import PhasedCell, SkipCell
from noria.cells.wrappers_norms import GateNormCell, StateNormCell, WeightNormCell
from noria.cells.wrappers_products import BlockDiagonalCell, MultiplicativeCell
from noria.cells.wrappers_time import AttentionCell, DelayCell, DilatedCell
from noria.cells.wrappers_zoneout import RecurrentDropout, Zoneout

IN, HIDDEN = 3, 4
KEY = jax.random.key(3)

#: The product of a matrix of some name and a vector.
Product = Callable[[str, Any, Any], Any]

#: One step of one example in NumPy: the state and the input to the next state.
Step = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


def lstm(in_size: int = IN, hidden: int = HIDDEN, seed: int = 0) -> Any:
    cell = nr.LSTMCell(in_size, hidden, key=jax.random.key(0), dtype=jnp.float64)
    return noise(cell, seed, 0.5)


def mgu(in_size: int = IN, hidden: int = HIDDEN, seed: int = 0) -> Any:
    cell = MGUCell(in_size, hidden, key=jax.random.key(0), dtype=jnp.float64)
    return noise(cell, seed, 0.5)


BASES = {"lstm": lstm, "mgu": mgu}


def plain(name: str, matrix: Any, v: Any) -> Any:
    return matrix @ v


def step_of(cell: Any, product: Product = plain) -> Step:
    """The oracle of a cell of `BASES`. Its state is a tuple whose first array is the output."""
    arrays = {name: value for name, value in vars(cell).items() if hasattr(value, "shape")}

    def times(name: str, v: Any) -> Any:
        matrix = arrays[name]
        return product(name, matrix if hasattr(matrix, "blocks") else np.asarray(matrix), v)

    def lstm_step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        h, c = state
        i, f, g, o = np.split(times("W", x) + times("U", h) + np.asarray(arrays["b"]), 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def mgu_step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,) = state
        b_f, b_n = np.asarray(arrays["b_f"]), np.asarray(arrays["b_n"])
        f = sigmoid(times("W_f", x) + times("U_f", h) + b_f)
        n = np.tanh(times("W_n", x) + times("U_n", f * h) + b_n)
        return ((1 - f) * h + f * n,)

    return lstm_step if isinstance(cell, nr.LSTMCell) else mgu_step


def start(cell: Any) -> tuple[Any, ...]:
    return tuple(np.asarray(a) for a in jtu.tree_leaves(cell.initial_state()))


def iterated(step: Step, state: tuple[Any, ...], xs: Any) -> Iterator[tuple[Any, ...]]:
    for x in xs:
        state = step(state, x)
        yield state


# --- one maker and one oracle each ---------------------------------------------------------------


def expectation(wrapper: Any, xs: Any) -> Any:
    inner, rates = step_of(wrapper.cell), wrapper.rate

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        pairs = zip(rates, state, inner(state, x), strict=True)
        return tuple(rate * old + (1 - rate) * new for rate, old, new in pairs)

    return [h for h, *_ in iterated(step, start(wrapper.cell), xs)]


def residual(wrapper: Any, xs: Any) -> Any:
    states = iterated(step_of(wrapper.cell), start(wrapper.cell), xs)
    return [h + x for (h, *_), x in zip(states, xs, strict=True)]


def projected(wrapper: Any, xs: Any) -> Any:
    states = iterated(step_of(wrapper.cell), start(wrapper.cell), xs)
    return [np.asarray(wrapper.P) @ h for h, *_ in states]


def delayed(wrapper: Any, xs: Any) -> Any:
    xs = [*np.zeros((wrapper.steps, IN)), *xs][: len(xs)]
    return [h for h, *_ in iterated(step_of(wrapper.cell), start(wrapper.cell), xs)]


def dilated(wrapper: Any, xs: Any) -> Any:
    step, states = step_of(wrapper.cell), list[Any]()
    for t, x in enumerate(xs):
        before = t - wrapper.dilation
        states.append(step(start(wrapper.cell) if before < 0 else states[before], x))
    return [h for h, *_ in states]


def phased(wrapper: Any, xs: Any, dt: Any = None) -> Any:
    step, state, ys = step_of(wrapper.cell), start(wrapper.cell), []
    tau, s, r = (np.asarray(getattr(wrapper, name)) for name in ("tau", "s", "r"))
    for time, x in zip(np.cumsum(np.ones(len(xs)) if dt is None else dt), xs, strict=True):
        phi = ((time - s) % tau) / tau
        k = [
            2 * p / open_ if p < open_ / 2 else 2 - 2 * p / open_ if p < open_ else wrapper.leak * p
            for p, open_ in zip(phi, r, strict=True)
        ]
        new = step(state, x)
        pairs = zip(new, state, strict=True)
        state = tuple(np.multiply(k, a) + np.subtract(1, k) * b for a, b in pairs)
        ys.append(state[0])
    return ys


def skipped(wrapper: Any, xs: Any, offsets: Any = None) -> Any:
    """The outputs, and what each gate adds to ``p``; given, gates are ``p`` plus ``offsets``."""
    step, state, ys, added = step_of(wrapper.cell), start(wrapper.cell), [], list[float]()
    p: Any = 1.0
    for t, x in enumerate(xs):
        added.append((1.0 if p >= 0.5 else 0.0) - p if offsets is None else offsets[t])
        u = p + added[-1]
        state = tuple(u * a + (1 - u) * b for a, b in zip(step(state, x), state, strict=True))
        d = sigmoid(np.asarray(wrapper.W_p) @ np.concatenate(state) + np.asarray(wrapper.b_p))
        p = u * d + (1 - u) * (p + min(d, 1 - p))
        ys.append(state[0])
    return ys, added


def attended(wrapper: Any, xs: Any) -> Any:
    step, past = step_of(wrapper.cell), [start(wrapper.cell)]
    W_h, W_x, W_m, v = (np.asarray(getattr(wrapper, n)) for n in ("W_h", "W_x", "W_m", "v"))
    m = np.zeros(HIDDEN)
    for x in xs:
        last: list[Any] = past[-wrapper.window :]
        a = np.array([v @ np.tanh(W_h @ s[0] + W_x @ x + W_m @ m) for s in last])
        w = np.exp(a) / np.exp(a).sum()
        mean = tuple(np.tensordot(w, np.stack(arrays), 1) for arrays in zip(*last, strict=True))
        m = mean[0]
        past.append(step(mean, x))
    return [h for h, *_ in past[1:]]


def fast_and_slow(wrapper: Any, xs: Any) -> Any:
    first, second, third = map(step_of, wrapper.fast)
    fast, slow, ys = start(wrapper.fast[0]), start(wrapper.slow), []
    for x in xs:
        fast = first(fast, x)
        slow = step_of(wrapper.slow)(slow, fast[0])
        fast = third(second(fast, slow[0]), np.zeros(1))
        ys.append(fast[0])
    return ys


def normed_weights(wrapper: Any, xs: Any) -> Any:
    """Salimans and Kingma 2016, eq. 2, row by row."""

    def product(name: str, v: Any, x: Any) -> Any:
        lengths = np.sqrt([row @ row for row in v])
        return np.asarray(wrapper.g[name]) * (v @ x) / lengths

    return [h for h, *_ in iterated(step_of(wrapper.cell, product), start(wrapper.cell), xs)]


def layer_norm(a: Any, alpha: Any, beta: Any, epsilon: float) -> Any:
    """Ba et al. 2016, eq. 15 to 17."""
    mean = sum(a) / len(a)
    deviation = np.sqrt(sum((a - mean) ** 2) / len(a) + epsilon)
    return np.asarray(alpha) * (a - mean) / deviation + np.asarray(beta)


def normed_gates(wrapper: Any, xs: Any) -> Any:
    def product(name: str, M: Any, v: Any) -> Any:
        return layer_norm(M @ v, wrapper.alpha[name], wrapper.beta[name], wrapper.epsilon)

    return [h for h, *_ in iterated(step_of(wrapper.cell, product), start(wrapper.cell), xs)]


def normed_states(wrapper: Any, xs: Any) -> Any:
    inner = step_of(wrapper.cell)

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        h, *others = inner(state, x)
        return layer_norm(h, wrapper.alpha, wrapper.beta, wrapper.epsilon), *others

    return [h for h, *_ in iterated(step, start(wrapper.cell), xs)]


def integrated(wrapper: Any, xs: Any) -> Any:
    """Wu et al. 2016, eq. 4: the sum of both products is what their oracle adds up."""
    partner = {"U": "W", "U_f": "W_f", "U_n": "W_n"}

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        def product(name: str, M: Any, v: Any) -> Any:
            if name not in partner:
                return np.zeros(len(M))
            w, u = np.asarray(getattr(wrapper.cell, partner[name])) @ x, M @ v
            alpha, beta_1, beta_2 = (
                np.asarray(a[name]) for a in (wrapper.alpha, wrapper.beta_1, wrapper.beta_2)
            )
            return alpha * w * u + beta_1 * u + beta_2 * w

        return step_of(wrapper.cell, product)(state, x)

    return [h for h, *_ in iterated(step, start(wrapper.cell), xs)]


def in_blocks(wrapper: Any, xs: Any) -> Any:
    def product(name: str, M: Any, v: Any) -> Any:
        if not hasattr(M, "blocks"):
            return M @ v
        blocks = np.asarray(M.blocks)
        gates, heads, rows, columns = blocks.shape
        U = np.zeros((gates * heads * rows, heads * columns))
        for g in range(gates):
            for k in range(heads):
                top, left = (g * heads + k) * rows, k * columns
                U[top : top + rows, left : left + columns] = blocks[g, k]
        return U @ v

    return [h for h, *_ in iterated(step_of(wrapper.cell, product), start(wrapper.cell), xs)]


def clocked(wrapper: Any, xs: Any) -> Any:
    """Koutnik et al. 2014: a module reads those that are as slow or slower."""
    count = len(wrapper.periods)
    T = [wrapper.periods[unit * count // HIDDEN] for unit in range(HIDDEN)]

    def product(name: str, M: Any, v: Any) -> Any:
        if not name.startswith("U"):
            return M @ v
        rows = enumerate(np.asarray(M))
        return np.array(
            [sum(row[j] * v[j] for j in range(HIDDEN) if T[j] >= T[n % HIDDEN]) for n, row in rows]
        )

    step, state, ys = step_of(wrapper.cell, product), start(wrapper.cell), []
    for t, x in enumerate(xs):
        new = step(state, x)
        state = tuple(
            np.array([a[n] if t % T[n] == 0 else b[n] for n in range(HIDDEN)])
            for a, b in zip(new, state, strict=True)
        )
        ys.append(state[0])
    return ys


def masked_products(wrapper: Any, xs: Any, final: Any) -> Any:
    """Gal and Ghahramani 2016: one mask of the inputs, one of the states, in all gates."""
    m_x, m_h = map(np.asarray, final.masks)

    def product(name: str, M: Any, v: Any) -> Any:
        mask, rate = (m_x, wrapper.in_rate) if name.startswith("W") else (m_h, wrapper.rate)
        return M @ (mask * v) / (1 - rate)

    return [h for h, *_ in iterated(step_of(wrapper.cell, product), start(wrapper.cell), xs)]


def dropped_changes(wrapper: Any, xs: Any, final: Any) -> Any:
    """The masks of a sequence, of those arrays that have a rate."""
    inner, rates = step_of(wrapper.cell), wrapper.rate

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        masks = iter(map(np.asarray, final.masks))
        pairs = zip(rates, state, inner(state, x), strict=True)
        return tuple(
            old + next(masks) * (new - old) / (1 - rate) if rate else new
            for rate, old, new in pairs
        )

    return [h for h, *_ in iterated(step, start(wrapper.cell), xs)]


def dropped_weights(wrapper: Any, xs: Any, final: Any) -> Any:
    """Merity et al. 2018; the weights that were kept are those that are not zero."""
    drawn = for_call("oracle", wrapper, KEY).cell

    def product(name: str, M: Any, v: Any) -> Any:
        if not name.startswith("U"):
            return M @ v
        is_kept = np.asarray(getattr(drawn, name)) != 0
        return np.where(is_kept, M / (1 - wrapper.rate), 0) @ v

    return [h for h, *_ in iterated(step_of(wrapper.cell, product), start(wrapper.cell), xs)]


def zoneout_of(base: Any) -> Any:
    count = len(jtu.tree_leaves(base().initial_state()))
    return Zoneout(base(), (0.1, 0.6)[:count], inference=True)


def fast_slow_of(base: Any) -> Any:
    fast = base(), base(2, HIDDEN, 1), base(1, HIDDEN, 2)
    return FastSlowCell(fast, base(HIDDEN, 2, 3))


def noisy(cell: Any) -> Any:
    """All numbers of a wrapper and its cell at random."""
    return noise(cell, 5, 0.5)


def changes_of(base: Any) -> Any:
    count = len(jtu.tree_leaves(base().initial_state()))
    return RecurrentDropout(base(), (0.0, 0.4)[-count:], per="sequence")


class Row(NamedTuple):
    """How a wrapper is made from a cell, its oracle, and whether it draws random numbers.

    The oracle of a random one reads the final state, which holds the masks.
    """

    make: Callable[[Any], Any]
    oracle: Callable[..., Any]
    is_random: bool = False


#: Each wrapper by its name.
WRAPPERS: dict[str, Row] = {
    "attention": Row(lambda base: AttentionCell(base(), 3, size=5, key=KEY), attended),
    "zoneout": Row(zoneout_of, expectation),
    "residual": Row(lambda base: ResidualCell(base(IN, IN)), residual),
    "phased": Row(lambda base: PhasedCell(base(), 0.1, periods=(2, 5), ratio=0.6, key=KEY), phased),
    "delay": Row(lambda base: DelayCell(base(), 2), delayed),
    "projected": Row(lambda base: ProjectedCell(base(), 2, key=KEY), projected),
    "skip": Row(lambda base: SkipCell(base(), key=KEY, bias=-1.0), lambda *args: skipped(*args)[0]),
    "dilated": Row(lambda base: DilatedCell(base(), 3), dilated),
    "fast_slow": Row(fast_slow_of, fast_and_slow),
    "weight_norm": Row(lambda base: noisy(WeightNormCell(base())), normed_weights),
    "gate_norm": Row(lambda base: noisy(GateNormCell(base(), 0.1)), normed_gates),
    "state_norm": Row(lambda base: noisy(StateNormCell(base(), 0.1)), normed_states),
    "multiplicative": Row(lambda base: noisy(MultiplicativeCell(base())), integrated),
    "blocks": Row(lambda base: BlockDiagonalCell(base(), 2, key=KEY), in_blocks),
    "clockwork": Row(lambda base: ClockworkCell(base(), (1, 3)), clocked),
    "variational": Row(lambda base: VariationalDropout(base(), 0.4, 0.3), masked_products, True),
    "changes": Row(changes_of, dropped_changes, True),
    "drop_connect": Row(lambda base: DropConnect(base(), 0.4), dropped_weights, True),
}


def options_of(name: str) -> dict[str, Any]:
    """The key of a wrapper that draws random numbers."""
    return {"key": KEY} if WRAPPERS[name].is_random else {}


def by_oracle(name: str, cell: Any, xs: Any, final: Any) -> Any:
    """The outputs, in NumPy."""
    row = WRAPPERS[name]
    return np.stack(row.oracle(cell, np.asarray(xs), *([final] if row.is_random else [])))
