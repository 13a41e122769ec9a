"""Linear recurrences: next states that are affine and element-wise in the state.

The arrays of the state are solved one after the other, each after those that it depends on::

    m' = 0.9 m + g(x)            m first: all its steps at once
    h' = σ(U m') h + tanh(m)     then h: m and m' of all steps are known, and may enter in any way

Arrays that depend on each other are one *component*. Each next state of a component has a form that
`noria.compiler.linear_forms` finds: affine, or for a stabilizer ``m' = max(m + f, i)``.
Emitted values may depend on the state in any way: they are computed for all steps at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from noria.backends.base import Sizes
from noria.compiler.executors import Outputs
from noria.compiler.linear_forms import AFFINE, MAX_PLUS, NotLinear, Semiring, forms_of
from noria.compiler.split import Split
from noria.ir.build import graph_of
from noria.ir.evaluate import evaluate
from noria.ir.graph import (
    Env,
    Equation,
    Graph,
    Value,
    env_of,
    is_literal,
    struct,
    values_of,
)
from noria.ir.passes import extract, substitute
from noria.ops.linear_recurrence import linear_recurrence, shifted
from noria.ops.max_plus_recurrence import max_plus_recurrence


@dataclass(frozen=True, eq=False)
class Component:
    """Arrays of the state that are solved at once.

    Attributes:
        leaves: the numbers of its arrays in the state.
        coefficients: the graph from shared and hoisted values, and the arrays solved before, to the
            ``a`` of each array, then the ``b`` of each.
        ring: the semiring in which ``h' = a * h + b``.
    """

    leaves: tuple[int, ...]
    coefficients: Graph
    ring: Semiring

    def pairs(self, arrays: Sequence[Any] | None = None) -> Iterator[tuple[int, tuple[Any, Any]]]:
        """The number of each array with its ``a`` and ``b``: outputs of the graph, or arrays."""
        found = self.coefficients.outputs if arrays is None else arrays
        width = len(self.leaves)
        yield from zip(self.leaves, zip(found[:width], found[width:], strict=True), strict=True)


@dataclass(frozen=True, eq=False)
class LinearExecutor:
    """The loop of a linear step: ``h_t = a_t * h_(t-1) + b_t`` for each array of the state.

    Attributes:
        split: the parts of the step.
        reverse: whether steps are taken from the last to the first.
        components: the components, in the order in which they are solved.
        emission: the graph from these, the state and the next state to the emitted values.
        constants: arrays that derivative rules close over.
        parallel: as in `linear_recurrence`.
    """

    split: Split
    reverse: bool
    components: tuple[Component, ...]
    emission: Graph
    constants: Env
    parallel: bool | None = None

    time_major = True  # as `linear_recurrence` takes its arrays

    @property
    def as_run(self) -> tuple[Graph, Graph]:
        """The prologue, and as the loop: coefficients, the recurrence, and the emission."""
        split = self.split
        sources = {v: e.source for e in split.loop.equations for v in e.outputs}
        equations: list[Equation] = []
        for component in self.components:
            equations += component.coefficients.equations
            times, plus = _primitives(component.ring)
            for leaf, (a, b) in component.pairs():
                before, after = split.state[leaf], split.next_state[leaf]
                scaled = Value(before.aval)
                source = None if is_literal(after) else sources.get(after)
                equations.append(Equation(times, (a, before), (scaled,), {}, source))
                equations.append(Equation(plus, (scaled, b), (after,), {}, source))
        equations += self.emission.equations
        return split.prologue, Graph(split.loop.inputs, split.loop.outputs, tuple(equations))

    def stored(self) -> tuple[Value, ...]:
        """The scales and the states. JAX may store more."""
        return (*self.split.state, *self.split.state)

    def __call__(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        """Final state and emitted values; arguments as for `LoopExecutor`."""
        return self.infer(sizes, parameters, steps, state)

    def infer(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        """The same: there is no derivative rule."""
        split, axes, reverse = self.split, sizes.axes, self.reverse
        env = env_of(split.parameters, parameters) | self.constants
        values = env_of(split.steps, steps)
        values |= env_of(split.prologue.outputs, evaluate(split.prologue, env, values, axes))
        final = list(state)
        read = {v for c in self.components for v in c.coefficients.inputs} | {*self.emission.inputs}
        for component in self.components:
            factors = evaluate(component.coefficients, env, values, axes)
            for i, (a, b) in component.pairs(factors):
                is_affine = component.ring is AFFINE
                solve = linear_recurrence if is_affine else max_plus_recurrence
                states = solve(a, b, state[i], reverse, self.parallel)
                if sizes.time:
                    final[i] = states[0 if reverse else -1]
                if not is_literal(split.next_state[i]):
                    values[split.next_state[i]] = states
                if split.state[i] in read:
                    values[split.state[i]] = shifted(states, state[i], reverse)
        return final, evaluate(self.emission, env, values, axes)


def linear_executor(split: Split, reverse: bool = False) -> LinearExecutor:
    """The loop of ``split`` as a linear recurrence.

    Raises:
        NotLinear: if the step is not linear.
    """
    same = (*split.shared, *split.hoisted)
    known: tuple[Value, ...] = same
    constants: Env = {}
    components: list[Component] = []
    for leaves in _components(split):
        component, arrays = _solved_in_any(split, leaves, known)
        components.append(component)
        constants |= arrays
        solved = (v for leaf in leaves for v in (split.state[leaf], split.next_state[leaf]))
        known = tuple(dict.fromkeys((*known, *values_of(solved))))
    emission = extract(
        split.loop.equations, split.emitted, (*same, *split.state, *split.next_state)
    )
    return LinearExecutor(split, reverse, tuple(components), emission, constants)


def _components(split: Split) -> Iterator[list[int]]:
    """The components of the state, each after those that it depends on."""
    state, everything = split.state, split.loop.equations
    needs: list[set[int]] = []
    for n, after in enumerate(split.next_state):
        inputs = extract(everything, [after], (*split.loop.inputs,)).inputs
        found = {m for m, before in enumerate(state) if before in inputs or before is after}
        needs.append({n} | found)
    for _ in state:  # paths of any length
        needs = [set().union(*(needs[m] for m in some)) for some in needs]
    seen: set[int] = set()
    for n in sorted(range(len(state)), key=lambda n: len(needs[n])):
        if n not in seen:
            leaves = [m for m in sorted(needs[n]) if n in needs[m]]
            seen.update(leaves)
            yield leaves


def _solved_in_any(
    split: Split, leaves: list[int], known: Sequence[Value]
) -> tuple[Component, Env]:
    try:
        return _solved(AFFINE, split, leaves, known)
    except NotLinear as reason:
        try:
            return _solved(MAX_PLUS, split, leaves, known)
        except NotLinear:
            raise reason from None


def _solved(
    ring: Semiring, split: Split, leaves: list[int], known: Sequence[Value]
) -> tuple[Component, Env]:
    """A component, and arrays that derivative rules close over."""
    state = [split.state[leaf] for leaf in leaves]
    after = [split.next_state[leaf] for leaf in leaves]
    loop = extract(split.loop.equations, after, (*known, *state))
    used = [v for v in known if v in loop.inputs or v in after]

    def coefficients(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        forms = forms_of(ring, loop, state, leaves, env_of(used, arrays))
        return [form.scale for form in forms], [form.shift for form in forms]

    graph, arrays, _ = graph_of(coefficients, list(map(struct, used)))
    hidden, inputs = graph.inputs[: len(arrays)], graph.inputs[len(arrays) :]
    graph = substitute(graph, env_of(inputs, used))
    graph = extract(graph.equations, graph.outputs, (*hidden, *used))
    return Component(tuple(leaves), graph, ring), env_of(hidden, arrays)


def _primitives(ring: Semiring) -> tuple[Any, Any]:
    """The multiplication and the addition of a semiring."""
    return (jax.lax.mul_p, jax.lax.add_p) if ring is AFFINE else (jax.lax.add_p, jax.lax.max_p)


def is_linear(split: Split) -> bool:
    try:
        linear_executor(split)
    except NotLinear:
        return False
    return True
