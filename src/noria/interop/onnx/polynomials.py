"""A traced step as polynomials of gates, whose coefficients are affine in the input and the state.

So ``f * c + i * g`` has the terms ``(f)`` with the coefficient ``c``, and ``(i, g)`` with the
coefficient 1, in whatever way and order the cell computes them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import call as call_jaxpr
from noria.interop.onnx.translator import trace
from noria.ir.graph import Equation, Graph, is_literal
from noria.ir.primitives import RULES


class NoMatch(Exception):
    """A step that is no polynomial of this kind."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A function of a polynomial: ``logistic``, ``tanh``, ``exp``, ``relu``, or ``dot``.

    ``matrix`` is ``(out, in)`` for ``dot``, the product of a matrix and a polynomial.
    """

    kind: str
    argument: "Polynomial"
    matrix: np.ndarray | None = None

    @cached_property
    def key(self) -> str:
        """Equal for factors that compute the same."""
        content = hashlib.sha256(f"{self.kind} {self.argument.key}".encode())
        if self.matrix is not None:
            content.update(self.matrix.tobytes())
        return content.hexdigest()


#: The factors of a term, in the order of their keys.
Term = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Coefficients by their factors.

    A coefficient is ``(1 + inputs, *shape)``: the constant part, then the derivative by each number
    of the input and the state. ``factors`` has those of all keys.
    """

    terms: Mapping[Term, np.ndarray]
    factors: Mapping[str, Factor]

    @cached_property
    def key(self) -> str:
        content = hashlib.sha256()
        for term in sorted(self.terms):
            content.update(" ".join(term).encode())
            content.update(np.ascontiguousarray(self.terms[term] + 0.0).tobytes())
        return content.hexdigest()

    @property
    def affine(self) -> np.ndarray | None:
        """The coefficients of a polynomial without factors, or ``None``."""
        if not self.terms:
            raise NoMatch
        return self.terms[()] if list(self.terms) == [()] else None

    def of(self, factors: Sequence[Factor]) -> np.ndarray | None:
        return self.terms.get(tuple(sorted(f.key for f in factors)))


def _made(terms: Mapping[Term, np.ndarray], factors: Mapping[str, Factor]) -> Polynomial:
    """A polynomial without terms that are zero."""
    kept = {term: a for term, a in terms.items() if a.any()}
    if not kept:
        some = next(iter(terms.values()))
        return Polynomial({(): np.zeros_like(some)}, {})
    return Polynomial(kept, {key: factors[key] for term in kept for key in term})


def _single(factor: Factor, like: np.ndarray) -> Polynomial:
    """A factor with the coefficient 1; ``like`` is a coefficient of the same shape."""
    one = np.zeros_like(like)
    one[0] = 1
    return Polynomial({(factor.key,): one}, {factor.key: factor})


def _is_constant(a: np.ndarray) -> bool:
    return not a[1:].any()


def _sum(a: Polynomial, b: Polynomial, sign: float = 1.0) -> Polynomial:
    terms = dict(a.terms)
    for term, coefficient in b.terms.items():
        scaled = np.float32(sign) * coefficient
        terms[term] = terms[term] + scaled if term in terms else scaled
    return _made(terms, {**a.factors, **b.factors})


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    terms: dict[Term, np.ndarray] = {}
    for first, x in a.terms.items():
        for second, y in b.terms.items():
            if not _is_constant(x):
                x, y = y, x
            if not _is_constant(x):
                raise NoMatch
            term, found = tuple(sorted((*first, *second))), x[:1] * y
            terms[term] = terms[term] + found if term in terms else found
    return _made(terms, {**a.factors, **b.factors})


class Reader:
    """Reads a step; ``width`` is the number of rows of a coefficient."""

    def __init__(self, width: int):
        self.width = width
        self.known: dict[Any, Polynomial | np.ndarray] = {}

    def graph(self, graph: Graph, inputs: Sequence[Any]) -> list[Polynomial]:
        """The outputs of a graph of constants (arrays) and polynomials."""
        self.known.update(zip(graph.inputs, inputs, strict=True))
        for equation in graph.equations:
            given = [self._value(atom) for atom in equation.inputs]
            outputs = self._equation(equation, given)
            self.known.update(zip(equation.outputs, outputs, strict=True))
        return [self._polynomial(self._value(atom)) for atom in graph.outputs]

    def _value(self, atom: Any) -> Any:
        return np.asarray(atom.val, atom.aval.dtype) if is_literal(atom) else self.known[atom]

    def _polynomial(self, value: Any) -> Polynomial:
        if isinstance(value, Polynomial):
            return value
        rows = np.zeros((self.width, *value.shape), np.float32)
        rows[0] = value
        return Polynomial({(): rows}, {})

    def _equation(self, equation: Equation, given: list[Any]) -> list[Any]:
        name = equation.name
        if not any(isinstance(value, Polynomial) for value in given):
            return [np.asarray(a) for a in equation.bind(*map(jnp.asarray, given))]
        if name.startswith(RULES):
            return self._inner(equation, given)
        if name in ("add", "add_any", "sub"):
            a, b = self._alike(equation, given)
            return [_sum(a, b, -1.0 if name == "sub" else 1.0)]
        if name == "neg":
            return [_product(self._polynomial(np.float32(-1)), given[0])]
        if name == "mul":
            return [_product(*self._alike(equation, given))]
        if name == "div":
            return [self._quotient(equation, given)]
        if name in ("logistic", "tanh", "exp"):
            return [self._function(name, given[0])]
        if name == "max" and isinstance(given[1], np.ndarray) and not given[1].any():
            return [self._function("relu", given[0])]
        if name == "dot_general":
            return [self._dot(equation, given)]
        if name in MOVES:
            return self._moved(equation, given)
        raise NoMatch

    def _inner(self, equation: Equation, given: list[Any]) -> list[Any]:
        params = equation.params
        jaxpr = params.get("call_jaxpr") or params["fun_jaxpr"]
        avals = [jax.ShapeDtypeStruct(a.aval.shape, a.aval.dtype) for a in equation.inputs]
        graph, closed, _ = trace("", lambda *args: call_jaxpr(jaxpr, *args), *avals)
        return self.graph(graph, [*closed, *given])

    def _alike(self, equation: Equation, given: list[Any]) -> list[Polynomial]:
        """Two operands with the shape of the result."""
        shape = equation.outputs[0].aval.shape
        found = []
        for value in map(self._polynomial, given):
            terms = {
                term: np.broadcast_to(
                    a.reshape(a.shape + (1,) * (1 + len(shape) - a.ndim)), (len(a), *shape)
                )
                for term, a in value.terms.items()
            }
            if value.factors and any(a.shape[1:] != shape for a in value.terms.values()):
                raise NoMatch
            found.append(Polynomial(terms, value.factors))
        return found

    def _function(self, kind: str, argument: Polynomial) -> Polynomial:
        like = next(iter(argument.terms.values()))
        return _single(Factor(kind, argument), like)

    def _quotient(self, equation: Equation, given: list[Any]) -> Polynomial:
        """A division by a constant, or ``1 / (1 + exp(a))``, which is ``logistic(-a)``."""
        top, bottom = self._alike(equation, given)
        divisor = bottom.affine
        if divisor is not None and _is_constant(divisor):
            inverse = np.zeros_like(divisor)
            inverse[0] = 1 / divisor[0]
            return _product(top, Polynomial({(): inverse}, {}))
        [factor] = bottom.factors.values() if len(bottom.factors) == 1 else [None]
        one = top.affine
        ones = np.zeros_like(next(iter(bottom.terms.values())))
        ones[0] = 1
        plain = factor is not None and factor.kind == "exp" and len(bottom.terms) == 2
        same = plain and all(np.array_equal(a, ones) for a in bottom.terms.values())
        if one is None or not same or not np.array_equal(one, ones) or factor is None:
            raise NoMatch
        minus = _product(self._polynomial(np.float32(-1)), factor.argument)
        return self._function("logistic", minus)

    def _dot(self, equation: Equation, given: list[Any]) -> Polynomial:
        a, b = given
        if isinstance(a, Polynomial) and isinstance(b, Polynomial):
            raise NoMatch
        value, place = (a, 0) if isinstance(a, Polynomial) else (b, 1)
        rows = value.affine
        if rows is not None:
            return Polynomial({(): self._mapped(equation, given, place, rows)}, {})
        (over_a, over_b), (same, _) = equation.params["dimension_numbers"]
        matrix, axes = (b, over_b) if place == 0 else (a, over_a)
        if matrix.ndim != 2 or same or next(iter(value.terms.values())).ndim != 2:
            raise NoMatch
        matrix = matrix if axes == (1,) else matrix.T
        rows = np.zeros((self.width, matrix.shape[0]), np.float32)
        return _single(Factor("dot", value, matrix), rows)

    def _mapped(
        self, equation: Equation, given: list[Any], place: int, rows: np.ndarray
    ) -> np.ndarray:
        """A linear function of one operand, of each row of its coefficients."""

        def one(row: jax.Array) -> jax.Array:
            operands = [row if n == place else jnp.asarray(a) for n, a in enumerate(given)]
            return equation.bind(*operands)[0]

        return np.asarray(jax.vmap(one)(jnp.asarray(rows)))

    def _moved(self, equation: Equation, given: list[Any]) -> list[Polynomial]:
        """The same move of the coefficients, and of the arguments of all factors."""
        values = [self._polynomial(value) for value in given]
        affine = [value.affine for value in values]
        if all(rows is not None for rows in affine):
            found = jax.vmap(lambda *rows: equation.bind(*rows))(*map(jnp.asarray, affine))
            return [Polynomial({(): np.asarray(rows)}, {}) for rows in found]
        if equation.name not in ("slice", "split"):
            raise NoMatch

        def cut(place: int) -> Polynomial:
            return self._cut(values[0], lambda rows: self._rows(equation, rows)[place])

        return [*map(cut, range(len(equation.outputs)))]

    def _rows(self, equation: Equation, rows: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(a) for a in jax.vmap(lambda r: equation.bind(r))(jnp.asarray(rows))]

    def _cut(self, value: Polynomial, cut: Callable[[np.ndarray], np.ndarray]) -> Polynomial:
        """A part of a vector, if its factors are element-wise."""
        changed = {key: self._cut_factor(factor, cut) for key, factor in value.factors.items()}
        terms = {
            tuple(sorted(changed[key].key for key in term)): cut(a)
            for term, a in value.terms.items()
        }
        return _made(terms, {factor.key: factor for factor in changed.values()})

    def _cut_factor(self, factor: Factor, cut: Callable[[np.ndarray], np.ndarray]) -> Factor:
        if factor.matrix is None:
            return Factor(factor.kind, self._cut(factor.argument, cut))
        return Factor(factor.kind, factor.argument, cut(factor.matrix.T).T)


#: Primitives that are linear in all of their operands together.
MOVES = frozenset(
    "concatenate slice split reshape squeeze expand_dims transpose broadcast_in_dim copy copy_p "
    "reduce_sum rev stop_gradient".split()
)
