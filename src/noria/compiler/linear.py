"""Linear recurrences: next states that are affine and element-wise in the state.

The arrays of the state are solved one after the other, each after those that it depends on::

    m' = 0.9 m + g(x)            m first: all its steps at once
    h' = σ(U m') h + tanh(m)     then h: m and m' of all steps are known, and may enter in any way

Arrays that depend on each other are one *component*. Each value of the loop that depends on it has
the form ``scale * leaf + shift``. The ``leaf`` is one of its arrays; ``scale`` and ``shift`` depend
on what is *known*: arrays of the state that were solved before, and values without state::

    h        1 * h + 0
    u * v    (v * scale) * h + v * shift        v known
    u + v    (scale + scale') * h + ...         the same leaf, or v known
    select   by a known condition: lengths and resets are affine

The rules read equations; they never test numbers. A step is not linear if an operation has no rule
in `RULES`, moves, broadcasts or sums elements of a component, or combines two of its arrays.
Integers, such as a counter, are affine by the same rules (except division), without a derivative.
Emitted values may depend on the state in any way: they are computed for all steps at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria.backends.base import Sizes
from noria.compiler.executors import Outputs
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
    read,
    struct,
    values_of,
)
from noria.ir.passes import extract, substitute
from noria.ir.source import place
from noria.ops.linear_recurrence import linear_recurrence, shifted


class NotLinear(Exception):
    """The step is not linear; the message names the operation or the array."""


@dataclass(frozen=True, eq=False)
class Component:
    """Arrays of the state that are solved at once.

    Attributes:
        leaves: the numbers of its arrays in the state.
        coefficients: the graph from shared and hoisted values, and the arrays solved before, to the
            ``a`` of each array, then the ``b`` of each.
    """

    leaves: tuple[int, ...]
    coefficients: Graph

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
            for leaf, (a, b) in component.pairs():
                before, after = split.state[leaf], split.next_state[leaf]
                scaled, source = (
                    Value(before.aval),
                    None if is_literal(after) else sources.get(after),
                )
                equations += [
                    Equation(jax.lax.mul_p, (a, before), (scaled,), {}, source),
                    Equation(jax.lax.add_p, (scaled, b), (after,), {}, source),
                ]
        equations += self.emission.equations
        return split.prologue, Graph(split.loop.inputs, split.loop.outputs, tuple(equations))

    def stored(self) -> tuple[Value, ...]:
        """The scales and the states. JAX may store more."""
        return (*self.split.state, *self.split.state)

    def __call__(
        self,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
        sizes: Sizes,
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
                states = linear_recurrence(a, b, state[i], reverse, self.parallel)
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
        component, arrays = _solved(split, leaves, known)
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


def _solved(split: Split, leaves: list[int], known: Sequence[Value]) -> tuple[Component, Env]:
    """A component, and arrays that derivative rules close over."""
    state = [split.state[leaf] for leaf in leaves]
    after = [split.next_state[leaf] for leaf in leaves]
    loop = extract(split.loop.equations, after, (*known, *state))
    used = [v for v in known if v in loop.inputs or v in after]

    def coefficients(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        forms = _follow(loop, state, leaves, env_of(used, arrays))
        return [form.scale for form in forms], [form.shift for form in forms]

    graph, arrays, _ = graph_of(coefficients, list(map(struct, used)))
    hidden, inputs = graph.inputs[: len(arrays)], graph.inputs[len(arrays) :]
    graph = substitute(graph, env_of(inputs, used))
    graph = extract(graph.equations, graph.outputs, (*hidden, *used))
    return Component(tuple(leaves), graph), env_of(hidden, arrays)


def is_linear(split: Split) -> bool:
    try:
        linear_executor(split)
    except NotLinear:
        return False
    return True


# --- forms --------------------------------------------------------------------------------------


class Form(NamedTuple):
    """``scale * leaf + shift``, arrays shaped like the value; without state ``leaf`` is ``None``.

    A ``scale`` of ``None`` is one, a ``shift`` of ``None`` is zero. Neither is computed.
    """

    leaf: Any
    scale: Any
    shift: Any


def _follow(loop: Graph, state: Sequence[Any], numbers: Sequence[int], known: Env) -> list[Form]:
    """The form of each next state, with all arrays; they have these numbers in the state."""
    forms = {leaf: Form(leaf, None, None) for leaf in state}
    for equation in loop.equations:
        if any(v in forms for v in values_of(equation.inputs)):
            forms[equation.outputs[0]] = _apply(equation, forms, known)
        else:
            outputs = equation.bind(*(read(known, atom) for atom in equation.inputs))
            known.update(zip(equation.outputs, outputs, strict=True))
    found = []
    for n, leaf, atom in zip(numbers, state, loop.outputs, strict=True):
        form = None if is_literal(atom) else forms.get(atom)
        if form is not None and form.leaf is not leaf:
            other = numbers[state.index(form.leaf)]
            raise NotLinear(f"its arrays {n} and {other} depend on each other")
        found.append(_complete(form or Form(None, None, read(known, atom)), atom.aval))
    return found


def _complete(form: Form, aval: Any) -> Form:
    one = (
        jnp.zeros(aval.shape, aval.dtype) if form.leaf is None else jnp.ones(aval.shape, aval.dtype)
    )
    zero = jnp.zeros(aval.shape, aval.dtype)
    return Form(
        form.leaf,
        one if form.scale is None else form.scale,
        zero if form.shift is None else form.shift,
    )


def _apply(equation: Equation, forms: dict[Any, Form], known: Env) -> Form:
    """The form of the output of an equation."""
    output = equation.outputs[0].aval
    rule = RULES.get(equation.name)
    moved = any(v in forms and v.aval.shape != output.shape for v in values_of(equation.inputs))
    if rule is None or moved or not jnp.issubdtype(output.dtype, jnp.number):
        raise NotLinear(f"{place(equation)} is not")
    operands = []
    for atom in equation.inputs:
        form = None if is_literal(atom) else forms.get(atom)
        operands.append(form or Form(None, None, read(known, atom)))
    leaves = {form.leaf for form in operands if form.leaf is not None}
    found = rule(equation, operands, output) if len(leaves) == 1 else None
    if found is None:
        raise NotLinear(f"{place(equation)} is not")
    scale, shift = found
    return Form(leaves.pop(), scale, shift)


#: ``(equation, forms of its inputs, aval of its output) -> (scale, shift)``; ``None`` if the output
#: is not affine.
Rule = Callable[[Equation, list[Form], Any], tuple[Any, Any] | None]


def _sum(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any]:
    left, right = (_filled(form, output) for form in operands)
    shift = equation.bind(left.shift, right.shift)[0]
    if right.leaf is None:
        return operands[0].scale, right.shift if operands[
            0
        ].shift is None and equation.name != "sub" else shift
    if left.leaf is None and equation.name != "sub":
        return operands[1].scale, left.shift if operands[1].shift is None else shift
    return equation.bind(left.scale, right.scale)[0], shift


def _filled(form: Form, output: Any) -> Form:
    """A form with all arrays, in one shape."""
    if form.leaf is None:
        form = Form(
            None, None, jnp.broadcast_to(jnp.asarray(form.shift, output.dtype), output.shape)
        )
    return _complete(form, output)


def _product(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any] | None:
    left, right = operands
    if left.leaf is None:
        left, right = right, left
    if right.leaf is not None:
        return None
    by = jnp.broadcast_to(jnp.asarray(right.shift, output.dtype), output.shape)
    return (
        by if left.scale is None else left.scale * by,
        None if left.shift is None else left.shift * by,
    )


def _quotient(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any] | None:
    left, right = operands
    if right.leaf is not None or not jnp.issubdtype(output.dtype, jnp.inexact):
        return None
    by = jnp.broadcast_to(jnp.asarray(right.shift, output.dtype), output.shape)
    scale = jnp.ones(output.shape, output.dtype) if left.scale is None else left.scale
    return scale / by, None if left.shift is None else left.shift / by


def _negative(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any]:
    form = operands[0]
    scale = jnp.ones(output.shape, output.dtype) if form.scale is None else form.scale
    return -scale, None if form.shift is None else -form.shift


def _selection(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any] | None:
    which, *cases = operands
    if which.leaf is not None:
        return None
    filled = [_filled(form, output) for form in cases]
    scale = equation.bind(which.shift, *(form.scale for form in filled))[0]
    if all(form.leaf is not None and form.shift is None for form in cases):
        return scale, None
    return scale, equation.bind(which.shift, *(form.shift for form in filled))[0]


def _unchanged(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any]:
    return operands[0].scale, operands[0].shift


def _conversion(equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any] | None:
    form = operands[0]
    before, kinds = form.leaf.aval.dtype, (jnp.floating, jnp.complexfloating)
    if not any(
        jnp.issubdtype(before, kind) and jnp.issubdtype(output.dtype, kind) for kind in kinds
    ):
        return None  # integers round, and real numbers lose the imaginary part
    scale, shift = (None if a is None else a.astype(output.dtype) for a in form[1:])
    return scale, shift


RULES: dict[str, Rule] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "mul": _product,
    "div": _quotient,
    "neg": _negative,
    "select_n": _selection,
    "copy": _unchanged,
    "copy_p": _unchanged,
    "convert_element_type": _conversion,
}
