"""Whether the next state is linear in a matrix of state, by a transition that chunks can use.

For each matrix ``S`` (the last two axes of an array of the state; the others are heads)::

    S' = D * S + sum_r u_r (w_r^T S + v_r)^T        D: one decay, or one for each key
    y  = q^T S + o                                  a read for the outputs of the layer

The vectors are products of values that do not depend on the matrix. They may depend on other arrays
of the state, such as a normaliser, a counter or the previous input: these run step by step first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.compiler.multilinear import Algebra
from noria.compiler.terms import Factor, Term
from noria.ir.graph import Atom, Value, is_literal

#: Products of factors, each with its coefficient, that are added.
Products = list[tuple[float, tuple[Factor, ...]]]


class NotChunkwise(Exception):
    """The step has no chunkwise form; the message gives the reason."""


@dataclass(frozen=True, eq=False)
class Update:
    """``u (w^T S + v)^T``, summed over ``rank`` if that is a label; ``feedback`` is ``w``."""

    rank: int | None
    write: tuple[Factor, ...]
    feedback: Products = field(default_factory=list)
    value: Products = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Read:
    """``q^T S + o`` as ``output`` with the axes ``labels``; ``extra`` are the labels of ``q``."""

    output: Value
    labels: tuple[int, ...]
    heads: tuple[int, ...]
    extra: tuple[int, ...]
    key: int
    value: int
    query: Products
    offset: Products


@dataclass(frozen=True, eq=False)
class MatrixForm:
    """The recurrence of one matrix.

    Attributes:
        index: its place among the arrays of the state.
        key_last: whether the keys are its last axis, and not the one before.
        heads: the labels of its heads.
        key: the label of its keys.
        value: the label of its values.
        decay: the products whose sum is the decay.
        updates: the products of vectors.
        reads: the reads for the outputs.
        reset: masks that all hold where the initial state is put back; empty without resets.
        initial: the initial state.
    """

    index: int
    key_last: bool
    heads: tuple[int, ...]
    key: int
    value: int
    decay: Products
    updates: list[Update]
    reads: list[Read]
    reset: tuple[Factor, ...]
    initial: Atom | None

    @property
    def has_key_decay(self) -> bool:
        return any(self.key in f.labels for _, factors in self.decay for f in factors)

    @property
    def has_feedback(self) -> bool:
        return any(update.feedback for update in self.updates)

    def factors(self) -> Iterable[Factor]:
        """All factors of all products."""
        yield from self.reset
        sums = [self.decay]
        for update in self.updates:
            yield from update.write
            sums += [update.feedback, update.value]
        for read in self.reads:
            sums += [read.query, read.offset]
        for products in sums:
            for _, factors in products:
                yield from factors


@dataclass(frozen=True, eq=False)
class MatrixStep:
    """A step whose matrices have a chunkwise form.

    Attributes:
        matrices: the form of each.
        others: the places of the other arrays of the state; they do not depend on the matrices.
        algebra: the labels, and equations made for factors.
    """

    matrices: list[MatrixForm]
    others: list[int]
    algebra: Algebra


def summed_axis(term: Term, form: MatrixForm) -> int:
    return term.axes[-1 if form.key_last else -2]


def labels_of(factors: Iterable[Factor]) -> set[int]:
    return {label for f in factors for label in f.labels}


def renamed(factors: Sequence[Factor], names: dict[int, int]) -> tuple[Factor, ...]:
    return tuple(f._replace(labels=tuple(names.get(n, n) for n in f.labels)) for f in factors)


def sides(
    factors: Sequence[Factor], key: int, heads: set[int], inner: int
) -> tuple[tuple[Factor, ...], tuple[Factor, ...]]:
    """Factors on the side of the keys, and the others; masks of heads are on both."""
    left = [f for f in factors if key in f.labels]
    rest = [f for f in factors if key not in f.labels]
    while True:
        extra = labels_of(left) - {key} - heads
        elsewhere = labels_of([f for f in rest if inner in f.labels])
        more = [
            f
            for f in rest
            if inner not in f.labels and {*f.labels} & extra and not {*f.labels} & elsewhere - heads
        ]
        if not more:
            break
        left += more
        rest = [f for f in rest if f not in more]
    masks = [f for f in rest if f.is_mask and {*f.labels} <= heads]
    return (*left, *masks), tuple(rest)


def signature(factors: Sequence[Factor], form: MatrixForm, rank: int | None) -> Any:
    """A key, equal for equal vectors over the keys; ``None`` if a factor has other labels."""
    names = {label: i for i, label in enumerate((*form.heads, form.key))}
    if rank is not None:
        names[rank] = -1
    if not labels_of(factors) <= {*names}:
        return None
    found = [
        (
            str(f.atom.val) if is_literal(f.atom) else id(f.atom),
            tuple(names[label] for label in f.labels),
            f.kind,
        )
        for f in factors
    ]
    return (*sorted(found, key=str), rank is None)
