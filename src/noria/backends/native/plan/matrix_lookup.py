"""The node of a value at the points of a domain: see `access` and, for vectors, `lookup`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from noria.backends.native.plan.access import (
    Access,
    AffineMap,
    Domain,
    Misaligned,
    Unreachable,
    composed,
    cut,
    identity,
)
from noria.backends.native.plan.lookup import Lookup, SpansPieces
from noria.backends.native.plan.maps import map_of_view, map_to_piece, place_along
from noria.backends.native.plan.stages import Constant
from noria.ir.graph import Atom, Equation, Value, is_literal, size
from noria.ir.primitives import MATRIX_VIEWS, WHOLE


class LoadAt(NamedTuple):
    """Read a stored value."""

    value: Value
    access: Access


class ElementwiseAt(NamedTuple):
    """An element-wise operation on values, each at an access."""

    equation: Equation
    operands: tuple[tuple[Atom, Access], ...]


MatrixNode = Constant | LoadAt | ElementwiseAt


@dataclass(frozen=True, eq=False)
class MatrixLookup:
    """The nodes of values in domains.

    Attributes:
        lookup: the producers and slots of values.
    """

    lookup: Lookup

    def node_at(
        self, atom: Atom, domain: Domain, access: Access, inlined: Callable[[Value], bool]
    ) -> MatrixNode:
        """The node of ``atom`` at the points of a domain.

        Args:
            atom: a value or a literal.
            domain: the sizes of the dimensions.
            access: the element of the value at each point.
            inlined: stored values that the pass computes itself at all points of the domain.

        Raises:
            Misaligned: if the domain must be cut.
            SpansPieces: if a value must be stored first.
        """
        while not is_literal(atom):
            if size(atom) == 1:
                access = Access(0, (0,) * len(domain))
            if atom in self.lookup.slots and not (
                inlined(atom) and self.is_computed_at(atom, domain, access)
            ):
                return LoadAt(atom, access)
            equation = self.lookup.producer[atom]
            if equation.name in WHOLE:
                raise SpansPieces(atom)
            if equation.name in MATRIX_VIEWS:
                access = self._through(atom, domain, access, map_of_view(equation, atom))
                atom = equation.inputs[0]
            elif equation.name == "concatenate":
                atom, access = self._piece(equation, domain, access)
            elif size(atom) == 1 or 0 in access.strides:
                raise SpansPieces(atom)  # computed once, not at each point
            else:
                point = Access(0, (0,) * len(domain))
                count = size(atom)
                return ElementwiseAt(
                    equation,
                    tuple((a, access if size(a) == count else point) for a in equation.inputs),
                )
        return Constant(atom.val, atom.aval.dtype)

    def is_computed_at(self, atom: Atom, domain: Domain, access: Access) -> bool:
        """Whether a stage computes a stored value point by point at this access."""
        if atom in self.lookup.leaves or access != identity(domain):
            return False
        name = self.lookup.producer[atom].name
        return name != "concatenate" and name not in WHOLE

    def nodes(
        self, roots: Iterable[Atom], domain: Domain, inlined: Callable[[Value], bool]
    ) -> Iterator[tuple[Atom, Access, MatrixNode]]:
        """Everything that a stage computes or loads for ``roots``, each value once."""
        seen: set[tuple[Atom, Access]] = set()
        todo = [(root, identity(domain)) for root in roots]
        while todo:
            key = atom, access = todo.pop()
            if is_literal(atom) or key in seen:
                continue
            seen.add(key)
            node = self.node_at(atom, domain, access, inlined)
            yield atom, access, node
            if isinstance(node, ElementwiseAt):
                todo += node.operands

    def domain_of(self, root: Atom, domain: Domain, stored: Any) -> Domain:
        """A domain in which ``root`` can be computed, cut from the given one.

        If the root is ``stored`` by the stage, it is computed there, else it may be loaded.

        Raises:
            SpansPieces: if a value must be stored first.
        """
        while True:
            try:
                for _ in self.nodes([root], domain, lambda v: v is stored):
                    pass
            except Misaligned as where:
                domain = cut(domain, where)
            else:
                return domain

    def _through(self, value: Value, domain: Domain, access: Access, step: AffineMap) -> Access:
        try:
            return composed(domain, access, step)
        except Unreachable:
            raise SpansPieces(value) from None

    def _piece(self, equation: Equation, domain: Domain, access: Access) -> tuple[Atom, Access]:
        """The operand of a concatenation that has all these points, and the access to it."""
        value, start = equation.outputs[0], 0
        place = self._through(value, domain, access, place_along(equation))
        reach = [n * (count - 1) for n, count in zip(place.strides, domain, strict=True)]
        low, high = (place.offset + sum(f(0, r) for r in reach) for f in (min, max))
        for piece in equation.inputs:
            width = piece.aval.shape[equation.params["dimension"]]
            if start <= low and high < start + width:
                step = map_to_piece(equation, start, piece)
                return piece, self._through(value, domain, access, step)
            start += width
        raise SpansPieces(value)
