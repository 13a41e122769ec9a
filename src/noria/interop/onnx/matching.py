"""Hand-written cells that compute what a node LSTM, GRU or RNN computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from noria.cells.base import advance, arguments_of
from noria.interop.onnx.activations import Activation
from noria.interop.onnx.polynomials import Factor, NoMatch, Polynomial, Reader
from noria.interop.onnx.recognise import Gated
from noria.interop.onnx.translator import trace

#: The most numbers of the coefficients of a step; a larger cell becomes a Scan.
MOST = 2**26

#: Functions that a node has, by the kinds of factors.
NAMES = {"tanh": "Tanh", "logistic": "Sigmoid", "relu": "Relu"}


@dataclass(frozen=True)
class Step:
    """The polynomials of a step with ``n`` inputs; the state has arrays of ``hidden`` numbers."""

    n: int
    hidden: int
    after: tuple[Polynomial, ...]

    def state(self, place: int) -> np.ndarray:
        """The coefficients of an array of the state itself."""
        rows = np.zeros((1 + self.n + len(self.after) * self.hidden, self.hidden), np.float32)
        start = 1 + self.n + place * self.hidden
        rows[start : start + self.hidden] = np.eye(self.hidden)
        return rows

    def parts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The bias, the matrix of the input, and those of the state."""
        ends = [1, *(1 + self.n + k * self.hidden for k in range(len(self.after)))]
        bias, W, *U = np.split(rows, ends)
        return bias[0], W.T, [u.T for u in U]


def matched(
    call: str, cell: Any, structs: Any, x: jax.ShapeDtypeStruct
) -> tuple[Gated, list[int]] | None:
    """The node that computes the same as a cell, and the places of h and c in its state."""
    leaves = jtu.tree_leaves(structs)
    sizes = {leaf.shape for leaf in leaves}
    if len(leaves) not in (1, 2) or len(sizes) != 1 or len(x.shape) != 1 or arguments_of(cell):
        return None
    [shape] = sizes
    if len(shape) != 1 or any(leaf.dtype != np.float32 for leaf in leaves):
        return None
    n, hidden = x.shape[0], shape[0]
    width = 1 + n + len(leaves) * hidden
    if 4 * width * hidden > MOST:
        return None
    graph, closed, _ = trace(call, lambda s, x: advance(cell, s, x), structs, x)
    eye, given = np.eye(width, dtype=np.float32)[:, 1:], []
    ends = [n + k * hidden for k in range(len(leaves))]
    first, *states = np.split(eye, ends, axis=1)
    given = [Polynomial({(): np.ascontiguousarray(a)}, {}) for a in (*states, first)]
    try:
        *after, y = Reader(width).graph(graph, [*closed, *given])
        step = Step(n, hidden, tuple(after))
        return _lstm(step, y) if len(leaves) == 2 else _gru_or_rnn(step, y)
    except NoMatch:
        return None


def _need(condition: bool) -> None:
    if not condition:
        raise NoMatch


def _gate(factor: Factor) -> np.ndarray:
    """The coefficients in a sigmoid."""
    rows = factor.argument.affine
    _need(factor.kind == "logistic" and rows is not None)
    assert rows is not None
    return rows


def _is_one(rows: np.ndarray | None, sign: float = 1.0) -> bool:
    return rows is not None and bool((rows[0] == sign).all()) and not rows[1:].any()


def _same(rows: np.ndarray | None, other: np.ndarray) -> bool:
    return rows is not None and np.array_equal(rows, other)


def _gated(
    kind: str,
    step: Step,
    rows: Sequence[np.ndarray],
    h: int,
    functions: Sequence[str],
    P: np.ndarray | None = None,
    inner: tuple[np.ndarray, np.ndarray] | None = None,
    **attributes: int,
) -> Gated:
    """The node; ``inner`` is the recurrent matrix and bias of the last gate, if it has its own."""
    found = [step.parts(a) for a in rows]
    W = np.concatenate([w for _, w, _ in found])
    Us = [u[h] for *_, u in found]
    biases = np.stack([np.stack([b for b, *_ in found]), np.zeros((len(rows), step.hidden))])
    if inner is not None:
        Us[-1], biases[1, -1] = inner
    B = biases.reshape(-1).astype(np.float32)
    arrays = W, np.concatenate(Us), B if B.any() else None, P
    attributes = {name: value for name, value in attributes.items() if value}
    return Gated(kind, *arrays, tuple(Activation(f) for f in functions), attributes)


def _gru_or_rnn(step: Step, y: Polynomial) -> tuple[Gated, list[int]]:
    [after] = step.after
    _need(y.key == after.key)
    if len(after.terms) == 1:
        [factor] = after.factors.values() if len(after.factors) == 1 else [None]
        _need(factor is not None and factor.kind in NAMES and _is_one(after.of([factor])))
        assert factor is not None
        rows = factor.argument.affine
        _need(rows is not None)
        assert rows is not None
        return _gated("RNN", step, [rows], 0, [NAMES[factor.kind]]), [0]
    _need(len(after.terms) == 3 and len(after.factors) == 2)
    n, z = _by_kind(after, "tanh", "logistic")
    h, gate = step.state(0), _gate(z)
    if _is_one(after.of([n])) and _is_one(after.of([n, z]), -1.0) and _same(after.of([z]), h):
        pass
    elif _is_one(after.of([n, z])) and _same(after.of([]), h) and _same(after.of([z]), -h):
        gate = -gate  # z and 1 - z are exchanged
    else:
        raise NoMatch
    return _gru(step, gate, n), [0]


def _by_kind(value: Polynomial, *kinds: str) -> list[Factor]:
    """The factors of a polynomial, one of each kind."""
    found = [[f for f in value.factors.values() if f.kind == kind] for kind in kinds]
    _need(all(len(factors) == 1 for factors in found))
    return [factors[0] for factors in found]


def _gru(step: Step, gate: np.ndarray, n: Factor) -> Gated:
    argument = n.argument
    _need(
        len(argument.factors) == 1
        and argument.terms.keys() <= {(), *((k,) for k in argument.factors)}
    )
    [factor] = argument.factors.values()
    outside = argument.of([])
    outside = np.zeros_like(step.state(0)) if outside is None else outside
    inside = argument.of([factor])
    assert inside is not None
    _need(not step.parts(outside)[2][0].any())
    if factor.kind == "dot":  # the reset gate is applied before the product
        [reset] = factor.argument.factors.values() if len(factor.argument.factors) == 1 else [None]
        _need(reset is not None and _is_one(inside) and len(factor.argument.terms) == 1)
        assert reset is not None
        assert factor.matrix is not None
        _need(_same(factor.argument.of([reset]), step.state(0)))
        own = factor.matrix, np.zeros(step.hidden, np.float32)
    else:
        reset, (bias, W, [U]) = factor, step.parts(inside)
        _need(not W.any())
        own = U, bias
    after = int(factor.kind != "dot")
    rows = [gate, _gate(reset), outside]
    return _gated("GRU", step, rows, 0, ["Sigmoid", "Tanh"], inner=own, linear_before_reset=after)


def _lstm(step: Step, y: Polynomial) -> tuple[Gated, list[int]]:
    h = next((k for k in range(2) if step.after[k].key == y.key), None)
    _need(h is not None)
    assert h is not None
    memory = step.after[1 - h]
    out = y.factors.values()
    _need(len(y.terms) == 1 and len(out) == 2)
    squashed = next((f for f in out if f.kind == "tanh" and f.argument.key == memory.key), None)
    _need(squashed is not None and _is_one(y.of([*out])))
    [o] = [f for f in out if f is not squashed]
    _need(o.kind == "logistic")
    c = step.state(1 - h)
    squashes = [f for f in memory.factors.values() if f.kind == "tanh"]
    _need(len(squashes) == 1)
    [g] = squashes
    gates = [f for f in memory.factors.values() if f is not g]
    i = next((f for f in gates if _is_one(memory.of([f, g]))), None)
    _need(i is not None and all(f.kind == "logistic" for f in gates))
    assert i is not None
    f = next((one for one in gates if one is not i), None)
    if f is None:
        _need(len(memory.terms) == 3 and _same(memory.of([]), c) and _same(memory.of([i]), -c))
    else:
        _need(len(memory.terms) == 2 and _same(memory.of([f]), c))
    candidate = g.argument.affine
    _need(candidate is not None)
    assert candidate is not None
    out_rows, p_o = _output_gate(step, o, memory, [i, g], 1 - h)
    inner = _gate(i)
    rows = [inner, out_rows, np.zeros_like(inner) if f is None else _gate(f), candidate]
    peepholes = [_peephole(step, a, 1 - h) for a in rows]
    _need(not peepholes[3].any() and not peepholes[1].any())
    P = np.concatenate([peepholes[0], p_o, peepholes[2]])
    return _gated(
        "LSTM",
        step,
        rows,
        h,
        ["Sigmoid", "Tanh", "Tanh"],
        P.astype(np.float32) if P.any() else None,
        input_forget=int(f is None),
    ), [h, 1 - h]


def _peephole(step: Step, rows: np.ndarray, c: int) -> np.ndarray:
    """What a gate sees of the memory, which must be its own number each."""
    U = step.parts(rows)[2][c]
    _need(np.array_equal(U, np.diag(np.diag(U))))
    return np.diag(U)


def _output_gate(
    step: Step, o: Factor, memory: Polynomial, written: list[Factor], c: int
) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of the output gate, and what it sees of the new memory."""
    rows = o.argument.affine
    if rows is not None:
        return rows, np.zeros(step.hidden, np.float32)
    seen = o.argument.of(written)
    _need(seen is not None and not seen[1:].any())
    assert seen is not None
    p = seen[0]
    left = {
        term: a - p * memory.terms.get(term, np.float32(0)) for term, a in o.argument.terms.items()
    }
    _need(all(term in left for term in memory.terms))
    _need(not any(np.abs(a).max() > 1e-6 for term, a in left.items() if term))
    rows = left.get((), np.zeros_like(seen))
    return rows, p
