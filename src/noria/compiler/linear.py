"""Linear recurrences: next states that are affine and element-wise in the state.

The arrays of the state are solved one after the other, each after those that it depends on::

    m' = 0.9 m + g(x)            m first: all its steps at once
    h' = σ(U m') h + tanh(m)     then h: m and m' of all steps are known, and may enter in any way

Arrays that depend on each other are one *component*: a small block for each element, such as a
rotation. Each next state of a component has a form that `noria.compiler.linear_forms` finds:
affine, or for a stabilizer ``m' = max(m + f, i)``.
Emitted values may depend on the state in any way: they are computed for all steps at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from noria.backends.base import Sizes
from noria.compiler.executors import Outputs
from noria.compiler.linear_forms import NotLinear, forms_of
from noria.compiler.save_policies import Stored
from noria.compiler.split import Split
from noria.compiler.state_parts import PartedState, in_parts
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
from noria.ops.linear_recurrence import block_recurrence, shifted
from noria.ops.semirings import AFFINE, MAX_PLUS, Semiring

#: The most arrays of a component: composing steps takes the cube of their number of operations
#: (``python benchmarks/tuning.py BLOCK``).
BLOCK = 4


@dataclass(frozen=True, eq=False)
class Component:
    """Arrays of the state that are solved at once.

    Attributes:
        leaves: the numbers of its arrays in the state.
        coefficients: the graph from shared and hoisted values, and the arrays solved before, to the
            scales of the block row by row, then the shift of each array.
        ring: the semiring in which ``h_i' = a_i1 ⊗ h_1 ⊕ a_i2 ⊗ h_2 ... ⊕ b_i``.
    """

    leaves: tuple[int, ...]
    coefficients: Graph
    ring: Semiring

    def block(self, found: Sequence[Any]) -> tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...]]:
        """The rows of scales, and the shifts, among the outputs of the graph."""
        width = len(self.leaves)
        *rows, shifts = (tuple(found[i : i + width]) for i in range(0, len(found), width))
        return tuple(rows), shifts


@dataclass(frozen=True, eq=False)
class LinearExecutor:
    """The loop of a linear step: ``h_t = a_t ⊗ h_(t-1) ⊕ b_t`` for each component.

    Attributes:
        split: the step in four parts.
        parts: its loop with parts of the arrays of the state as the state.
        reverse: whether steps are taken from the last to the first.
        components: the components, in the order in which they are solved.
        emission: the graph from these, the state and the next state to the emitted values.
        constants: arrays that derivative rules close over.
        parallel: as in `linear_recurrence`.
    """

    split: Split
    parts: PartedState
    reverse: bool
    components: tuple[Component, ...]
    emission: Graph
    constants: Env
    parallel: bool | None = None

    time_major = True  # as `linear_recurrence` takes its arrays

    @property
    def as_run(self) -> tuple[Graph, Graph]:
        """The prologue, and as the loop: coefficients, the recurrence, and the emission."""
        parts, loop = self.parts, self.parts.loop
        sources = {v: e.source for e in loop.equations for v in e.outputs}
        equations: list[Equation] = []
        for component in self.components:
            equations += component.coefficients.equations
            times, plus = component.ring.primitives
            rows, shifts = component.block(component.coefficients.outputs)
            for leaf, row, shift in zip(component.leaves, rows, shifts, strict=True):
                after = parts.next_state[leaf]
                source = None if is_literal(after) else sources.get(after)
                total = shift
                for n, (other, scale) in enumerate(zip(component.leaves, row, strict=True), 1):
                    before = parts.state[other]
                    scaled = Value(before.aval)
                    result = after if n == len(row) else Value(after.aval)
                    equations.append(Equation(times, (scale, before), (scaled,), {}, source))
                    equations.append(Equation(plus, (scaled, total), (result,), {}, source))
                    total = result
        equations += self.emission.equations
        return self.split.prologue, Graph(loop.inputs, loop.outputs, tuple(equations))

    def stored(self, sizes: Sizes) -> Stored:
        """The scales and the states. JAX may store more."""
        state = self.parts.state
        scales = (state[leaf] for c in self.components for _ in c.leaves for leaf in c.leaves)
        return Stored((*scales, *state))

    def infer(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        """Final state and emitted values; arguments as for `LoopExecutor`."""
        split, parts, axes, reverse = self.split, self.parts, sizes.axes, self.reverse
        state = parts.apart(state)
        env = env_of(split.parameters, parameters) | self.constants
        values = env_of(split.steps, steps)
        values |= env_of(split.prologue.outputs, evaluate(split.prologue, env, values, axes))
        final = list(state)
        read = {v for c in self.components for v in c.coefficients.inputs} | {*self.emission.inputs}
        for component in self.components:
            factors = component.block(evaluate(component.coefficients, env, values, axes))
            start = tuple(state[leaf] for leaf in component.leaves)
            found = block_recurrence(component.ring, *factors, start, reverse, self.parallel)
            for leaf, states in zip(component.leaves, found, strict=True):
                before, after = parts.state[leaf], parts.next_state[leaf]
                if sizes.time:
                    final[leaf] = states[0 if reverse else -1]
                if not is_literal(after):
                    values[after] = states
                if before in read:
                    values[before] = shifted(states, state[leaf], reverse)
        return parts.joined(final), evaluate(self.emission, env, values, axes)

    __call__ = infer  # there is no derivative rule


def linear_executor(split: Split, reverse: bool = False) -> LinearExecutor:
    """The loop of ``split`` as a linear recurrence.

    Raises:
        NotLinear: if the step is not linear.
    """
    whole = PartedState(split.loop, split.state, (None,) * len(split.state))
    try:
        return _executor(split, whole, reverse)
    except NotLinear as reason:
        parts = in_parts(split, BLOCK)
        if parts is None:
            raise
        try:
            return _executor(split, parts, reverse)
        except NotLinear:
            raise reason from None


def _executor(split: Split, parts: PartedState, reverse: bool) -> LinearExecutor:
    same = (*split.shared, *split.hoisted)
    known: tuple[Value, ...] = same
    constants: Env = {}
    components: list[Component] = []
    for leaves in _components(parts):
        component, arrays = _solved_in_any(parts, leaves, known)
        components.append(component)
        constants |= arrays
        solved = (v for leaf in leaves for v in (parts.state[leaf], parts.next_state[leaf]))
        known = tuple(dict.fromkeys((*known, *values_of(solved))))
    emission = extract(
        parts.loop.equations, parts.emitted, (*same, *parts.state, *parts.next_state)
    )
    return LinearExecutor(split, parts, reverse, tuple(components), emission, constants)


def _components(parts: PartedState) -> Iterator[list[int]]:
    """The components of the state, each after those that it depends on."""
    state, everything = parts.state, parts.loop.equations
    needs: list[set[int]] = []
    for n, after in enumerate(parts.next_state):
        inputs = extract(everything, [after], (*parts.loop.inputs,)).inputs
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
    parts: PartedState, leaves: list[int], known: Sequence[Value]
) -> tuple[Component, Env]:
    try:
        return _solved(AFFINE, parts, leaves, known)
    except NotLinear as reason:
        try:
            return _solved(MAX_PLUS, parts, leaves, known)
        except NotLinear:
            raise reason from None


def _solved(
    ring: Semiring, parts: PartedState, leaves: list[int], known: Sequence[Value]
) -> tuple[Component, Env]:
    """A component, and arrays that derivative rules close over."""
    state = [parts.state[leaf] for leaf in leaves]
    if len(leaves) > BLOCK or len({(h.aval.shape, h.aval.dtype) for h in state}) > 1:
        raise NotLinear(f"its arrays {', '.join(map(str, leaves))} depend on each other")
    after = [parts.next_state[leaf] for leaf in leaves]
    loop = extract(parts.loop.equations, after, (*known, *state))
    used = [v for v in known if v in loop.inputs or v in after]

    def coefficients(arrays: list[Any]) -> list[Any]:
        forms = forms_of(ring, loop, state, env_of(used, arrays))
        return [*(a for form in forms for a in form.scales.values()), *(f.shift for f in forms)]

    graph, arrays, _ = graph_of(coefficients, list(map(struct, used)))
    hidden, inputs = graph.inputs[: len(arrays)], graph.inputs[len(arrays) :]
    graph = substitute(graph, env_of(inputs, used))
    graph = extract(graph.equations, graph.outputs, (*hidden, *used))
    return Component(tuple(leaves), graph, ring), env_of(hidden, arrays)


def is_linear(split: Split) -> bool:
    try:
        linear_executor(split)
    except NotLinear:
        return False
    return True
