"""The vectors of an operand of a rank update, in groups."""

from typing import NamedTuple

from noria._integers import ceil_div
from noria.backends.native.plan.tiling import KernelPlan
from noria.ir.graph import Atom, size


class VectorGroup(NamedTuple):
    """``groups`` groups of ``vectors`` vectors each, from vector ``first`` on.

    The last vector of each group has ``last`` numbers, the others as many as there are lanes.
    """

    first: int
    groups: int
    vectors: int
    last: int


def update_groups(plan: KernelPlan, value: Atom) -> list[VectorGroup]:
    """The vectors of the right operand of a rank update, in groups of nearly equal size.

    Ten vectors of which the last has 3 numbers, in groups of at most three::

        [0 1 2] [3 4 5]   [6 7]             [8 9]
        (0, 2, 3, lanes)  (6, 1, 2, lanes)  (8, 1, 2, 3)
    """
    count, lanes = plan.vectors(value), plan.lanes
    groups = ceil_div(count, plan.update_vectors)
    narrow, wider = divmod(count, groups)
    found = [(0, wider, narrow + 1), (wider * (narrow + 1), groups - wider, narrow)]
    start, some, width = found.pop()
    found += [(start, some - 1, width), (count - width, 1, width)]
    ends = lanes, lanes, size(value) % lanes or lanes
    return [VectorGroup(*group, end) for group, end in zip(found, ends, strict=True) if group[1]]
