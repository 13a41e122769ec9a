"""A loop as a call of its kernel: planned and compiled, when the primitive is lowered."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.backends.native.carried_sums import with_carried_sums
from noria.backends.native.head_groups import with_head_groups
from noria.backends.native.loop import NativeLoop
from noria.backends.native.machine import Tuning, using
from noria.backends.native.plan.schedule import INPUTS, RESULTS, Schedule, schedule_of
from noria.backends.native.plan.stages import Slot
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.plan.work import divided
from noria.backends.native.runtime import handler, kernels
from noria.backends.native.unchanged import with_unchanged_steps
from noria.ir.graph import bytes_of_matrices, is_literal, size_in_bytes

#: Runs a kernel: ``run(kernel, sizes, arrays, results, scratch)``, arrays and their structs.
Run = Callable[[kernels.Kernel, np.ndarray, list[Any], list[Any], Any], list[Any]]


def by_xla(
    kernel: kernels.Kernel, sizes: np.ndarray, arrays: list[Any], results: list[Any], scratch: Any
) -> list[Any]:
    """The results of a kernel that a program of XLA calls."""
    run = jax.ffi.ffi_call(kernels.TARGET, [*results, scratch])
    return list(run(sizes, *arrays, kernel=kernel.name)[:-1])


def call_kernel(loop: NativeLoop, arrays: Sequence[Any], time: int, run: Run = by_xla) -> list[Any]:
    """The results of a loop, by machine code. ``arrays`` have shapes and ``swapaxes``."""
    last = functools.partial(_call, time=time, run=run, held=loop.kernels)
    call = functools.partial(with_unchanged_steps, time=time, run=last)
    by_heads = functools.partial(with_head_groups, time=time, run=call)
    return with_carried_sums(loop, arrays, time, by_heads)


def _call(
    loop: NativeLoop,
    arrays: Sequence[Any],
    time: int,
    run: Run,
    held: dict[str, kernels.Kernel],
) -> list[Any]:
    """The results of one kernel, which joins those that are ``held`` for the program."""
    batch, models = loop.batch(arrays), loop.models or 1
    if not time * batch * models:
        return loop(*arrays, time=time)
    weights = [v for v in loop.shared if v.aval.ndim > 1]
    is_known = all(v in loop.known for v in weights)
    limits = loop.tuning.for_call(time, batch, not is_known)
    few = limits.reads_in_place(time, batch, max(map(size_in_bytes, weights), default=0))
    once = time == 1 and not is_known
    schedule = _schedule(loop, limits, batch, has_blocks=not few and not once)
    division = divided(schedule, time, batch, models, limits)
    shares = division.shares
    batch_major = _batch_major(loop, schedule)
    staged: Sequence[Slot] = ()
    if min(time, batch) > 1 and not division.by_features:
        staged = _staged(loop, schedule, batch_major)
    unpacked = few and not is_known
    others = [slot for slot in batch_major if slot not in staged]
    plan = KernelPlan(schedule, loop.isa, division, unpacked, once, staged, others, limits)
    known = _weights(loop, plan)
    if plan.panel_bytes and known is not None:
        plan.take_panels()
    block = plan.block_steps(time, batch)
    one_by_one = models >= shares
    bytes_ = plan.scratch_bytes(batch, block, 1 if one_by_one else shares)
    scratch = jax.ShapeDtypeStruct((bytes_ * (shares if one_by_one else 1),), jnp.uint8)
    by_model = loop.by_model
    given, wanted = (
        [slot in others and slot not in plan.by_example for slot in slots]
        for slots in (plan.schedule.buffers(INPUTS), schedule.buffers(RESULTS))
    )
    of_results = [loop.models is not None] * len(wanted)
    results = jax.eval_shape(
        functools.partial(_swapped, which=wanted, by_model=of_results), loop.structs(time, batch)
    )
    kernel = kernels.kernel_of(plan, loop.isa)
    held[kernel.name] = kernel
    if plan.given_panels is not None and known is not None:
        if shares > 1:
            kernels.helpers().start()
        panels, place = kernels.packed(kernel, plan, known), len(loop.shared)
        arrays = (*arrays[:place], panels, *arrays[place:])
        by_model = [*by_model[:place], False, *by_model[place:]]
    sizes = handler.sizes(time, batch, loop.call.reverse, block, shares, models, by_model)
    found = run(kernel, sizes, _swapped(arrays, given, by_model), results, scratch)
    return _swapped(found, wanted, of_results)


def _schedule(loop: NativeLoop, limits: Tuning, batch: int, *, has_blocks: bool) -> Schedule:
    """The schedule of a step, and whether products may be computed for a time block."""
    call = loop.call
    matrices = bytes_of_matrices((*call.state, *loop.unchanged))
    with using(limits):
        return schedule_of(
            call.graph,
            loop.shared,
            loop.steps,
            call.state,
            call.accumulators,
            loop.previous,
            loop.unchanged,
            lambda weight, all_weights: (
                has_blocks
                and limits.prefer_block(weight, all_weights, batch, matrices, loop.isa.has_unit)
            ),
        )


def _weights(loop: NativeLoop, plan: KernelPlan) -> dict[int, np.ndarray] | None:
    """The arrays of all weights by number, if they are known."""
    numbers = {dot.weight for dot in plan.schedule.dots.values()}
    if not all(loop.shared[n] in loop.known for n in numbers):
        return None
    return {n: loop.known[loop.shared[n]] for n in numbers}


def _batch_major(loop: NativeLoop, schedule: Schedule) -> list[Slot]:
    """The buffers whose arrays have the batch in front."""
    steps = zip(schedule.buffers(("step",)), loop.steps, strict=True)
    others = (*loop.time_major, *loop.unchanged)
    found = [slot for slot, value in steps if value not in others]
    one, two, _ = loop.call.ends
    return found + schedule.buffers(("emitted",))[: two - one]


def _staged(loop: NativeLoop, schedule: Schedule, batch_major: Sequence[Slot]) -> list[Slot]:
    """The batch-major buffers with a staging buffer: all but operands of a time block."""
    blocks = {(p.source.kind, p.source.number) for p in schedule.prologue}
    blocks |= {(p.target.kind, p.target.number) for p in schedule.epilogue}
    # A number is stored once for all steps, so nothing is staged.
    one = loop.call.ends[0]
    outputs = loop.call.graph.outputs
    return [
        slot
        for slot in batch_major
        if (slot.kind, slot.number) not in blocks
        and not (slot.kind == "emitted" and is_literal(outputs[one + slot.number]))
    ]


def _swapped(arrays: Sequence[Any], which: Sequence[bool], by_model: Sequence[bool]) -> list[Any]:
    """Some of the arrays with batch and time exchanged; the axis of models stays in front."""
    return [
        a.swapaxes(int(models), int(models) + 1) if swap else a
        for a, swap, models in zip(arrays, which, by_model, strict=True)
    ]
