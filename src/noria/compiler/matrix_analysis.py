"""The analysis of a step for `noria.compiler.matrix_form`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from noria.compiler.matrix_form import (
    MatrixForm,
    MatrixStep,
    NotChunkwise,
    Products,
    Read,
    Update,
    labels_of,
    renamed,
    sides,
    signature,
    summed_axis,
)
from noria.compiler.multilinear import Algebra, NotMultilinear
from noria.compiler.terms import Factor, Sum, Term
from noria.compiler.trace import Traced
from noria.ir.graph import Atom, Equation, Value, is_literal, size, values_of
from noria.ir.passes import backward_slice, extract
from noria.ir.reasons import Reason
from noria.ir.source import place


def candidates(traced: Traced) -> list[int]:
    """The arrays of the state that may be matrices; for most cells there is none."""
    return [
        i
        for i, v in enumerate(traced.state)
        if v.aval.ndim >= 2
        and min(v.aval.shape[-2:]) > 1
        and jnp.issubdtype(v.aval.dtype, jnp.floating)
    ]


def matrix_step(traced: Traced) -> MatrixStep:
    """The matrices of a step, in the form that chunks use.

    Raises:
        NotChunkwise: if the step has no such form.
    """
    matrices = sorted(candidates(traced), key=lambda i: -size(traced.state[i]))
    if not matrices:
        raise NotChunkwise(Reason.NO_MATRIX())
    reasons: list[NotChunkwise] = []
    while matrices:
        try:
            return _Analysis(traced, sorted(matrices)).step()
        except NotChunkwise as reason:
            reasons.append(reason)
            # A smaller array that depends on no matrix, such as a normaliser, runs step by step.
            others = [i for i in matrices[1:] if not _needs(traced, i, set(matrices) - {i})]
            if not others:
                raise reasons[0] from None
            matrices.remove(others[-1])
    raise reasons[0]


def obstacle_to_chunks(traced: Traced) -> str:
    """The reason against a chunkwise form; ``"yes"`` if there is one, empty without a matrix."""
    if not candidates(traced):
        return ""
    try:
        matrix_step(traced.written())
    except NotChunkwise as reason:
        return str(reason)
    return "yes"


def _needs(traced: Traced, index: int, matrices: set[int]) -> bool:
    """Whether a next state depends on some matrices, maybe over several steps."""
    equations, found, todo = traced.graph.equations, set[int](), [index]
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            given = (*traced.graph.inputs,)
            inputs = extract(equations, (traced.next_state[i],), given).inputs
            todo += [j for j, v in enumerate(traced.state) if v in inputs]
    return bool(found & matrices)


class _Analysis:
    def __init__(self, traced: Traced, matrices: list[int]):
        self.traced, self.matrices = traced, matrices
        self.others = [i for i in range(len(traced.state)) if i not in matrices]
        for i in self.others:
            if _needs(traced, i, set(matrices)):
                raise NotChunkwise(Reason.FOLLOWS_MATRIX(index=i))
        self.equations = traced.graph.equations
        self.leaf = {traced.state[i]: i for i in matrices}
        self.resets: dict[int, tuple[Atom, Atom]] = {}
        for i in matrices:
            found = self._reset(traced.state[i])
            if found is not None:
                equation, initial = found
                self.leaf[equation.outputs[0]] = i
                self.resets[i] = equation.inputs[0], initial
        self.algebra = Algebra(self.equations, self.leaf)

    def _reset(self, state: Value) -> tuple[Equation, Atom] | None:
        """The equation that puts back the initial state, and this state."""
        found = [
            (e, e.inputs[2])
            for e in self.equations
            if e.name == "select_n"
            and e.inputs[1] is state
            and e.inputs[2] in self.traced.parameter_values
        ]
        return found[0] if len(found) == 1 else None

    def step(self) -> MatrixStep:
        wanted = self._follow()
        for i in self.matrices:
            form = self.algebra[self.traced.next_state[i]]
            for term in form.terms:
                if term.leaf is not None:
                    self._check(i, term, form)
        reads = [self._read(value) for value in wanted]
        forms = []
        for i in self.matrices:
            own = [(position, read) for j, position, read in reads if i == j]
            forms.append(self._matrix(i, own))
        return MatrixStep(forms, self.others, self.algebra)

    # --- which values ---------------------------------------------------------------------------

    def _follow(self) -> list[Value]:
        """Form the sum of each value that a next state needs.

        Returns the values that the outputs read.
        """
        traced, algebra = self.traced, self.algebra
        fed_back = backward_slice(self.equations, traced.next_state)
        depends, late, wanted = set(self.leaf), set[Value](), dict[Value, None]()
        for equation in self.equations:
            inputs = [v for v in values_of(equation.inputs) if v in depends]
            if not inputs or equation.outputs[0] in self.leaf:
                continue
            depends.update(equation.outputs)
            is_late = any(v in late or self._is_read(v) for v in inputs)
            if equation not in fed_back and is_late:
                late.update(equation.outputs)
                wanted.update((v, None) for v in inputs if v not in late)
                continue
            try:
                form = algebra.apply(equation)
            except NotMultilinear as reason:
                raise NotChunkwise(str(reason)) from None
            if not form.leaves:
                depends.difference_update(equation.outputs)
        wanted.update((v, None) for v in values_of(traced.emitted) if v in depends - late)
        return [*wanted]

    def _is_read(self, value: Value) -> bool:
        """Whether a value depends on matrices by their products with vectors only."""
        form = self.algebra[value]
        return all(
            len({*term.axes[-2:]} & {*form.labels}) < 2
            for term in form.terms
            if term.leaf is not None
        )

    # --- reads ----------------------------------------------------------------------------------

    def _read(self, output: Value) -> tuple[int, int, Read]:
        """The matrix, the place of the axis that is summed (0 or 1 of the last two), the read."""
        form, name = self.algebra[output], self._name(output)
        found: tuple[int, int] | None = None
        query: Products = []
        offset: Products = []
        heads: tuple[int, ...] = ()
        key = value = -1
        for term in form.terms:
            if term.leaf is None:
                offset.append((term.coefficient, term.factors))
                continue
            *own, a, b = term.axes
            has_heads = {*self.algebra.long(own)} <= {*form.labels}
            if (a in form.labels) == (b in form.labels) or not has_heads:
                raise NotChunkwise(Reason.WHOLE_READ(name=name))
            position = int(a in form.labels)
            summed, kept = (a, b)[position], (b, a)[position]
            this = self.leaf[term.leaf], position
            if found is None:
                found, heads, value = this, tuple(own), kept
                (key,) = self.algebra.fresh([self.algebra.sizes[summed]])  # in no other term
            if found != this or heads != tuple(own) or value != kept:
                raise NotChunkwise(Reason.TWO_READS(name=name))
            if any(kept in f.labels for f in term.factors):
                raise NotChunkwise(Reason.SCALED_READ(name=name))
            self._check_raw(term, name)
            query.append((term.coefficient, renamed(term.factors, {summed: key})))
        assert found is not None
        extra = tuple(label for label in form.labels if label not in (*heads, value))
        read = Read(output, form.labels, heads, extra, key, value, query, offset)
        return *found, read

    def _check_raw(self, term: Term, name: str) -> None:
        i = self.leaf[term.leaf]  # type: ignore[index]
        if i in self.resets and term.leaf is self.traced.state[i]:
            raise NotChunkwise(f"{name} reads the state before the reset")

    def _name(self, atom: Atom) -> str:
        maker = None if is_literal(atom) else self.algebra.maker.get(atom)
        return "the output" if maker is None else place(maker)

    # --- next states ----------------------------------------------------------------------------

    def _matrix(self, index: int, reads: Sequence[tuple[int, Read]]) -> MatrixForm:
        traced, form = self.traced, self.algebra[self.traced.next_state[index]]
        *heads, a, b = form.labels
        positions = {position for position, _ in reads}
        for term in form.terms:
            if term.leaf is not None:
                positions |= {p for p, label in enumerate((a, b)) if label not in term.axes}
        if len(positions) > 1:
            raise NotChunkwise(Reason.BOTH_AXES())
        position = positions.pop() if positions else self._decay_axis(form)
        key, value = ((a, b), (b, a))[position]
        found = MatrixForm(
            index,
            bool(position),
            tuple(heads),
            key,
            value,
            [],
            [],
            [read for _, read in reads],
            self._reset_masks(index, form),
            self.resets[index][1] if index in self.resets else None,
        )
        groups: dict[Any, Update] = {}
        for term in form.terms:
            if term.leaf is not None and key in term.axes:
                if any(value in f.labels for f in term.factors):
                    raise NotChunkwise(Reason.DENSE_DECAY(name=self._dense(term)))
                found.decay.append((term.coefficient, term.factors))
            else:
                self._add_update(found, groups, term)
        found.updates.extend(groups.values())
        assert traced.state[index].aval.ndim == len(heads) + 2
        return found

    def _check(self, index: int, term: Term, form: Sum) -> None:
        if self.leaf[term.leaf] != index:  # type: ignore[index]
            name = self._name(self.traced.next_state[index])
            raise NotChunkwise(Reason.TWO_MATRICES(name=name))
        long = self.algebra.long
        kept = [x for x, y in zip(term.axes, form.labels, strict=True) if x == y]
        moved = {*long(term.axes)} & {*long(form.labels)} != {*long(kept)}
        if moved or not {*long(term.axes[:-2])} <= {*kept} or not {*term.axes[-2:]} & {*kept}:
            raise NotChunkwise(Reason.MIXED(name=self._dense(term)))

    def _decay_axis(self, form: Sum) -> int:
        """The place of the axis that the decay varies along."""
        last = form.labels[-1]
        return int(any(t.leaf is not None and last in labels_of(t.factors) for t in form.terms))

    def _reset_masks(self, index: int, form: Sum) -> tuple[Factor, ...]:
        """Where the initial state is put back: at steps that are not padding."""
        if index not in self.resets:
            return ()
        flag = self._flag(self.resets[index][0])
        masks = [flag._replace(kind="where")]
        state = self.traced.state[index]
        for term in form.terms:
            if term.leaf is state:  # kept as it is at padding
                kept = [f for f in term.factors if f.kind == "unless" and not f.labels]
                if not kept:
                    raise NotChunkwise("it reads its state before the reset")
                masks += [f._replace(kind="where") for f in kept]
        return tuple(dict.fromkeys(masks))

    def _flag(self, atom: Atom) -> Factor:
        form = self.algebra[atom]
        factors = form.terms[0].factors
        if len(form.terms) != 1 or len(factors) != 1 or factors[0].labels:
            raise NotChunkwise(Reason.PARTIAL_RESET())
        return factors[0]

    def _dense(self, term: Term) -> str:
        """The largest factor of a term, for a message."""
        if not term.factors:
            return "the step"
        factor = max(term.factors, key=lambda f: len(f.labels))
        return self._name(factor.atom)

    def _add_update(self, found: MatrixForm, groups: dict[Any, Update], term: Term) -> None:
        """Add a term to its update: factors over keys are its vector, the others its value."""
        inner = found.value if term.leaf is None else summed_axis(term, found)
        outer = {found.key}
        other = {inner, found.value}
        for f in term.factors:
            labels = {*f.labels}
            if labels & outer and labels & other:
                raise NotChunkwise(Reason.DENSE_UPDATE(name=self._dense(term)))
            if term.leaf is not None and found.value in labels:
                raise NotChunkwise(Reason.SCALED_FEEDBACK(name=self._dense(term)))
        left, right = sides(term.factors, found.key, {*found.heads}, inner)
        inside = {*found.heads, found.key, found.value, inner}
        shared = (labels_of(left) & labels_of(right)) - inside
        if len(shared) > 1:
            raise NotChunkwise(Reason.TWO_SUMS())
        rank = shared.pop() if shared else None
        key = signature(left, found, rank) or id(term)
        update = groups.setdefault(key, Update(rank, left))
        names = {inner: found.key} if term.leaf is not None else {}
        if rank is not None and update.rank is not None:
            names[rank] = update.rank
        products = update.value if term.leaf is None else update.feedback
        products.append((term.coefficient, renamed(right, names)))
        if term.leaf is not None:
            self._check_raw(term, "the step")
