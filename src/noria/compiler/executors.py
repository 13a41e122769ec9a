"""The loop over a whole sequence. Its reverse loop carries cotangents of the state only."""

import functools
import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._flags import choose, put, scatter
from noria._jax import SymbolicZero, differentiable, is_known
from noria.backends.base import LoopBackend, LoopCall, Sizes, in_order
from noria.compiler.accumulate import accumulate_in_loop
from noria.compiler.chunks import Chunks, chunk_size, in_chunks, results
from noria.compiler.loops import ChosenLoop, Gradient, choose_loop, loop_on
from noria.compiler.own_rules import as_differentiated, have_own_rules
from noria.compiler.param_use import cotangent_array
from noria.compiler.rerun import rerunning, run_again
from noria.compiler.residuals import StepVJP
from noria.compiler.save_policies import STORE_ALL, SavePolicy, Stored
from noria.compiler.segments import in_segments, segment_steps
from noria.compiler.split import Split
from noria.compiler.tangents import Pushed, Tangents, pushed
from noria.compiler.vjp import differentiate
from noria.ir.cotangents import Cotangents, Ends, PullPrologue, add, instantiate, or_zeros
from noria.ir.evaluate import evaluate
from noria.ir.graph import EMPTY, Env, Graph, Value, env_of, is_inexact, size_in_bytes

#: Final state and emitted values.
Outputs = tuple[list[jax.Array], list[jax.Array]]
#: The results, with their pull-back and their tangents, if there is a rule for those.
Rules = tuple[Outputs, jtu.Partial, jtu.Partial | None]


@dataclass(frozen=True, eq=False)
class LoopExecutor:
    """Prologue and loop as ``(sizes, parameters, steps, state) -> (final state, emitted)``.

    The arguments are arrays for `Split.parameters`, `Split.steps` and the state. Arrays of all
    steps have the axes of ``sizes`` in front.

    Attributes:
        split: the parts of a step.
        backend: the backend of the loops that it supports.
        sizes: the sizes of the whole sequence.
        reverse: whether steps are taken from the last to the first.
        save: the policy that chooses the arrays stored for the gradient.
        label: the layer in messages.
        training: the executor of a gradient in segments, if it splits the step in another way.
        vjp: the step and its pull-back, if they are known.
        runs_again: whether the forward loop runs again in the backward pass, see
            `noria.compiler.rerun`.
        lock: held while `gradient` is computed.
    """

    split: Split
    backend: LoopBackend
    sizes: Sizes
    reverse: bool
    save: SavePolicy
    label: str
    training: "LoopExecutor | None" = None
    vjp: StepVJP | None = None
    runs_again: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    @property
    def time_major(self) -> bool:
        return self.backend.time_major

    @functools.cached_property
    def inference(self) -> ChosenLoop:
        """The loop without residuals. It runs if no derivative is taken."""
        split = self.split
        call = self._call(split.loop, split.parameters, split.state, self.reverse)
        return loop_on(self.backend, call, split.prologue)

    @property
    def as_run(self) -> tuple[Graph, Graph]:
        return self.inference.prologue, self.inference.call.graph

    @property
    def gradient(self) -> Gradient:
        """The loops of the gradient. One decision serves the run and the explanation.

        Values are compared by identity, so all threads must share one gradient.
        """
        with self.lock:
            return self._gradient

    @functools.cached_property
    def _gradient(self) -> Gradient:
        backend = self.backend
        vjp = self.vjp or differentiate(self.split, knows_cotangents=self.runs_again)
        uses = tuple(use.equation for use in vjp.uses)
        if self.vjp is None and backend.can_accumulate is not None:
            vjp = accumulate_in_loop(vjp, backend.can_accumulate)
        shared = (*self.split.parameters, *vjp.constants)
        graph, count = self.save.forward(vjp, backend.reads_previous_step)
        forward = self._call(graph, shared, self.split.state, self.reverse, residuals=count)
        state = vjp.cotangents[: sum(map(is_inexact, self.split.next_state))]
        counts = tuple(count for _, count in vjp.accumulators)
        reverse = self._call(vjp.reverse, shared, state, not self.reverse, accumulators=counts)
        reverse = reverse.carrying(self.split.unchanged)
        return Gradient(
            vjp,
            uses,
            choose_loop(
                backend, forward, "forward loop of a gradient", self.label, self.split.prologue
            ),
            choose_loop(backend, reverse, "reverse loop", self.label),
        )

    def _call(
        self,
        graph: Graph,
        shared: tuple[Value, ...],
        state: tuple[Value, ...],
        reverse: bool,
        residuals: int = 0,
        accumulators: tuple[int, ...] = (),
    ) -> LoopCall:
        counts = residuals, accumulators
        return LoopCall(graph, shared, state, self.sizes, reverse, *counts, self.derive)

    def derive(self, call: LoopCall) -> "LoopExecutor":
        """The executor of one of the loops: its derivatives are of higher order."""
        shared, steps = tuple(v for v in call.shared if v in call.graph.inputs), tuple(call.steps)
        step = Split(EMPTY, EMPTY, call.graph, EMPTY, call.state, shared, steps, shared, steps)
        return LoopExecutor(step, self.backend, call.sizes, call.reverse, STORE_ALL, self.label)

    @property
    def rerunning(self) -> "LoopExecutor | None":
        """The executor whose forward loop runs again in the backward pass, if that stores less."""
        with self.lock:
            return self._rerunning

    @functools.cached_property
    def _rerunning(self) -> "LoopExecutor | None":
        return rerunning(self)

    @property
    def residual_bytes(self) -> int:
        """Bytes of the residuals that are stored for each step of an example."""
        stored, _ = self.gradient.vjp.places(self.backend.reads_previous_step)
        return sum(map(size_in_bytes, stored))

    def for_gradient(self, sizes: Sizes) -> "LoopExecutor":
        """The executor that runs a gradient."""
        for other in (self.training, self):
            if other is not None and segment_steps(other, sizes) < sizes.time:
                return other.rerunning or other
        return self

    def stored(self, sizes: Sizes) -> Stored:
        """The values stored for the gradient."""
        executor = self.for_gradient(sizes)
        split, size = executor.split, segment_steps(executor, sizes)
        if size < sizes.time or executor.runs_again:
            hoisted = tuple(v for v in split.hoisted if v not in split.steps)
            return Stored(hoisted, tuple(choose(split.state, split.changes)), size)
        return Stored(self.save.values(self.gradient.vjp, self.backend.reads_previous_step))

    def __call__(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        # A parameter with known values has no derivative, and stays known inside.
        is_open = [not is_known(a) for a in parameters]

        def infer(some: list[jax.Array], *others: list[jax.Array]) -> Outputs:
            return self.infer(sizes, put(parameters, is_open, some), *others)

        def forward(moved: Any, some: list[jax.Array], *others: list[jax.Array]) -> Rules:
            moved = put([False] * len(is_open), is_open, moved[0]), moved[1]
            given = put(parameters, is_open, some), *others
            found, pull, push = self.for_gradient(sizes)._forward(moved, sizes, *given)
            pull = jtu.Partial(pull_open, pull)
            return found, pull, None if push is None else jtu.Partial(push_open, push)

        def pull_open(pull: jtu.Partial, cotangents: Ends) -> Cotangents:
            of_parameters, of_steps, of_state = pull(cotangents)
            return choose(of_parameters, is_open), of_steps, of_state

        def push_open(push: jtu.Partial, moving: Tangents) -> Pushed:
            of_parameters, *others = moving
            return cast(Pushed, push((scatter(of_parameters, is_open), *others)))

        run = differentiable(infer, forward, (0, self.sizes.mapped_axis))
        return cast(Outputs, run(choose(parameters, is_open), steps, state))

    def infer(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        """Final state and emitted values, without a derivative rule.

        A sequence runs in chunks if its hoisted values would not stay in cache.
        """
        loop, env = self.inference, env_of(self.split.parameters, parameters)
        segment = functools.partial(self._advance, loop, None, sizes, env)
        hoisted = sum(map(size_in_bytes, loop.prologue.outputs)) * math.prod(sizes.state_axes)
        size = chunk_size(sizes.time, hoisted)
        chunks = Chunks(sizes.time, size, sizes.time_axis, self.reverse)
        return self.results(*in_chunks(segment, state, steps, chunks), (parameters, steps, state))

    def results(self, final: list[Any], emitted: list[Any], given: Any) -> Outputs:
        return results(final, emitted, given, self.sizes.mapped_axis)

    def _forward(
        self,
        moved: Any,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Rules:
        """The results, with their pull-back and their tangents and the arrays that these read.

        ``moved`` has the parameters and the steps that have a derivative.
        """
        split, gradient = self.split, self.gradient
        if self.runs_again:
            return *run_again(self, moved, sizes, parameters, steps, state), None
        size = segment_steps(self, sizes)
        if size < sizes.time:
            return *in_segments(self, size, moved, sizes, parameters, steps, state), None
        env = env_of(split.parameters, parameters) | gradient.vjp.constants
        segment = functools.partial(self._advance, gradient.forward, moved, sizes, env)
        chunks = self.save.chunks(sizes, self.reverse)
        final, stacked = in_chunks(segment, state, steps, chunks)
        stored, pull_prologue = self.save.keep(self, sizes, env, steps, state, stacked)
        names = tuple(stored)

        def pull(
            arrays: list[jax.Array],
            steps: list[jax.Array],
            stored: list[Any],
            pull_prologue: PullPrologue | None,
            cotangents: Ends,
        ) -> Cotangents:
            env = env_of((*split.parameters, *gradient.vjp.constants), arrays)
            kept = env_of(names, stored)
            return self.save.pull(self, sizes, env, steps, kept, pull_prologue, cotangents)

        def push(
            arrays: list[jax.Array], steps: list[jax.Array], stored: list[Any], moving: Tangents
        ) -> Pushed:
            if not self.save.keeps_residuals:
                return None
            env = env_of((*split.parameters, *gradient.vjp.constants), arrays)
            given = env_of(split.steps, steps)
            return pushed(self, sizes, env, given, env_of(names, stored), moving)

        arrays, kept = [*env.values()], [*stored.values()]
        emitted = stacked[: len(split.emitted)]
        return (
            self.results(final, emitted, (parameters, steps, state)),
            jtu.Partial(pull, arrays, steps, kept, pull_prologue),
            jtu.Partial(push, arrays, steps, kept),
        )

    def _advance(
        self,
        loop: ChosenLoop,
        moved: Any,
        sizes: Sizes,
        env: Env,
        state: list[jax.Array],
        steps: list[jax.Array],
        time: int,
    ) -> tuple[list[jax.Array], list[Any]]:
        """Run the prologue and ``loop`` on some steps. Return final state and stacked arrays."""
        sizes = sizes._replace(time=time)
        values = self.with_prologue(loop.prologue, sizes, env, steps, moved)
        found = loop(sizes, env, values, state)
        return found.carry, [*found.emitted, *found.residuals]

    def with_prologue(
        self,
        prologue: Graph,
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        moved: Any = None,
    ) -> Env:
        """Arrays for the steps, and for the hoisted values. ``moved`` is as in `_forward`."""
        split = self.split

        def hoist(parameters: list[jax.Array], steps: list[jax.Array]) -> list[jax.Array]:
            own = env | env_of(split.parameters, parameters)
            return evaluate(prologue, own, env_of(split.steps, steps), sizes.axes)

        given = [env[v] for v in split.parameters], steps
        if moved is not None and have_own_rules(prologue):
            hoisted = as_differentiated(hoist, moved, *given)
        else:
            hoisted = hoist(*given)
        return env_of(split.steps, steps) | env_of(prologue.outputs, hoisted)

    # --- the gradient ---------------------------------------------------------------------------

    def prologue_vjp(
        self, sizes: Sizes, env: Env, steps: list[jax.Array]
    ) -> tuple[Env, PullPrologue]:
        """Arrays for the hoisted values, and the pull-back of the prologue."""
        split = self.split

        def hoist(parameters: list[jax.Array], steps: list[jax.Array]) -> list[jax.Array]:
            values = self.with_prologue(
                split.prologue, sizes, env_of(split.parameters, parameters), steps
            )
            return [values[v] for v in split.hoisted]

        hoisted, pull = jax.vjp(hoist, [env[v] for v in split.parameters], steps)
        return env_of(split.hoisted, hoisted), pull

    def pull(
        self, sizes: Sizes, env: Env, values: Env, pull_prologue: PullPrologue, cotangents: Ends
    ) -> Cotangents:
        """Cotangents of parameters, steps and state, ``None`` for zero.

        ``values`` has arrays of all steps for the input, residuals and hoisted values.
        """
        split, vjp = self.split, self.gradient.vjp
        of_shared, of_hoisted, of_state = self._reverse(sizes, env, values, cotangents)
        of_parameters, of_steps = pull_prologue(
            [
                or_zeros(g, jax.ShapeDtypeStruct((*sizes.axes, *v.aval.shape), v.aval.dtype))
                for v, g in zip(split.hoisted, of_hoisted, strict=True)
            ]
        )
        if vjp.accumulates_prologue:
            of_parameters = [None] * len(of_parameters)
        of_parameters = [
            add(g, of_shared.get(v)) for v, g in zip(split.parameters, of_parameters, strict=True)
        ]
        return of_parameters, [add(g, None) for g in of_steps], of_state

    def _reverse(
        self,
        sizes: Sizes,
        env: Env,
        values: Env,
        cotangents: Ends,
    ) -> tuple[Env, list[Any], list[Any]]:
        """Run the reverse loop and the contractions.

        Returns the cotangents of shared values, hoisted values, and state.
        """
        split, vjp, loop = self.split, self.gradient.vjp, self.gradient.reverse
        ends = zip(split.loop.outputs, (*cotangents[0], *cotangents[1]), strict=True)
        given = dict(zip(vjp.cotangents, (g for v, g in ends if is_inexact(v)), strict=True))
        for name in vjp.streamed:
            if isinstance(given[name], SymbolicZero):
                values = values | {name: None}
                env = env | {name: jnp.zeros(name.aval.shape, name.aval.dtype)}
                loop = replace(loop, call=replace(loop.call, shared=(*loop.call.shared, name)))
            else:
                values = values | {name: given[name]}
        width = len(vjp.cotangents) - len(vjp.streamed)
        last = [instantiate(given[name]) for name in vjp.cotangents[:width]]
        last += [values[v].array for v in loop.call.state[width:]]
        found = loop(sizes, env, values, last)
        values = values | env_of(vjp.stacked, found.emitted)
        read = {v for use in vjp.uses for v in use.operands if v is not None}
        for value in read.union(vjp.rematerialize.inputs).intersection(values):
            values[value] = in_order(values[value], sizes, loop.call.reverse)
        axes = sizes.axes
        values |= env_of(vjp.rematerialize.outputs, evaluate(vjp.rematerialize, env, values, axes))
        of_shared: Env = {}
        for (value, _), gradient in zip(vjp.accumulators, found.accumulated, strict=True):
            of_shared[value] = add(gradient.astype(env[value].dtype), of_shared.get(value))
        for use in vjp.uses:
            for value, gradient in use.pull_back(env, values, axes).items():
                of_shared[value] = add(gradient, of_shared.get(value))
        of_hoisted = [cotangent_array(g, values, axes) for g in vjp.of_hoisted]
        return of_shared, of_hoisted, scatter(found.carry[:width], [*map(is_inexact, split.state)])
