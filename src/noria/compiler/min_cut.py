"""A minimum cut between two parts of a graph, in bytes per step (Ford and Fulkerson 1956).

The cut decides which values enter the loop, leave it, or are stored for the reverse loop. SciPy and
NetworkX have one too, but graphs of a step are small.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

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
    """Nodes and capacities. Shortest augmenting paths give the flow (Edmonds and Karp 1972)."""

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
        while (path := self._path()) is not None:
            flow = min(self.capacity[a][b] for a, b in path)
            for a, b in path:
                self.capacity[a][b] -= flow
                self.capacity[b][a] += flow
        if not prefer_early:
            return self._reachable("early", lambda a, b: self.capacity[a][b])
        return set(self.capacity) - self._reachable("late", lambda b, a: self.capacity[a][b])

    def _reachable(self, start: str, residual: Callable[[Node, Node], int]) -> set[Node]:
        seen: set[Node] = {start}
        queue: deque[Node] = deque([start])
        while queue:
            node = queue.popleft()
            for other in self.capacity[node]:
                if other not in seen and residual(node, other):
                    seen.add(other)
                    queue.append(other)
        return seen

    def _path(self) -> list[tuple[Node, Node]] | None:
        origin: dict[Node, Node | None] = {"early": None}
        queue: deque[Node] = deque(["early"])
        while queue:
            node = queue.popleft()
            if node == "late":
                path: list[tuple[Node, Node]] = []
                while (before := origin[node]) is not None:
                    path.append((before, node))
                    node = before
                return path
            for other, room in self.capacity[node].items():
                if room and other not in origin:
                    origin[other] = node
                    queue.append(other)
        return None
