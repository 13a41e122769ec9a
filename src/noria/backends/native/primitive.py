"""A native loop as a JAX primitive: with rules for `jax.vmap`, `jax.jvp`, dead code and devices.

The primitive is planned and compiled when it is lowered, after JAX has removed dead code. Other
devices than CPUs run a scan. The derivative is the derivative of the scan; only derivatives of
higher order use it.
"""

import functools
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._flags import put, scatter
from noria._jax import LinearMap, Rows, primitive, tangent_type
from noria.backends import scan
from noria.backends.base import (
    LoopCall,
    PreviousStep,
    Sizes,
    TimeMajor,
    aval_of_total,
    grouped,
    total,
)
from noria.backends.native.lower.supported import UnsupportedEquation
from noria.backends.native.lower.tangent import tangent_loop
from noria.backends.native.machine import Isa, Tuning, using
from noria.backends.native.plan.schedule import INPUTS, RESULTS, Schedule, schedule_of
from noria.backends.native.plan.stages import Slot
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.plan.work import block_steps, shares_of
from noria.backends.native.runtime import handler, kernels
from noria.ir.build import Unsupported
from noria.ir.cotangents import instantiate
from noria.ir.graph import Value, is_literal, size_in_bytes
from noria.ir.passes import extract

_log = logging.getLogger("noria")


class NativeLoop:
    """A loop over a batch: the parameter of the primitive, ``arrays -> results``.

    The arrays are those of the shared values, of all steps, the boundaries of the ``previous``
    ones, and the state. The results are the final state, emitted values, residuals, accumulators.

    Attributes:
        call: the loop, with the sizes of the trace; arrays may have others.
        shared: the shared values that the loop reads.
        steps: the values that it reads from arrays of all steps.
        previous: ``steps`` that are read as `PreviousStep`.
        time_major: ``steps`` whose arrays have time in front. Other arrays and emitted values have
            the batch in front; residuals have time in front.
        isa: the instruction set, and
        tuning: the thresholds, both of the time of the trace: the code is made later, when others
            may hold.
        known: arrays of shared values that are constants of the program; their weights are packed
            when it is lowered.
    """

    def __init__(
        self,
        call: LoopCall,
        previous: tuple[Value, ...],
        time_major: frozenset[Value],
        isa: Isa,
        tuning: Tuning,
        known: dict[Value, np.ndarray],
    ) -> None:
        inputs = {*call.graph.inputs}
        self.call = call
        self.shared = [v for v in call.shared if v in inputs]
        self.steps = call.steps
        self.previous, self.time_major = previous, time_major
        self.isa, self.tuning, self.known = isa, tuning, known
        #: The requested kernels. An executable holds them too, but only once it is compiled.
        self.kernels: dict[str, kernels.Kernel] = {}

    def __reduce__(self) -> Any:
        """Pickle an empty object: serializing a program pickles its loops, without kernels."""
        return object, ()

    def __call__(self, arrays: Sequence[Any], time: int) -> list[jax.Array]:
        return list(_native.bind(*arrays, call=self, time=time))

    # --- variants -------------------------------------------------------------------------------

    def without_accumulation(self) -> "NativeLoop":
        """The same loop, with the operands of the accumulators emitted."""
        outputs, (_, two, three) = self.call.graph.outputs, self.call.ends
        graph = replace(
            self.call.graph, outputs=(*outputs[:two], *outputs[three:], *outputs[two:three])
        )
        return self._with(replace(self.call, graph=graph, accumulators=()))

    def prune_outputs(self, used: Sequence[bool]) -> tuple["NativeLoop", list[bool]]:
        """The loop without unused outputs, and flags of the inputs it needs. All state stays."""
        call, (one, two, three) = self.call, self.call.ends
        flags = call.result(used)
        outputs = call.graph.outputs
        operands = itertools.compress(
            grouped(outputs[three:], call.accumulators), flags.accumulated
        )
        kept = (
            *outputs[:one],
            *itertools.compress(outputs[one:two], flags.emitted),
            *itertools.compress(outputs[two:three], flags.residuals),
            *itertools.chain(*operands),
        )
        graph = extract(call.graph.equations, kept, call.graph.inputs)
        counts = tuple(itertools.compress(call.accumulators, flags.accumulated))
        pruned = replace(call, graph=graph, residuals=sum(flags.residuals), accumulators=counts)
        inputs = {*graph.inputs}
        needs = [v in inputs for v in (*self.shared, *self.steps, *self.previous)]
        return self._with(pruned), needs + [True] * len(call.state)

    def _with(self, call: LoopCall) -> "NativeLoop":
        inputs = {*call.graph.inputs}
        previous = tuple(v for v in self.previous if v in inputs)
        known = {v: a for v, a in self.known.items() if v in inputs}
        time_major = self.time_major & inputs
        return NativeLoop(call, previous, time_major, self.isa, self.tuning, known)

    # --- arrays ---------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """The axis of the batch in each array and in each result."""
        _, two, three = self.call.ends
        steps = [1 if v in self.time_major else 0 for v in self.steps]
        count = len(self.previous) + len(self.call.state)
        residuals, sums = [1] * (three - two), [None] * len(self.call.accumulators)
        return Rows(
            [*[None] * len(self.shared), *steps, *[0] * count], [*[0] * two, *residuals, *sums]
        )

    def batch(self, arrays: Sequence[Any]) -> int:
        return int(arrays[-1].shape[0])  # there is a state

    def structs(self, time: int, batch: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the results."""
        outputs, (one, two, three) = self.call.graph.outputs, self.call.ends
        axes: list[tuple[int, ...]] = [(batch,)] * one
        axes += [(batch, time)] * (two - one) + [(time, batch)] * (three - two)
        avals = [v.aval for v in outputs[:three]]
        avals += map(aval_of_total, grouped(outputs[three:], self.call.accumulators))
        axes += [()] * len(self.call.accumulators)
        return [
            jax.ShapeDtypeStruct((*front, *aval.shape), aval.dtype)
            for front, aval in zip(axes, avals, strict=True)
        ]

    # --- tangents -------------------------------------------------------------------------------

    @property
    def mapped_axes(self) -> list[int]:
        """The place where `jax.vmap` puts an axis of each result."""
        _, two, three = self.call.ends
        return [0] * two + [1] * (three - two) + [0] * len(self.call.accumulators)

    def push(self, primals: Sequence[Any], tangents: Sequence[Any], time: int) -> list[jax.Array]:
        """The tangents of the inexact results; of the arrays, ``None`` for zero.

        Raises:
            UnsupportedEquation: if there is no native code for them.
            Unsupported: if the derivative of a step is no graph.
        """
        given = [*zip(self._inputs(), primals, tangents, strict=True)]
        made = tangent_loop(self.call, {v for (v, _), _, t in given if t is not None})
        tangent_of = made.tangent_of
        arrays = dict(zip(self._inputs(), primals, strict=True))
        for (value, kind), primal, tangent in given:
            if value in tangent_of:
                moved = jnp.zeros_like(primal) if tangent is None else tangent
                arrays[tangent_of[value], kind] = moved
        previous = *self.previous, *(tangent_of[v] for v in self.previous if v in tangent_of)
        time_major = self.time_major | {tangent_of[v] for v in self.time_major & {*tangent_of}}
        loop = NativeLoop(made.call, previous, time_major, self.isa, self.tuning, self.known)
        loop = loop._with(made.call)
        results = loop([arrays[name] for name in loop._inputs()], time)
        structs = self.structs(time, self.batch(primals))
        smooth = [s for s in structs if jnp.issubdtype(s.dtype, jnp.inexact)]
        return [
            sum((results[n] for n in some), jnp.zeros(like.shape, like.dtype))
            for some, like in zip(made.parts, smooth, strict=True)
        ]

    def _inputs(self) -> list[tuple[Value, bool]]:
        """The values of the arrays; true for the boundary of a value."""
        whole = ((v, False) for v in (*self.shared, *self.steps))
        late, state = ((v, True) for v in self.previous), ((v, False) for v in self.call.state)
        return [*whole, *late, *state]

    # --- lowering -------------------------------------------------------------------------------

    def lower_scan(self, *arrays: Any, time: int) -> list[Any]:
        """The loop as a scan."""
        rest = iter(arrays)
        env = {v: next(rest) for v in self.shared}
        steps: dict[Value, Any] = {v: next(rest) for v in self.steps}
        steps |= {v: TimeMajor(steps[v]) for v in self.time_major}
        steps |= {v: PreviousStep(steps[v], next(rest)) for v in self.previous}
        call = replace(self.call, sizes=Sizes(time, self.batch(arrays)))
        found = scan.run(call, env, steps, list(rest))
        residuals = [a.array for a in found.residuals]
        return [*found.carry, *found.emitted, *residuals, *found.accumulated]

    def lower_native(self, *arrays: Any, time: int) -> list[Any]:
        """Plan and compile the loop: machine code."""
        batch, limits = self.batch(arrays), self.tuning
        if not time * batch:
            return self.lower_scan(*arrays, time=time)
        few = time * batch <= limits.unpacked_rows
        is_known = all(v in self.known for v in self.shared if v.aval.ndim > 1)
        matrices = sum(size_in_bytes(v) for v in self.call.state if v.aval.ndim > 1)
        with using(limits):
            schedule = schedule_of(
                self.call.graph,
                self.shared,
                self.steps,
                self.call.state,
                self.call.accumulators,
                self.previous,
                lambda weight: not few and limits.prefer_block(weight, batch, matrices),
            )
        shares, by_features = shares_of(schedule, time, batch, limits)
        batch_major = self._batch_major(schedule)
        is_staged = min(time, batch) > 1 and not by_features
        staged = self._staged(schedule, batch_major) if is_staged else ()
        unpacked = few and not is_known
        plan = KernelPlan(schedule, self.isa, by_features, unpacked, staged, limits)
        weights = self._weights(plan)
        if plan.panel_bytes and weights is not None:
            plan.take_panels()
        block = block_steps(plan, time, batch, limits)
        scratch = jax.ShapeDtypeStruct((plan.scratch_bytes(batch, block),), jnp.uint8)
        sizes = handler.sizes(time, batch, self.call.reverse, block, shares)
        given, wanted = (
            [slot in batch_major and slot not in plan.staged for slot in slots]
            for slots in (plan.schedule.buffers(INPUTS), schedule.buffers(RESULTS))
        )
        results = jax.eval_shape(
            functools.partial(_swapped, which=wanted), self.structs(time, batch)
        )
        kernel = kernels.kernel_of(plan, self.isa)
        self.kernels[kernel.name] = kernel
        if plan.given_panels is not None and weights is not None:
            panels = kernels.packed(kernel, plan, weights)
            arrays = (*arrays[: len(self.shared)], panels, *arrays[len(self.shared) :])
        run = jax.ffi.ffi_call(kernels.TARGET, [*results, scratch])
        return _swapped(run(sizes, *_swapped(arrays, given), kernel=kernel.name)[:-1], wanted)

    def _weights(self, plan: KernelPlan) -> dict[int, np.ndarray] | None:
        """The arrays of all weights by number, if they are known."""
        numbers = {dot.weight for dot in plan.schedule.dots.values()}
        if not all(self.shared[n] in self.known for n in numbers):
            return None
        return {n: self.known[self.shared[n]] for n in numbers}

    def _batch_major(self, schedule: Schedule) -> list[Slot]:
        """The buffers whose arrays have the batch in front."""
        steps = zip(schedule.buffers(("step",)), self.steps, strict=True)
        found = [slot for slot, value in steps if value not in self.time_major]
        one, two, _ = self.call.ends
        return found + schedule.buffers(("emitted",))[: two - one]

    def _staged(self, schedule: Schedule, batch_major: Sequence[Slot]) -> list[Slot]:
        """The batch-major buffers with a staging buffer: all but operands of a time block."""
        blocks = {(p.source.kind, p.source.number) for p in schedule.prologue}
        blocks |= {(p.target.kind, p.target.number) for p in schedule.epilogue}
        # A number is stored once for all steps, so nothing is staged.
        one = self.call.ends[0]
        outputs = self.call.graph.outputs
        return [
            slot
            for slot in batch_major
            if (slot.kind, slot.number) not in blocks
            and not (slot.kind == "emitted" and is_literal(outputs[one + slot.number]))
        ]


def _swapped(arrays: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    """Some of the arrays with batch and time exchanged."""
    return [jnp.swapaxes(a, 0, 1) if swap else a for a, swap in zip(arrays, which, strict=True)]


# --- rules --------------------------------------------------------------------------------------


def _shapes(*arrays: Any, call: NativeLoop, time: int) -> list[jax.ShapeDtypeStruct]:
    return call.structs(time, call.batch(arrays))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: NativeLoop, time: int) -> Any:
    """The tangents are results of another loop; a scan is transposed in reverse mode."""
    results = _native.bind(*primals, call=call, time=time)
    smooth = [bool(jnp.issubdtype(a.dtype, jnp.inexact)) for a in results]
    moved = [t is not None for t in tangents]

    def smooth_results(primals: Sequence[Any], some: Sequence[Any]) -> list[Any]:
        found = call.lower_scan(*put(primals, moved, some), time=time)
        return [*itertools.compress(found, smooth)]

    def push(primals: list[Any], tangents: list[Any]) -> list[Any]:
        try:
            return call.push(primals, scatter(tangents, moved), time)
        except (UnsupportedEquation, Unsupported) as reason:
            _log.debug("the tangents of a loop are those of a scan: %s", reason)
            given = [*itertools.compress(primals, moved)]
            return jax.jvp(functools.partial(smooth_results, primals), (given,), (tangents,))[1]

    def pull(primals: list[Any], cotangents: list[Any]) -> list[Any]:
        given = [*itertools.compress(primals, moved)]
        return jax.vjp(functools.partial(smooth_results, primals), given)[1](
            [*map(instantiate, cotangents)]
        )[0]

    kinds = map(tangent_type, itertools.compress(results, smooth))
    linear = LinearMap(
        push, pull, tuple(kinds), tuple(itertools.compress(call.mapped_axes, smooth))
    )
    found = linear(primals, [*itertools.compress(tangents, moved)])
    return results, scatter(found, smooth)


def _without_unused(
    used: list[bool], *, call: NativeLoop, time: int
) -> tuple[list[bool], list[bool], dict[str, Any]]:
    """Dead-code elimination: unused outputs are not computed, except the final state."""
    width = len(call.call.state)
    call, needs = call.prune_outputs(used)
    return needs, [n < width or is_used for n, is_used in enumerate(used)], {"call": call}


def _batched(arrays: Sequence[Any], axes: Sequence[Any], *, call: NativeLoop, time: int) -> Any:
    """One larger batch; or if weights are mapped, one call after the other."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = [axis is not None for axis in axes]
    arrays = [
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]
    if any(mapped[: len(call.shared)]):

        def one(pieces: list[Any]) -> Any:
            rest = iter(pieces)
            some = [next(rest) if m else a for m, a in zip(mapped, arrays, strict=True)]
            return _native.bind(*some, call=call, time=time)

        outputs = jax.lax.map(one, [a for m, a in zip(mapped, arrays, strict=True) if m])
        return outputs, [0] * len(outputs)
    folded = [
        a if row is None else _fold(a, m, count, row)
        for a, m, row in zip(arrays, mapped, call.rows().arrays, strict=True)
    ]
    opened = call.without_accumulation()
    batch = arrays[-1].shape[int(mapped[-1])]  # a state; there can be no examples
    found = opened.call.result(opened(folded, time))
    carry, emitted = ([a.reshape(count, batch, *a.shape[1:]) for a in some] for some in found[:2])
    residuals = [a.reshape(time, count, batch, *a.shape[2:]) for a in found.residuals]
    end = len(emitted) - sum(call.call.accumulators)
    operands = grouped(emitted[end:], call.call.accumulators)
    totals = [jax.vmap(total)(some) for some in operands]
    places = [0] * (len(carry) + end) + [1] * len(residuals) + [0] * len(totals)
    return [*carry, *emitted[:end], *residuals, *totals], places


def _fold(a: Any, is_mapped: bool, count: int, axis: int) -> Any:
    """The mapped axis, in front, becomes part of the batch axis."""
    a = a if is_mapped else jnp.broadcast_to(a, (count, *a.shape))
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], math.prod(a.shape[axis : axis + 2]), *a.shape[axis + 2 :])


_native = primitive(
    "noria_native_loop",
    shapes=_shapes,
    jvp=_jvp,
    dce=_without_unused,
    batch=_batched,
    portable=lambda *arrays, call, time: call.lower_scan(*arrays, time=time),
    cpu=lambda *arrays, call, time: call.lower_native(*arrays, time=time),
    rows=lambda *, call, time: call.rows(),
)
