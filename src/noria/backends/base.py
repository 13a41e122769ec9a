"""The interfaces of backends: `Problem` from a layer, `LoopCall` from the compiler.

Arrays of all steps have the axes ``(batch, time, ...)``, without ``batch`` for one example. A loop
backend may ask for time first: then `Sizes` gives this order for all arrays of its loops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._jax import ShapedArray
from noria._types import State
from noria.ir.graph import Env, Equation, Graph, Value


class Problem(eqx.Module):
    """A cell, sequences, and the direction of time: the arguments of a backend.

    Attributes:
        cell: transition and emission of one example and one step.
        initial_state: the state of one example that a reset puts back.
        carry: the state before the first step, with a batch axis if ``batched``; ``None`` for the
            initial state.
        xs: pytree of ``(time, ...)`` or ``(batch, time, ...)``.
        lengths: ``()`` or ``(batch,)`` valid steps, or ``None``.
        resets: ``(time,)`` or ``(batch, time)``, true where the initial state is put back before
            the step is taken, or ``None``.
        keywords: arrays of all steps that the cell takes by name: ``key``, ``t`` and ``dt``.
        context: pytree of ``(...)`` or ``(batch, ...)``, the same at all steps, or ``None``.
        batched: whether there is a batch axis.
        reverse: whether steps are taken from the last to the first.
        label: the layer in messages.
    """

    cell: Callable[..., Any]
    initial_state: State
    carry: State
    xs: Any
    lengths: jax.Array | None
    resets: jax.Array | None
    keywords: dict[str, Any]
    context: Any
    batched: bool = eqx.field(static=True)
    reverse: bool = eqx.field(static=True)
    label: str = eqx.field(static=True)


#: A number, or a symbolic size of `jax.export`, whose type is not public.
Size: TypeAlias = Any


class Sizes(NamedTuple):
    """The sizes of time and batch, and the order of these axes in arrays of all steps."""

    time: Size
    batch: Size | None = None
    time_major: bool = False

    @property
    def axes(self) -> tuple[Size, ...]:
        """The leading axes of an array of all steps."""
        if self.batch is None:
            return (self.time,)
        return (self.time, self.batch) if self.time_major else (self.batch, self.time)

    @property
    def time_axis(self) -> int:
        return 0 if self.time_major or self.batch is None else 1

    @property
    def mapped_axis(self) -> int:
        """The place where `jax.vmap` puts an axis of a stacked array."""
        return int(self.time_major)

    @property
    def state_axes(self) -> tuple[int, ...]:
        """The leading axes of an array of the state."""
        return () if self.batch is None else (self.batch,)


# --- arrays of all steps ------------------------------------------------------------------------


class TimeMajor(NamedTuple):
    """An array of all steps with time in front, independent of the order in `Sizes`.

    A loop may return residuals in the order in which it computes them. The reverse loop reads
    them in this order, so they are never transposed.
    """

    array: jax.Array


class PreviousStep(NamedTuple):
    """An array of all steps, read one step late: a step reads the element of the loop's next step.

    The last step of the loop reads ``boundary``. At each step, the reverse loop reads the state
    before the step in this way, from the next states that the forward loop stacked.
    """

    array: Any
    boundary: jax.Array


class Unchanged(NamedTuple):
    """An array without an axis of time: it is the same at all steps."""

    array: jax.Array


def in_time_order(array: Any, sizes: Sizes, reverse: bool) -> jax.Array:
    """An array of all steps with time in front, as a loop reads it."""
    if isinstance(array, Unchanged):
        return jnp.broadcast_to(array.array, (sizes.time, *array.array.shape))
    if isinstance(array, PreviousStep):
        whole, boundary = in_time_order(array.array, sizes, reverse), array.boundary[None]
        if reverse:
            return jnp.concatenate([boundary, whole])[:-1]
        return jnp.concatenate([whole, boundary])[1:]
    return array.array if isinstance(array, TimeMajor) else swapped(array, sizes)


def in_order(array: Any, sizes: Sizes, reverse: bool) -> jax.Array:
    """An array of all steps with its axes in the order of ``sizes``, as a loop reads it."""
    if not isinstance(array, PreviousStep | TimeMajor | Unchanged):
        return array
    return swapped(in_time_order(array, sizes, reverse), sizes)


def swapped(array: jax.Array, sizes: Sizes) -> jax.Array:
    """From the order of ``sizes`` to time in front, or back."""
    return jnp.swapaxes(array, 0, 1) if sizes.time_axis else array


# --- accumulators -------------------------------------------------------------------------------


def grouped(operands: Sequence[Any], counts: Sequence[int]) -> list[tuple[Any, ...]]:
    """Group operands by accumulator; each has one or two."""
    rest = iter(operands)
    return [tuple(next(rest) for _ in range(count)) for count in counts]


def aval_of_total(operands: Sequence[Value]) -> Any:
    """Shape and dtype of an accumulator with these operands in each step and example."""
    shape = (
        operands[0].aval.shape if len(operands) == 1 else tuple(v.aval.shape[0] for v in operands)
    )
    return ShapedArray(shape, operands[0].aval.dtype)


def total(operands: Sequence[jax.Array], axes: int = 2) -> jax.Array:
    """The sum of an array over its first axes, or of the outer products of the vectors of two."""
    summed = tuple(range(axes))
    first, *others = operands
    if not others:
        return first.sum(summed)
    return jax.lax.dot_general(first, others[0], ((summed, summed), ((), ())), precision="highest")


# --- loops --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LoopCall:
    """A loop, forward or reverse: the argument of a loop backend.

    Attributes:
        graph: one step of one example. Its inputs are among ``shared`` and ``state``; all others
            are read from arrays of all steps. Its outputs are the next state, the emitted values,
            the residuals, and the operands of the accumulators, in this order.
        shared: values that are the same for all steps and examples.
        state: values that the first outputs replace at the next step.
        sizes: of time and batch.
        reverse: whether steps are taken from the last to the first.
        residuals: the number of residuals: arrays that only a later loop reads.
        accumulators: the number of operands of each accumulator. It sums one value, or the outer
            product of two vectors, over steps and examples.
        derive: makes a loop without accumulators a function with the derivative rules of the
            compiler. Only derivatives of higher order need it.
    """

    graph: Graph
    shared: tuple[Value, ...]
    state: tuple[Value, ...]
    sizes: Sizes
    reverse: bool
    residuals: int = 0
    accumulators: tuple[int, ...] = ()
    derive: "Callable[[LoopCall], RunArrays] | None" = None

    @property
    def steps(self) -> list[Value]:
        """The inputs that are read from arrays of all steps."""
        known = {*self.shared, *self.state}
        return [v for v in self.graph.inputs if v not in known]

    @property
    def ends(self) -> tuple[int, int, int]:
        """The ends of state, emitted values and residuals among the outputs."""
        end = len(self.graph.outputs) - sum(self.accumulators)
        return len(self.state), end - self.residuals, end

    def carrying(self, values: Sequence[Value]) -> "LoopCall":
        """The loop with those of ``values`` that it reads in its state, where they never change."""
        read = tuple(v for v in values if v in self.graph.inputs)
        width, outputs = len(self.state), self.graph.outputs
        graph = replace(self.graph, outputs=(*outputs[:width], *read, *outputs[width:]))
        return replace(self, graph=graph, state=(*self.state, *read))

    def result(self, outputs: Sequence[Any]) -> "LoopResult":
        """The outputs by kind; accumulators are the last, in place of their operands."""
        one, two, three = self.ends
        return LoopResult(
            list(outputs[:one]),
            list(outputs[one:two]),
            list(outputs[two:three]),
            list(outputs[three:]),
        )


class LoopResult(NamedTuple):
    """The final state, arrays of all steps, residuals (which may be `TimeMajor`), accumulators."""

    carry: list[Any]
    emitted: list[Any]
    residuals: list[Any]
    accumulated: list[Any]


#: ``(sizes, shared values, arrays of all steps, state) -> (final state, emitted values)``.
RunArrays = Callable[
    [Sizes, list[jax.Array], list[jax.Array], list[jax.Array]],
    tuple[list[jax.Array], list[jax.Array]],
]

#: ``(arrays of the shared values, arrays of all steps, state) -> results``.
RunLoop = Callable[[Env, Env, list[jax.Array]], LoopResult]


class LoopBackend(Protocol):
    """An implementation of loops: ``BACKEND`` of a module that `noria.backends` names.

    Attributes:
        merit: the reason for its choice by ``backend="auto"``.
        time_major: whether arrays of all steps have time in front.
        packs_weights: whether it packs weights itself; if not, the compiler transposes them.
        reads_previous_step: whether arrays of all steps may be `PreviousStep`.
        keeps_delays: whether delays and windows of the state stay in the loop, where they are in
            cache; if not, they become arrays of all steps.
        carries_context: whether matrices of each example that no step changes are in the state; if
            not, the loop of one example has them as parameters, and is mapped over the batch.
        slices_in_loop: whether the loop may slice a hoisted value; if not, slices are hoisted.
        can_accumulate: whether an accumulator may contain an equation; ``None`` for a backend
            without accumulators. Then stacked operands are contracted after the loop.
    """

    merit: str
    time_major: bool
    packs_weights: bool
    reads_previous_step: bool
    keeps_delays: bool
    carries_context: bool
    slices_in_loop: bool
    can_accumulate: Callable[[Equation], bool] | None

    def obstacles(self, call: LoopCall) -> tuple[str, ...]:
        """All reasons why the backend cannot run a loop; none if it can."""
        ...

    def prepare(self, call: LoopCall) -> RunLoop:
        """The loop as a function of arrays, for a call that is supported."""
        ...

    def has_code(self, equation: Equation) -> bool:
        """Whether the loop may contain a product."""
        ...

    def should_hoist(
        self, equation: Equation, given: Sequence[Value], batch: Size, light: bool
    ) -> bool:
        """Whether to hoist a product of the input.

        Args:
            equation: the product.
            given: the input of a step, before any equation.
            batch: the number of examples.
            light: whether the loop has no product of the state.
        """
        ...

    def should_keep(self, equation: Equation, batch: Size) -> bool:
        """Whether a product of the state with a parameter that is only emitted stays."""
        ...

    def should_repeat(self, equation: Equation, batch: Size) -> bool:
        """Whether a single step computes what depends on parameters alone, for each example."""
        ...

    def prefers_single_step(self, rows: int) -> bool:
        """Whether one step of ``rows`` examples is faster here than as operations of XLA."""
        ...

    def recomputes(self, state: Sequence[Value]) -> bool:
        """Whether the backward pass of a loop that changes ``state`` may compute residuals again.

        Then the loop of a gradient should have no product with a parameter.
        """
        ...

    def segment_steps(self, stored: int, passed: int, time: int) -> int:
        """The steps of a segment whose residuals the backward pass computes again.

        All steps if it is faster to store the residuals.

        Args:
            stored: bytes of the residuals of a step.
            passed: bytes that a step reads and emits.
            time: all steps.
        """
        ...
