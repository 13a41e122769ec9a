"""The cheapest frontier between two parts of a graph: a minimum cut (Ford and Fulkerson 1956), in bytes a step.

It decides three times: what enters the loop, what leaves it, and what the forward loop keeps for the reverse one.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from noria.ir.graph import Equation, size_in_bytes, values_of
from noria.ir.primitives import LIGHT as LIGHT
from noria.ir.primitives import MOVES as STRUCTURAL  # noqa: F401
from noria.ir.primitives import TRANSCENDENTAL as TRANSCENDENTAL
from noria.ir.primitives import is_heavy as is_heavy

_NEVER = 1 << 60


def min_cut(
    equations: Sequence[Equation],
    *,
    early: Iterable[Equation],
    late: Iterable[Equation],
    wanted: Iterable[Any] = (),
    free: Callable[[Any], bool],
    recompute_cost: Callable[[Equation], int] = lambda equation: 0,
    prefer_early: bool,
) -> tuple[Any, ...]:
    """The values that cross from early to late equations, chosen so that they take the fewest bytes.

    Args:
        equations: those to be divided. What a late equation gives may be computed on the early side as well.
        early: equations whose side is given.
        late: the same.
        wanted: values that must be known on the late side.
        free: says which values are known on both sides.
        recompute_cost: bytes that it is worth to compute an equation only once.
        prefer_early: of cuts with equal bytes, take the one with the most work on the early side;
            else with the least.
    """
    network = _Network()
    maker = {v: equation for equation in equations for v in equation.outputs}
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
        # One more for each array: of two frontiers with equal bytes, the one with fewer arrays.
        network.join(maker.get(value, "early"), value, 8 * size_in_bytes(value) + 1)
    before = network.early_side(prefer_early)
    # A value crosses if it is made on the early side while its own node, to which its price was attached, is not.
    values = [v for v in network.nodes() if not isinstance(v, str | Equation)]
    return tuple(v for v in values if v not in before and maker.get(v, "early") in before)


class _Network:
    """Nodes and capacities; the maximum flow by shortest augmenting paths (Edmonds and Karp 1972)."""

    def __init__(self) -> None:
        self.capacity: dict[Any, dict[Any, int]] = defaultdict(dict)

    def join(self, a: Any, b: Any, capacity: int) -> None:
        if capacity:
            self.capacity[a][b] = self.capacity[a].get(b, 0) + capacity
            self.capacity[b].setdefault(a, 0)

    def nodes(self) -> list[Any]:
        return list(self.capacity)

    def early_side(self, prefer_early: bool) -> set[Any]:
        """Fill the network, and return the nodes on the early side of the cut."""
        while (path := self._path()) is not None:
            flow = min(self.capacity[a][b] for a, b in path)
            for a, b in path:
                self.capacity[a][b] -= flow
                self.capacity[b][a] += flow
        if not prefer_early:
            return self._reachable("early", lambda a, b: self.capacity[a][b])
        return set(self.capacity) - self._reachable("late", lambda b, a: self.capacity[a][b])

    def _reachable(self, start: str, residual: Callable[[Any, Any], int]) -> set[Any]:
        seen, queue = {start}, deque([start])
        while queue:
            node = queue.popleft()
            for other in self.capacity[node]:
                if other not in seen and residual(node, other):
                    seen.add(other)
                    queue.append(other)
        return seen

    def _path(self) -> list[tuple[Any, Any]] | None:
        origin: dict[Any, Any] = {"early": None}
        queue = deque(["early"])
        while queue:
            node = queue.popleft()
            if node == "late":
                path = []
                while origin[node] is not None:
                    path.append((origin[node], node))
                    node = origin[node]
                return path
            for other, room in self.capacity[node].items():
                if room and other not in origin:
                    origin[other] = node
                    queue.append(other)
        return None
