"""The loop backend: the loops with native code, and their form as a primitive."""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from noria._jax import is_known, is_symbolic
from noria.backends.base import LoopCall, LoopResult, PreviousStep, RunLoop, Size, TimeMajor
from noria.backends.native.loop import NativeLoop
from noria.backends.native.lower.convolutions import convolution, kernels_outside
from noria.backends.native.lower.legalize import legal_step
from noria.backends.native.lower.matrices import on_rows
from noria.backends.native.lower.precision import (
    graph_in_32_bits,
    has_bfloat16,
    in_32_bits,
    of_types,
)
from noria.backends.native.lower.small_matrices import Refused, in_pieces
from noria.backends.native.lower.supported import (
    UnsupportedEquation,
    has_native_code,
    has_row_code,
)
from noria.backends.native.machine import NoSuchMachine, tuning
from noria.backends.native.primitive import run
from noria.backends.native.runtime import header
from noria.backends.native.runtime.target import chosen
from noria.ir.build import build
from noria.ir.graph import (
    Env,
    Equation,
    Graph,
    Value,
    bytes_of_matrices,
    env_of,
    size,
    size_in_bytes,
    values_of,
)
from noria.ir.primitives import ELEMENTWISE, is_contraction
from noria.ir.reasons import Reason


def _can_accumulate(equation: Equation) -> bool:
    has_code = has_native_code(equation) or has_row_code(equation)
    return has_code or (equation.name in ELEMENTWISE and on_rows(equation) is not None)


class Native:
    """See `noria.backends.base.LoopBackend`.

    Arrays of all steps have the batch in front, as the caller's do: the kernel reads and writes
    them in place. Residuals have time in front, as a step reads them.
    """

    merit = Reason.FASTEST()
    time_major = False
    packs_weights = True
    reads_previous_step = True
    keeps_delays = True
    carries_context = True
    slices_in_loop = True
    can_accumulate: Callable[[Equation], bool] | None = staticmethod(_can_accumulate)

    def obstacles(self, call: LoopCall) -> tuple[str, ...]:
        if is_symbolic(*call.sizes.axes):
            return (Reason.SYMBOLIC(sizes=call.sizes.axes),)
        if jax.default_backend() != "cpu":
            return (Reason.DEVICE(device=jax.default_backend()),)
        if not call.state:
            return (Reason.NO_STATE(),)
        try:
            header.api_version()
            chosen()
            _check(call)
        except NoSuchMachine as reason:
            return (str(reason),)
        except UnsupportedEquation as error:
            return error.obstacles
        return ()

    def prepare(self, call: LoopCall) -> RunLoop:
        return functools.partial(_run, call)

    def has_code(self, equation: Equation) -> bool:
        if equation.name == "conv_general_dilated":
            return convolution(equation) is not None
        return _is_in_step(equation)

    def should_hoist(
        self, equation: Equation, given: Sequence[Value], batch: Size, light: bool
    ) -> bool:
        """Whether to hoist a product of the input; there are four cases.

        A convolution stays beside a product of the state. Its result for all steps would be many
        times larger than the input, and costs more to store than to compute.

        A product without native code leaves the loop, and so does any if the batch is symbolic. A
        product of the input itself stays: the kernel computes it for a time block, or in the step.
        A product of a computed value leaves the loop where a time block would be faster than the
        step. The kernel has time blocks for products of the input itself only.
        """
        if equation.name == "conv_general_dilated" and not is_symbolic(batch):
            return light or not self.has_code(equation)
        if is_symbolic(batch) or not self.has_code(equation):
            return True
        weight = max(map(size_in_bytes, equation.inputs))
        return tuning().prefer_block(weight, weight, batch) and not any(
            v in given for v in values_of(equation.inputs)
        )

    def should_keep(self, equation: Equation, batch: Size) -> bool:
        """Whether the product runs at full speed in the step, where its operands are in cache.

        After the loop its operand goes through memory. In training XLA also transposes the
        cotangents of all steps.
        """
        if is_symbolic(batch) or batch < tuning().read_out_examples:
            return False
        weight = max(map(size_in_bytes, equation.inputs))
        return _is_in_step(equation) and weight <= tuning().cached_weight_bytes

    def should_repeat(self, equation: Equation, batch: Size) -> bool:
        """Element-wise work of few examples: beside the kernel each operation is a call."""
        if is_symbolic(batch) or is_contraction(equation) or not _can_accumulate(equation):
            return False
        numbers = sum(map(size, equation.outputs))
        return batch * numbers <= tuning().repeated_numbers

    def prefers_single_step(self, rows: int) -> bool:
        """For up to some rows: one call replaces many operations, and XLA packs weights too."""
        return rows <= tuning().step_rows

    def recomputes(self, state: Sequence[Value]) -> bool:
        """A matrix takes longer to store than to compute."""
        return bytes_of_matrices(state) >= tuning().matrix_state_bytes

    def segment_steps(self, stored: int, passed: int, time: int) -> int:
        """Few enough that the residuals stay in the cache from the forward to the reverse loop."""
        now = tuning()
        if stored < now.recomputed_ratio * passed or stored * time <= now.stored_bytes:
            return time
        return max(now.segment_steps, now.segment_bytes // stored)


BACKEND = Native()


def _is_in_step(equation: Equation) -> bool:
    """Whether there is code for a product of one step."""
    return has_native_code(equation) or _has_pieces(equation)


def _has_pieces(equation: Equation) -> bool:
    """Whether a product for each head becomes products of vectors with parts of a weight."""
    ranks = [v.aval.ndim for v in equation.inputs]
    if equation.name != "dot_general" or sorted(ranks) != [2, 3]:
        return False
    try:
        build(in_pieces(equation, [rank == 3 for rank in ranks]), equation.inputs, None)
    except Refused:
        return False
    return True


def _check(call: LoopCall) -> None:
    """Raise `UnsupportedEquation` where a loop cannot be planned; planning waits until it runs."""
    call, _ = _with_kernels_outside(call)
    graph, shared = call.graph, call.shared
    if has_bfloat16(graph):
        graph, now = graph_in_32_bits(graph, call.state)
        shared = tuple(now[v] for v in shared if v in now)
    legal_step(graph, shared)


def _run(call: LoopCall, env: Env, steps: Env, carry: list[jax.Array]) -> LoopResult:
    """Run a loop; numbers of 16 bits are computed with, and carried, in 32."""
    call, kernels = _with_kernels_outside(call)
    env = env | env_of(kernels.outputs, kernels([env[v] for v in kernels.inputs]))
    if not has_bfloat16(call.graph):
        return _bound(call, env, steps, carry)
    graph, now = graph_in_32_bits(call.graph, call.state)
    wide = _renamed(call, graph, now)
    env, steps = ({now[v]: _wide(a) for v, a in some.items() if v in now} for some in (env, steps))
    found = _bound(wide, env, steps, in_32_bits(carry))
    emitted = [*found.emitted, *(a for r in found.residuals for a in jax.tree.leaves(r))]
    final, stacked, accumulated = of_types(
        call.graph.outputs, call.accumulators, (found.carry, emitted, found.accumulated)
    )
    count = len(found.emitted)
    kinds = (type(r) if isinstance(r, TimeMajor) else lambda a: a for r in found.residuals)
    residuals = [kind(a) for kind, a in zip(kinds, stacked[count:], strict=True)]
    return LoopResult(final, stacked[:count], residuals, accumulated)


def _with_kernels_outside(call: LoopCall) -> tuple[LoopCall, Graph]:
    """The loop with the kernels of convolutions as inputs, and the graph that makes them."""
    kernels, graph = kernels_outside(call.graph, call.shared)
    shared = (*call.shared, *values_of(kernels.outputs))
    return (replace(call, graph=graph, shared=shared) if kernels.outputs else call), kernels


def _wide(arrays: Any) -> Any:
    """`in_32_bits`; an array that is known while JAX traces stays known."""
    with jax.ensure_compile_time_eval() if is_known(arrays) else nullcontext():
        return in_32_bits(arrays)


def _renamed(call: LoopCall, graph: Graph, now: Env) -> LoopCall:
    shared, state = (tuple(now[v] for v in some if v in now) for some in (call.shared, call.state))
    return replace(call, graph=graph, shared=shared, state=state)


def _bound(call: LoopCall, env: Env, steps: Env, carry: list[jax.Array]) -> LoopResult:
    """The primitive applied. One example is a batch of one."""
    one = call.sizes.batch is None
    previous = [v for v in call.steps if isinstance(steps[v], PreviousStep)]
    boundary = [steps[v].boundary for v in previous]
    read = [steps[v].array if isinstance(steps[v], PreviousStep) else steps[v] for v in call.steps]
    time_major = frozenset(
        v for v, a in zip(call.steps, read, strict=True) if isinstance(a, TimeMajor)
    )
    arrays = [a.array if isinstance(a, TimeMajor) else a for a in read]
    if one:
        arrays, boundary, carry = ([a[None] for a in some] for some in (arrays, boundary, carry))
        call = replace(call, sizes=call.sizes._replace(batch=1, time_major=False))
    known = {v: np.ascontiguousarray(a) for v, a in env.items() if v.aval.ndim and is_known(a)}
    loop = NativeLoop(call, tuple(previous), time_major, chosen(), tuning(), known)
    shared = [env[v] for v in loop.shared]
    found = call.result(run(loop, [*shared, *arrays, *boundary, *carry], call.sizes.time))
    if one:
        (carry, emitted), residuals = (
            ([a[0] for a in some] for some in found[:2]),
            [a[:, 0] for a in found.residuals],
        )
        return LoopResult(carry, emitted, residuals, found.accumulated)
    return found._replace(residuals=[TimeMajor(a) for a in found.residuals])
