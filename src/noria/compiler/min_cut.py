"""A minimum cut between two parts of a graph, in bytes per step (Ford and Fulkerson 1956).

The cut decides which values enter the loop, leave it, or are stored for the reverse loop. SciPy and
NetworkX have one too, but graphs of a step are small.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import cast

from noria.ir.graph import Atom, Equation, Value, size_in_bytes, values_of
from noria.ir.passes import producers

_NEVER = 1 << 60

#: Equations, values, and the two ends.
Node = Equation | Value | str


def min_cut(
    equations: Sequence[Equation],
    *,
    early: Iterable[Equation],
    late: Iterable[Equation],
    wanted: Iterable[Atom] = (),
    free: Callable[[Value], bool],
    recompute_cost: Callable[[Equation], int] = lambda equation: 0,
    prefer_early: bool,
) -> tuple[Value, ...]:
    """The values that cross from early to late equations, with the fewest bytes.

    Args:
        equations: the equations to divide.
        early: equations that must be on the early side.
        late: equations that must be on the late side.
        wanted: values that the late side must know.
        free: whether a value is known on both sides.
        recompute_cost: the price of computing an equation again, in bytes.
        prefer_early: of cuts with equal bytes, take the one with the most work on the early side;
            else with the least.
    """
    network = _Network()
    maker = producers(equations)
    for equation in early:
        network.join("early", equation, _NEVER)
    for equation in late:
        network.join(equation, "late", _NEVER)
    for equation in equations:
        network.join("early", equation, 8 * recompute_cost(equation))
        for value in values_of(equation.inputs):
            if not free(value):
                network.join(value, equation, _NEVER)
    for value in values_of(wanted):
        if not free(value):
            network.join(value, "late", _NEVER)
    for value in [v for v in network.nodes() if not isinstance(v, str | Equation)]:
        # One more for each array: of two cuts with equal bytes, the one with fewer arrays.
        network.join(maker.get(value, "early"), value, 8 * size_in_bytes(value) + 1)
    before = network.early_side(prefer_early)
    # A value crosses if only its equation is on the early side, and its node is not.
    values = [v for v in network.nodes() if not isinstance(v, str | Equation)]
    return tuple(v for v in values if v not in before and maker.get(v, "early") in before)


class _Network:
    """Nodes and capacities. Shortest augmenting paths give the flow (Dinic 1970).

    The paths of one length are found in one pass, so that a deep step takes few passes.
    """

    def __init__(self) -> None:
        self.capacity: dict[Node, dict[Node, int]] = defaultdict(dict)

    def join(self, a: Node, b: Node, capacity: int) -> None:
        if capacity:
            self.capacity[a][b] = self.capacity[a].get(b, 0) + capacity
            self.capacity[b].setdefault(a, 0)

    def nodes(self) -> list[Node]:
        return list(self.capacity)

    def early_side(self, prefer_early: bool) -> set[Node]:
        """Fill the network, and return the nodes on the early side of the cut."""
        forward = lambda a, b: self.capacity[a][b]  # noqa: E731
        while "late" in (distance := self._distances("early", forward)):
            self._fill(distance)
        if not prefer_early:
            return {*distance}
        return set(self.capacity) - {*self._distances("late", lambda b, a: self.capacity[a][b])}

    def _distances(self, start: str, residual: Callable[[Node, Node], int]) -> dict[Node, int]:
        """The number of edges on a shortest path to each node that can be reached."""
        found: dict[Node, int] = {start: 0}
        queue: deque[Node] = deque([start])
        while queue:
            node = queue.popleft()
            for other in self.capacity[node]:
                if other not in found and residual(node, other):
                    found[other] = found[node] + 1
                    queue.append(other)
        return found

    def _fill(self, distance: dict[Node, int]) -> None:
        """Fill all shortest paths. An edge that leads no further is not tried again."""
        capacity, path = self.capacity, [cast(Node, "early")]
        onwards = {
            node: [other for other in capacity[node] if distance.get(other) == along + 1]
            for node, along in distance.items()
        }
        while path:
            node, options = path[-1], onwards[path[-1]]
            while options and not capacity[node][options[-1]]:
                options.pop()
            if options:
                path.append(options[-1])
            elif node != "late":
                path.pop()
                if path:
                    onwards[path[-1]].pop()
            else:
                edges = [*pairwise(path)]
                flow = min(capacity[a][b] for a, b in edges)
                for a, b in edges:
                    capacity[a][b] -= flow
                    capacity[b][a] += flow
                full = next(n for n, (a, b) in enumerate(edges) if not capacity[a][b])
                del path[full + 1 :]
