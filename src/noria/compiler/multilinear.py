"""Values of a step as sums of products: factors that are known, and at most one matrix of state.

Each axis of a value has a label, as in `jax.numpy.einsum`. A term is a product of factors over
labelled axes, summed over the labels that its value does not have::

    k[:, None] * v          labels (i, j):  k_i v_j
    k @ S                   labels (j,):    k_i S_ij
    S + u * (v - k @ S)     labels (i, j):  S_ij + u_i v_j - u_i k_l S_lj

So it does not matter how the cell spells a product: with `einsum`, as a sum of an element-wise
product, with transposes or with broadcasts. A selection by a known condition is a factor too.

Axes of size 1 come and go in these spellings, so factors do not have them, and the state keeps its
own labels for them: no sum, product or comparison depends on the label of such an axis.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import jax.numpy as jnp

from noria._jax import inner_jaxprs
from noria.compiler.terms import Factor, Sum, Term
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Value, is_literal, size
from noria.ir.passes import is_zero, producers
from noria.ir.primitives import MOVES
from noria.ir.reasons import Reason
from noria.ir.source import place

#: More terms than any published memory has; the search takes a second
#: (``python benchmarks/tuning.py MOST_TERMS``).
MOST_TERMS = 64


class NotMultilinear(Exception):
    """An operation is no sum of products; the message names it."""


class Algebra:
    """Sums of products for the values of some equations.

    Attributes:
        sizes: the size of each label.
        equations: equations that were made for new factors.
        maker: the equation of each value, also of those that were made.
    """

    def __init__(self, equations: Sequence[Equation], leaves: Iterable[Value]):
        self.sizes: dict[int, int] = {}
        self.equations: list[Equation] = []
        self.maker = producers(equations)
        self._labels = count()
        self._grows: dict[Value, bool] = {}
        self._forms: dict[Value, Sum] = {}
        self._squeezed: dict[Value, Atom] = {}
        for leaf in leaves:
            labels = self.fresh(leaf.aval.shape)
            self._forms[leaf] = Sum(labels, (Term(1.0, (), leaf, labels),))

    def fresh(self, shape: Iterable[int]) -> tuple[int, ...]:
        """A new label for each axis."""
        found = tuple((next(self._labels), n) for n in shape)
        self.sizes.update(found)
        return tuple(label for label, _ in found)

    def __contains__(self, atom: Atom) -> bool:
        return not is_literal(atom) and atom in self._forms

    def __getitem__(self, atom: Atom) -> Sum:
        """The sum of a value.

        It follows from the equation if the value is larger than its operands.
        """
        if is_literal(atom):
            return self._atomic(atom)
        if atom not in self._forms:
            equation = self.maker.get(atom)
            self._forms[atom] = (
                self.apply(equation) if equation and self._expands(atom) else self._atomic(atom)
            )
        return self._forms[atom]

    def _atomic(self, atom: Atom) -> Sum:
        labels = self.fresh(atom.aval.shape)
        return Sum(labels, (Term(1.0, (self._factor(atom, labels),)),))

    def _factor(self, atom: Atom, labels: tuple[int, ...]) -> Factor:
        long = self.long(labels)
        if len(long) == len(labels):
            return Factor(atom, labels)
        assert not is_literal(atom)
        if atom not in self._squeezed:
            source = self.maker[atom].source if atom in self.maker else None
            shape = [self.sizes[label] for label in long]
            self._squeezed[atom] = self._made(lambda a: [jnp.reshape(a, shape)], atom, source)
        return Factor(self._squeezed[atom], long)

    def _made(self, function: Callable[..., Any], atom: Atom, source: Any) -> Atom:
        """A function of a known value, as a value with equations of its own."""
        made, (value,) = build(function, [atom], source)
        self.equations += made
        self.maker |= producers(made)
        return value

    def long(self, labels: Iterable[int]) -> tuple[int, ...]:
        """The labels of all axes but those of size 1."""
        return tuple(label for label in labels if self.sizes[label] != 1)

    def _expands(self, value: Value) -> bool:
        """Whether a known value is an outer product or a broadcast, or element-wise work on one."""
        if value not in self._grows:
            equation = self.maker.get(value)
            found = False
            if equation is not None and len(equation.outputs) == 1 and size(value) > 1:
                inputs = [v for v in equation.inputs if not is_literal(v)]
                known = equation.name in RULES or _is_unary(equation)
                grows = known and all(size(v) < size(value) for v in inputs)
                found = grows or (
                    known
                    and equation.name not in ("dot_general", "reduce_sum")
                    and any(self._expands(v) for v in inputs)
                )
            self._grows[value] = found
        return self._grows[value]

    def apply(self, equation: Equation) -> Sum:
        """The sum of the output of an equation; it is kept.

        Raises:
            NotMultilinear: if it is none.
        """
        output = equation.outputs[0]
        rule = RULES.get(equation.name)
        found = None
        if rule is not None:
            found = rule(self, equation, [self[atom] for atom in equation.inputs])
        elif _is_unary(equation):
            found = self._of_factor(equation)
        if found is None and not self._depends(equation):
            found = self._atomic(output)
        if found is None or len(found.terms) > MOST_TERMS:
            raise NotMultilinear(Reason.NOT_LINEAR(place=place(equation)))
        self._forms[output] = found
        return found

    def _depends(self, equation: Equation) -> bool:
        return any(v in self and self[v].leaves for v in equation.inputs)

    def _of_factor(self, equation: Equation) -> Sum | None:
        """A function of a broadcast is the broadcast of the function."""
        found = self[equation.inputs[0]]
        if len(found.terms) != 1 or found.leaves:
            return None
        coefficient, factors, *_ = found.terms[0]
        if coefficient != 1 or len(factors) != 1 or factors[0].kind != "times":
            return None
        factor = factors[0]
        value = self._made(equation.bind, factor.atom, equation.source)
        return Sum(found.labels, (Term(1.0, (Factor(value, factor.labels),)),))

    def is_zero(self, term: Term) -> bool:
        """Whether a factor is a constant zero."""
        return any(is_zero(f.atom, self.maker) for f in term.factors if f.kind == "times")

    # --- labels -----------------------------------------------------------------------------------

    def renamed(self, form: Sum, names: dict[int, int] | None = None) -> Sum:
        """The same with new labels; ``names`` gives some of them."""
        names = dict(names or {})

        def name(label: int) -> int:
            if label not in names:
                (names[label],) = self.fresh([self.sizes[label]])
            return names[label]

        terms = tuple(
            Term(
                coefficient,
                tuple(Factor(f.atom, tuple(map(name, f.labels)), f.kind) for f in factors),
                leaf,
                tuple(label if self.sizes[label] == 1 else name(label) for label in axes),
            )
            for coefficient, factors, leaf, axes in form.terms
        )
        return Sum(tuple(map(name, form.labels)), terms)

    def aligned(self, form: Sum, labels: tuple[int, ...]) -> Sum:
        """The same over ``labels``, along which it is repeated if its axis has size 1."""
        names = {
            own: label
            for own, label in zip(form.labels, labels, strict=bool(form.labels))
            if self.sizes[own] == self.sizes[label]
        }
        return self.renamed(form, names)._replace(labels=labels)

    def common(self, equation: Equation, operands: list[Sum]) -> list[Sum]:
        """The operands of an element-wise equation over the labels of its output."""
        labels = self.fresh(equation.outputs[0].aval.shape)
        return [self.aligned(form, labels) for form in operands]

    def multiply(self, left: Sum, right: Sum, labels: tuple[int, ...]) -> Sum | None:
        """All products of terms, summed over the labels that are not in ``labels``."""
        terms = []
        both = {*left.labels, *right.labels}.difference(labels)
        for a in left.terms:
            for b in right.terms:
                if a.leaf is not None and b.leaf is not None:
                    return None
                kept = a if b.leaf is None else b
                term = Term(
                    a.coefficient * b.coefficient, (*a.factors, *b.factors), kept.leaf, kept.axes
                )
                terms.append(self.summed(term, both))
        return Sum(labels, tuple(terms))

    def summed(self, term: Term, labels: Iterable[int]) -> Term:
        """A term summed over ``labels``.

        A label of no factor multiplies the coefficient by its size.
        """
        present = {*term.axes, *(label for f in term.factors for label in f.labels)}
        times = math.prod(self.sizes[label] for label in labels if label not in present)
        return term._replace(coefficient=term.coefficient * times)


# --- rules --------------------------------------------------------------------------------------


#: ``(algebra, equation, its operands) -> sum``; ``None`` if it is no sum of products.
Rule = Callable[[Algebra, Equation, list[Sum]], Sum | None]


def _is_unary(equation: Equation) -> bool:
    """Whether an equation is a function of each number of one array."""
    return (
        len(equation.inputs) == len(equation.outputs) == 1
        and not is_literal(equation.inputs[0])
        and equation.inputs[0].aval.shape == equation.outputs[0].aval.shape
        and (equation.name not in MOVES or equation.name == "convert_element_type")
        and not any(inner_jaxprs(equation.params))
        and equation.name not in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort")
    )


def _scaled(form: Sum, by: float) -> Sum:
    terms = tuple(t._replace(coefficient=by * t.coefficient) for t in form.terms)
    return form._replace(terms=terms)


def _add(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    left, right = algebra.common(equation, operands)
    right = _scaled(right, -1.0) if equation.name == "sub" else right
    return Sum(left.labels, (*left.terms, *right.terms))


def _neg(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    return _scaled(operands[0], -1.0)


def _mul(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    left, right = algebra.common(equation, operands)
    return algebra.multiply(left, right, left.labels)


def _div(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    divisor = operands[1]
    if divisor.leaves or not jnp.issubdtype(equation.outputs[0].aval.dtype, jnp.floating):
        return None
    if len(divisor.terms) != 1 or any(f.is_mask for f in divisor.terms[0].factors):
        divisor = algebra._atomic(equation.inputs[1])
    term = divisor.terms[0]
    inverse = tuple(f._replace(kind="over" if f.kind == "times" else "times") for f in term.factors)
    inverted = divisor._replace(terms=(Term(1 / term.coefficient, inverse),))
    return _mul(algebra, equation, [operands[0], inverted])


def _select(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    if len(operands) != 3 or equation.inputs[0].aval.dtype != jnp.bool_:
        return None
    which = operands[0]
    if which.leaves or len(which.terms) != 1 or len(which.terms[0].factors) != 1:
        return None
    which, no, yes = algebra.common(equation, operands)
    mask = which.terms[0].factors[0]
    if mask.kind != "times":
        return None
    terms = []
    for form, kind in ((no, "unless"), (yes, "where")):
        factor = mask._replace(kind=kind)
        terms += [
            t._replace(factors=(*t.factors, factor)) for t in form.terms if not algebra.is_zero(t)
        ]
    return Sum(which.labels, tuple(terms))


def _broadcast(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    labels = [*algebra.fresh(shape)]
    for label, to in zip(operands[0].labels, places, strict=True):
        if algebra.sizes[label] == shape[to]:
            labels[to] = label
    return operands[0]._replace(labels=tuple(labels))


def _reshape(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    """Only axes of size 1 may come or go."""
    shape = equation.outputs[0].aval.shape
    old = algebra.long(operands[0].labels)
    if [algebra.sizes[label] for label in old] != [n for n in shape if n != 1]:
        return None
    left = iter(old)
    labels = tuple(algebra.fresh([1])[0] if n == 1 else next(left) for n in shape)
    return operands[0]._replace(labels=labels)


def _transpose(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    form = operands[0]
    return form._replace(labels=tuple(form.labels[i] for i in equation.params["permutation"]))


def _unchanged(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    return operands[0]


def _convert(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    dtypes = equation.inputs[0].aval.dtype, equation.outputs[0].aval.dtype
    if all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return operands[0]
    return None if operands[0].leaves else algebra._of_factor(equation)


def _reduce(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum:
    form = operands[0]
    gone = {form.labels[axis] for axis in equation.params["axes"]}
    labels = tuple(label for label in form.labels if label not in gone)
    return Sum(labels, tuple(algebra.summed(term, gone) for term in form.terms))


def _dot(algebra: Algebra, equation: Equation, operands: list[Sum]) -> Sum | None:
    (lc, rc), (lb, rb) = equation.params["dimension_numbers"]
    left, right = operands
    names = {right.labels[b]: left.labels[a] for a, b in zip((*lc, *lb), (*rc, *rb), strict=True)}
    right = algebra.renamed(right, names)
    batch = tuple(left.labels[axis] for axis in lb)
    free = [
        label
        for form, used in ((left, (*lc, *lb)), (right, (*rc, *rb)))
        for axis, label in enumerate(form.labels)
        if axis not in used
    ]
    return algebra.multiply(left, right, (*batch, *free))


RULES: dict[str, Rule] = {
    "add": _add,
    "add_any": _add,
    "sub": _add,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "expand_dims": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "copy": _unchanged,
    "copy_p": _unchanged,
    "convert_element_type": _convert,
    "reduce_sum": _reduce,
    "dot_general": _dot,
}
