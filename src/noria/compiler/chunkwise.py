"""The loop of a step that is linear in a matrix, chunk by chunk; see `noria.ops.chunkwise`."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends import scan
from noria.backends.base import LoopCall, Sizes
from noria.compiler.chunk_coefficients import coefficients_of
from noria.compiler.chunks import Chunks, checkpointed
from noria.compiler.executors import Outputs
from noria.compiler.levels import CONSTANT, INPUT, level_of
from noria.compiler.matrix_analysis import matrix_step
from noria.compiler.matrix_form import MatrixForm, MatrixStep, Read
from noria.compiler.own_rules import have_own_rules
from noria.compiler.save_policies import Stored
from noria.compiler.split import Split
from noria.compiler.trace import Traced
from noria.ir.build import graph_of
from noria.ir.evaluate import evaluate
from noria.ir.graph import Atom, Env, Equation, Graph, Value, env_of, struct, values_of
from noria.ir.passes import dependence, extract, substitute
from noria.ops.chunkwise import CHUNKING, matrix_recurrence


@dataclass(frozen=True, eq=False)
class ChunkwiseExecutor:
    """The loop of a step whose matrices have the form of `noria.compiler.matrix_form`.

    Attributes:
        split: the parts of the step.
        reverse: whether steps are taken from the last to the first.
        step: the matrices, and the places of the other arrays of the state.
        others: the loop of the other arrays: their next state, then the state before the step.
        coefficients: the graph from shared values, hoisted values and the other arrays to the
            arguments of `matrix_recurrence`. Each matrix has its arguments, then the offsets of its
            reads.
        counts: the number of outputs of ``coefficients`` for each matrix.
        constants: arrays that the coefficients close over.
    """

    split: Split
    reverse: bool
    step: MatrixStep
    others: Graph
    coefficients: Graph
    counts: tuple[int, ...]
    constants: Env

    time_major = True  # as `matrix_recurrence` takes its arrays

    @property
    def as_run(self) -> tuple[Graph, Graph]:
        return self.split.prologue, self.split.loop

    def stored(self, sizes: Sizes) -> Stored:
        """The hoisted values, and the state before each segment."""
        hoisted = tuple(v for v in self.split.hoisted if v in self.split.prologue.outputs)
        size = self._segment_steps(sizes)
        return Stored(hoisted, *((self.split.state, size) if size < sizes.time else ()))

    def __call__(
        self,
        sizes: Sizes,
        parameters: list[jax.Array],
        steps: list[jax.Array],
        state: list[jax.Array],
    ) -> Outputs:
        """Final state and emitted values; arguments as for `LoopExecutor`."""
        env, values = env_of(self.split.parameters, parameters), env_of(self.split.steps, steps)
        prologue = self.split.prologue
        values |= env_of(prologue.outputs, evaluate(prologue, env, values, sizes.axes))
        names = [v for v in self.split.hoisted if v in values]

        def segment(
            parameters: list[jax.Array],
            hoisted: list[jax.Array],
            state: list[jax.Array],
            time: int,
        ) -> Outputs:
            env = env_of(self.split.parameters, parameters) | self.constants
            return self._segment(env, env_of(names, hoisted), state, sizes._replace(time=time))

        size = self._segment_steps(sizes)
        chunks = Chunks(sizes.time, size, sizes.time_axis, self.reverse, sizes.mapped_axis)
        run = (
            functools.partial(segment, time=chunks.time)
            if chunks.is_one
            else checkpointed(segment, chunks, have_own_rules(self.split.loop), self.split.changes)
        )
        return run(parameters, [values[v] for v in names], state)

    def _segment_steps(self, sizes: Sizes) -> int:
        """The steps of a segment, whose gradient computes it again."""
        rows = math.prod(sizes.state_axes) * max(
            math.prod(self.split.state[m.index].aval.shape[:-2]) for m in self.step.matrices
        )
        return CHUNKING.segment(rows)

    infer = __call__  # JAX differentiates it, segment by segment

    def _segment(self, env: Env, values: Env, state: list[jax.Array], sizes: Sizes) -> Outputs:
        split, step = self.split, self.step
        final = list(state)
        if step.others:
            carry = [state[i] for i in step.others]
            names = tuple(split.state[i] for i in step.others)
            call = LoopCall(self.others, tuple(env), names, sizes, self.reverse)
            steps = {v: a for v, a in values.items() if v in self.others.inputs}
            found = scan.run(
                call, {v: env[v] for v in self.others.inputs if v in env}, steps, carry
            )
            values = values | env_of(names, found.emitted)
            for i, array in zip(step.others, found.carry, strict=True):
                final[i] = array
        arrays = iter(evaluate(self.coefficients, env, values, sizes.axes))
        for matrix, count in zip(step.matrices, self.counts, strict=True):
            given = [next(arrays) for _ in range(count)]
            final[matrix.index], reads = self._matrix(env, matrix, given, state[matrix.index])
            values = values | reads
        return final, [values[v] for v in split.emitted]

    def _matrix(
        self, env: Env, matrix: MatrixForm, given: list[jax.Array], start: jax.Array
    ) -> tuple[jax.Array, Env]:
        """The final matrix and the values of its reads."""
        reverse = (lambda a: jnp.flip(a, 0)) if self.reverse else (lambda a: a)
        arrays = iter(map(reverse, given))
        decay, write, value = next(arrays), next(arrays), next(arrays)
        feedback = next(arrays) if matrix.has_feedback else None
        query = next(arrays) if matrix.reads else None
        reset = next(arrays) if matrix.reset else None
        offsets = [next(arrays) for _ in matrix.reads]
        turned = (lambda a: jnp.swapaxes(a, -1, -2)) if matrix.key_last else (lambda a: a)
        initial = turned(jnp.asarray(env[matrix.initial])) if matrix.reset else None
        final, found = matrix_recurrence(
            decay,
            write,
            value,
            turned(start),
            feedback=feedback,
            read=query,
            reset=reset,
            initial=initial,
            chunking=CHUNKING,
        )
        reads: Env = {}
        place = 0
        for read, offset in zip(matrix.reads, offsets, strict=True):
            assert found is not None
            count = offset.shape[-2]
            array = found[..., place : place + count, :] + offset
            place += count
            reads[read.output] = reverse(_as_read(self.step, read, array))
        return turned(final), reads


def _as_read(step: MatrixStep, read: Read, array: jax.Array) -> jax.Array:
    """``(..., heads, reads, values)`` in the order of the axes that the value has in the cell."""
    sizes = step.algebra.sizes
    lead = array.ndim - len(read.heads) - 2
    # Heads without a label in the read have size 1.
    labels = [n for n in (*read.heads, *read.extra, read.value) if n in read.labels]
    array = array.reshape(*array.shape[:lead], *(sizes[label] for label in labels))
    order = [lead + labels.index(label) for label in read.labels]
    return array.transpose(*range(lead), *order).astype(read.output.aval.dtype)


# --- from a traced step -------------------------------------------------------------------------


def chunkwise_executor(traced: Traced, reverse: bool = False) -> ChunkwiseExecutor:
    """The loop of a step as a recurrence of matrices.

    Raises:
        NotChunkwise: if it is none.
    """
    step = matrix_step(traced)
    equations = (*traced.graph.equations, *step.algebra.equations)
    levels = dependence(equations, traced.levels)
    atoms = [*values_of(f.atom for m in step.matrices for f in m.factors())]
    split = _split(traced, step, equations, levels, atoms)
    known = (*split.shared, *split.hoisted, *(traced.state[i] for i in step.others))
    own = extract(equations, atoms, known)

    def coefficients(arrays: list[Any]) -> list[Any]:
        inner = env_of(known, arrays)
        inner |= env_of(atoms, own([inner[v] for v in own.inputs]))
        return [a for m in step.matrices for a in coefficients_of(inner, step, m, split)]

    graph, hidden, _ = graph_of(coefficients, list(map(struct, known)))
    first, inputs = graph.inputs[: len(hidden)], graph.inputs[len(hidden) :]
    graph = substitute(graph, env_of(inputs, known))
    graph = extract(graph.equations, graph.outputs, (*first, *known))
    names = [traced.state[i] for i in step.others]
    others = extract(
        equations,
        (*(traced.next_state[i] for i in step.others), *names),
        (*split.shared, *split.hoisted, *names),
    )
    counts = tuple(
        3 + m.has_feedback + bool(m.reads) + bool(m.reset) + len(m.reads) for m in step.matrices
    )
    return ChunkwiseExecutor(split, reverse, step, others, graph, counts, env_of(first, hidden))


def _split(
    traced: Traced,
    step: MatrixStep,
    equations: Sequence[Equation],
    levels: dict[Value, int],
    atoms: Sequence[Atom],
) -> Split:
    """The parts of a step. Every value that needs no state is hoisted."""

    def at(atom: Atom) -> int:
        return level_of(levels, atom)

    def invariant(*values: Any) -> tuple[Value, ...]:
        return tuple(v for v in values_of(values) if at(v) <= CONSTANT)

    others = [traced.state[i] for i in step.others]
    reads = [read.output for m in step.matrices for read in m.reads]
    given = (*invariant(*levels), *traced.steps)
    after = extract(traced.graph.equations, traced.emitted, (*given, *others, *reads))
    emitted = (*reads, *(v for v in others if v in after.inputs))
    # The coefficients and the other arrays of the state need these equations. Equations without the
    # state run in the prologue.
    following = tuple(traced.next_state[i] for i in step.others)
    needed = extract(equations, (*atoms, *following), (*given, *others))
    read = [v for e in needed.equations for v in e.inputs if at(e.outputs[0]) > INPUT]
    hoisted = tuple(v for v in values_of([*read, *atoms, *following]) if at(v) == INPUT)
    made = [v for v in hoisted if v not in traced.steps]
    prologue = extract(equations, made, given)
    starts = [m.initial for m in step.matrices if m.reset]
    shared = invariant(*read, *atoms, *starts, *following)
    loop = extract(
        traced.graph.equations, (*traced.next_state, *emitted), (*given, *hoisted, *traced.state)
    )
    parameters = invariant(*shared, *prologue.inputs)
    used = invariant(*parameters, *after.inputs, *loop.inputs)
    computed = [v for v in used if v not in traced.parameter_values]
    steps = {*prologue.inputs, *hoisted}
    return Split(
        extract(equations, computed, traced.parameter_values),
        prologue,
        loop,
        extract(traced.graph.equations, traced.emitted, (*given, *emitted)),
        traced.state,
        shared,
        hoisted,
        parameters,
        tuple(v for v in traced.steps if v in steps),
    )
