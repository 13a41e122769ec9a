"""Terms: products of known factors and at most one matrix of the state, over labelled axes."""

from typing import NamedTuple

from noria.ir.graph import Atom, Value


class Factor(NamedTuple):
    """A known value over labelled axes: ``"times"``, ``"over"``, ``"where"`` or ``"unless"``."""

    atom: Atom
    labels: tuple[int, ...]
    kind: str = "times"

    @property
    def is_mask(self) -> bool:
        return self.kind in ("where", "unless")


class Term(NamedTuple):
    """``coefficient`` times factors times, if there is one, ``leaf`` over ``axes``."""

    coefficient: float
    factors: tuple[Factor, ...]
    leaf: Value | None = None
    axes: tuple[int, ...] = ()


class Sum(NamedTuple):
    """A value whose axes have ``labels``."""

    labels: tuple[int, ...]
    terms: tuple[Term, ...]

    @property
    def leaves(self) -> set[Value]:
        return {term.leaf for term in self.terms if term.leaf is not None}
