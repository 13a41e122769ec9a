"""Run all parts of a step over a whole sequence, at once or in chunks of steps."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.tree_util as jtu

from noria._flags import choose
from noria._jax import is_known, is_symbolic
from noria._types import State
from noria.backends.base import LoopBackend, Size, Sizes, swapped
from noria.compiler.canonicalize import without_transposes
from noria.compiler.chunks import Chunks, checkpointed
from noria.compiler.complex_pairs import PairedStep
from noria.compiler.context import Frontier
from noria.compiler.executors import Outputs
from noria.compiler.levels import INPUT, STATE
from noria.compiler.own_rules import have_own_rules
from noria.compiler.peeled import run_peeled
from noria.compiler.save_policies import Stored
from noria.compiler.split import Split, split
from noria.compiler.trace import Steps, Traced
from noria.ir.evaluate import evaluate, evaluated_now
from noria.ir.graph import Env, Equation, Graph, env_of, size
from noria.ir.passes import dependence
from noria.ir.primitives import is_contraction, is_heavy

Arrays = list[jax.Array]

#: Numbers that a step computes, up to which one fused loop of XLA is faster than a kernel: 10.4 and
#: 12 microseconds for the moving average of 64 numbers.
_FUSED_NUMBERS = 512


class Executor(Protocol):
    """Prologue and loop as a function of arrays.

    Executors: `LoopExecutor`, `LinearExecutor` and `ChunkwiseExecutor`.

    Attributes:
        split: the parts of the step.
        time_major: whether arrays of all steps have time in front.
        as_run: prologue and loop without a derivative, in the form that the backend runs.
    """

    @property
    def split(self) -> Split: ...

    @property
    def as_run(self) -> tuple[Graph, Graph]: ...

    @property
    def time_major(self) -> bool: ...

    def __call__(self, sizes: Sizes, parameters: Arrays, steps: Arrays, state: Arrays) -> Outputs:
        """Final state and emitted values."""
        ...

    def infer(self, sizes: Sizes, parameters: Arrays, steps: Arrays, state: Arrays) -> Outputs:
        """The same without a derivative rule: JAX differentiates its operations."""
        ...

    def stored(self, sizes: Sizes) -> Stored:
        """The values stored for the gradient."""
        ...


@dataclass(frozen=True, eq=False)
class Program:
    """A step in parts, with its executor.

    Attributes:
        traced: the step.
        executor: the executor of prologue and loop.
        reverse: whether steps are taken from the last to the first.
        checkpoint: steps from one stored state to the next, as a layer's ``checkpoint=``.
        frontier: the values of the step that depend on the context, if it has one.
        single_step: whether JAX differentiates the operations, in forward mode too.
    """

    traced: Traced
    executor: Executor
    reverse: bool
    checkpoint: int | str | None
    single_step: bool = False
    frontier: Frontier | None = None

    @property
    def split(self) -> Split:
        return self.executor.split

    @property
    def state_count(self) -> int:
        """The arrays of the cell's state in the loop: without a context, and complex ones once."""
        traced, frontier = self.traced, self.frontier
        state = traced.original.state if isinstance(traced, PairedStep) else traced.state
        if frontier is None or frontier.level != STATE:
            return len(state)
        return len(state) - len(frontier.graph.outputs)

    def __call__(self, state: Arrays, steps: Arrays, sizes: Sizes) -> Outputs:
        """Final state and outputs of a sequence, batch first."""
        traced, parts = self.traced, self.split
        env = env_of(traced.parameter_values, traced.parameters)
        env |= _invariant(parts.invariant, env)
        needed = {*parts.parameters, *parts.epilogue.inputs}
        needed |= set() if traced.peeled is None else traced.peeled.inputs
        used = tuple(v for v in env if v in needed)
        order = sizes._replace(time_major=self.executor.time_major)
        swap = order.time_axis != sizes.time_axis
        steps = [swapped(a, sizes) for a in steps] if swap else steps

        def segment(parameters: Arrays, steps: Arrays, state: Arrays, time: int) -> Outputs:
            return self._segment(env_of(used, parameters), steps, state, order._replace(time=time))

        between = self.checkpoint_steps(sizes.time)
        chunks = Chunks(sizes.time, between, order.time_axis, self.reverse, order.mapped_axis)
        run: Callable[[Arrays, Arrays, Arrays], Outputs] = (
            functools.partial(segment, time=chunks.time)
            if chunks.is_one
            else checkpointed(
                segment, chunks, have_own_rules(*self._graphs), self._changes(len(state))
            )
        )
        final, ys = run([env[v] for v in used], steps, state)
        return final, [swapped(y, sizes) for y in ys] if swap else ys

    def _changes(self, count: int) -> list[bool]:
        """Of each of the ``count`` arrays of the state, whether it may change."""
        return self.split.changes if self.traced.peeled is None else [True] * count

    @property
    def _graphs(self) -> list[Graph]:
        """All equations of a segment."""
        parts, peeled = self.split, self.traced.peeled
        return [parts.prologue, parts.loop, parts.epilogue, *(peeled.graphs if peeled else ())]

    def _segment(self, env: Env, steps: Arrays, state: Arrays, sizes: Sizes) -> Outputs:
        traced, peeled = self.traced, self.traced.peeled
        if peeled is None:
            return self._run(env, env_of(traced.steps, steps), state, sizes)
        given, run = traced.steps, self._run
        if isinstance(traced, PairedStep):
            given, run = traced.original.steps, self._run_in_pairs
        values = env_of(given[: len(steps)], steps)
        return run_peeled(peeled, run, env, values, state, sizes, self.reverse)

    def _run_in_pairs(self, env: Env, values: Env, state: Arrays, sizes: Sizes) -> Outputs:
        """`_run` for complex arrays: peeled arrays are not in pairs."""
        traced = self.traced
        assert isinstance(traced, PairedStep)

        def run(state: Arrays, steps: Arrays) -> Outputs:
            return self._run(env, env_of(traced.steps, steps), state, sizes)

        found: Outputs = traced.outside(run)(state, [values[v] for v in traced.original.steps])
        return found

    def _run(self, env: Env, values: Env, state: Arrays, sizes: Sizes) -> Outputs:
        """Prologue, loop and epilogue; without a state there is no loop."""
        parts, run = self.split, self.executor.infer if self.single_step else self.executor
        parameters, given = [env[v] for v in parts.parameters], [values[v] for v in parts.steps]
        final: Arrays = []
        if self.traced.state:
            final, emitted = run(sizes, parameters, given, state)
            values = values | env_of(parts.emitted, emitted)
        return final, evaluate(parts.epilogue, env, values, sizes.axes)

    def run_trees(self, state: State, steps: Steps, sizes: Sizes) -> tuple[State, State]:
        """Final state and outputs as pytrees, batch first."""
        context, steps = steps.context, steps._replace(context=None)
        given = jtu.tree_leaves(state), jtu.tree_leaves(steps)
        final, ys = self._with_context(*given, context, sizes)
        ys = jtu.tree_unflatten(self.traced.emission_tree, ys)
        return jtu.tree_unflatten(jtu.tree_structure(state), final), ys

    def _with_context(self, state: Arrays, steps: Arrays, context: object, sizes: Sizes) -> Outputs:
        frontier = self.frontier
        if frontier is None:
            return self._outside(state, steps, sizes)
        arrays = frontier.evaluated(context, sizes)
        if frontier.level == INPUT:
            return self._outside(state, [*steps, *arrays], sizes)
        if frontier.level == STATE:
            final, ys = self._outside([*state, *arrays], steps, sizes)
            return final[: len(state)], ys

        def one(state: Arrays, steps: Arrays, arrays: Arrays) -> Outputs:
            traced = replace(self.traced, parameters=(*frontier.arrays, *arrays))
            program = replace(self, traced=traced)
            return program._outside(state, steps, sizes._replace(batch=None))

        found: Outputs = (one if sizes.batch is None else jax.vmap(one))(state, steps, arrays)
        return found

    def _outside(self, state: Arrays, steps: Arrays, sizes: Sizes) -> Outputs:
        """The same as a call, for complex arrays too."""
        traced = self.traced
        if not isinstance(traced, PairedStep) or traced.peeled is not None:
            return self(state, steps, sizes)
        found: Outputs = traced.outside(self)(state, steps, sizes)
        return found

    def is_one_fusion(self, sizes: Sizes) -> bool:
        """Whether XLA fuses the step, and runs it in less time than the call of a kernel takes."""
        equations = self.split.loop.equations
        work = math.prod(sizes.axes) * sum(size(v) for e in equations for v in e.outputs)
        is_small = work <= _FUSED_NUMBERS and not any(map(is_contraction, equations))
        return is_small and not self.traced.reads_constants

    def stored(self, sizes: Sizes) -> Stored:
        """The values stored for the gradient."""
        steps = self.checkpoint_steps(sizes.time)
        if steps < sizes.time:
            peeled = self.traced.peeled
            state = self.split.state if peeled is None else peeled.state
            return Stored((), tuple(choose(state, self._changes(len(state)))), steps)
        return self.executor.stored(sizes)

    def checkpoint_steps(self, time: int) -> int:
        """Steps from one stored state to the next."""
        given = self.checkpoint
        if given is None or is_symbolic(time) or not time:
            return time
        return math.isqrt(time - 1) + 1 if given == "sqrt" else int(given)


def _invariant(graph: Graph, env: Env) -> Env:
    """The loop-invariant values. Of weights that are constants of a program, so are these."""
    arrays = [env[v] for v in graph.inputs]

    def values(arrays: list[jax.Array]) -> list[jax.Array]:
        return evaluate(graph, env_of(graph.inputs, arrays), {}, ())

    is_constant = bool(graph.equations) and all(map(is_known, arrays))
    found = evaluated_now(values, arrays) if is_constant else values(arrays)
    return env_of(graph.outputs, found)


def split_step(
    traced: Traced,
    batch: Size,
    backend: LoopBackend,
    *,
    products_leave: bool = False,
    hoists_all: bool = False,
) -> tuple[Traced, Split]:
    """Rewrite and split a step as a loop backend prefers. Return the step, and the parts.

    With ``hoists_all`` no product of the input and a parameter stays in the loop.
    """
    if backend.packs_weights:
        traced = replace(traced, graph=without_transposes(traced.graph))
    levels = dependence(traced.graph.equations, traced.levels)
    light = not any(is_heavy(e) and levels[e.outputs[0]] == STATE for e in traced.graph.equations)

    def should_hoist(equation: Equation) -> bool:
        if traced.once:  # a product of one step gains nothing outside
            return not backend.has_code(equation)
        return hoists_all or backend.should_hoist(equation, traced.steps, batch, light)

    def should_keep(equation: Equation) -> bool:
        return backend.has_code(equation) if traced.once else backend.should_keep(equation, batch)

    def should_repeat(equation: Equation) -> bool:
        return is_open and backend.should_repeat(equation, batch)

    is_open = traced.once and not traced.reads_constants
    parts = split(
        traced,
        should_hoist,
        should_keep,
        should_repeat=should_repeat,
        products_leave=products_leave,
    )
    return traced, parts
