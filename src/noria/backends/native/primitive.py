"""A compiled loop as a JAX function."""

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria._jax import Rows, primitive
from noria.backends import scan
from noria.backends.base import PreviousStep, grouped, total
from noria.backends.native.lower.precision import in_32_bits, is_narrow, of_types, widened
from noria.backends.native.lower.supported import UnsupportedEquation, has_native_code
from noria.backends.native.machine import NoSuchMachine, Tuning, tuning
from noria.backends.native.plan.schedule import INPUTS, RESULTS, Schedule, schedule_of
from noria.backends.native.plan.stages import Slot
from noria.backends.native.plan.tiling import KernelPlan, item_of
from noria.backends.native.runtime import handler, header, kernels
from noria.backends.native.runtime.target import chosen
from noria.ir.graph import Env, Equation, Graph, env_of, is_literal, size, size_in_bytes, values_of
from noria.ir.passes import extract
from noria.ir.primitives import VIEWS


def unsupported_reason(
    graph: Graph, known: Sequence[Any], state: Sequence[Any], totals: Sequence[int] = ()
) -> str | None:
    """Why there is no native code for a loop here, or ``None`` if there is."""
    if jax.default_backend() != "cpu":
        return f"the device is not a CPU but {jax.default_backend()}"
    if not state:
        return "there is no state"
    try:
        header.api_version()
        chosen()
        if is_narrow(graph):
            graph, now = widened(graph, known, state)
            known, state = ([now[v] for v in some if v in now] for some in (known, state))
        _program(graph, known, state, totals)
    except (UnsupportedEquation, NoSuchMachine) as reason:
        return str(reason)
    return None


def should_hoist(equation: Equation, given: Sequence[Any], batch: int, light: bool) -> bool:
    """Whether to lift a product of the input. One of what a step is ``given`` need not be: the kernel makes it for some steps at a time."""
    if not has_native_code(equation):
        return True
    weight = max(map(size_in_bytes, equation.inputs))
    return tuning().prefer_block(weight, batch) and not any(
        v in given for v in values_of(equation.inputs)
    )


def loop(
    graph: Graph,
    known: Env,
    state: Sequence[Any],
    steps: Env,
    start: list[Any],
    axes: tuple[int, ...],
    reverse: bool,
    totals: Sequence[int] = (),
    batch_major: Set[Any] = frozenset(),
) -> tuple[list[Any], list[Any], list[Any]]:
    """See `noria.backends`. What there is no code for runs as `noria.backends.scan`, numbers of 16 bits in 32."""
    narrow, outputs = is_narrow(graph), graph.outputs
    given = graph, known, state, steps, start
    try:
        if narrow:
            graph, now = widened(graph, known, state)
            known, steps = (
                {now[v]: in_32_bits(a) for v, a in some.items() if v in now}
                for some in (known, steps)
            )
            state, start = [now[v] for v in state], in_32_bits(start)
            batch_major = {now[v] for v in batch_major if v in now}
        shifted = [v for v in graph.inputs if isinstance(steps.get(v), PreviousStep)]
        program = _program(graph, tuple(known), state, totals, shifted)
    except UnsupportedEquation:
        return scan.loop(*given, axes, reverse, totals)
    shared, varying = [known[v] for v in program.shared], [steps[v] for v in program.steps]
    first = [steps[v].first for v in shifted]
    varying = [a.array if isinstance(a, PreviousStep) else a for a in varying]
    call = Call(program, graph, reverse, tuple(totals), frozenset(batch_major))
    found = _called(call, Arguments(shared, varying, first, start), axes)
    return of_types(outputs, totals, found) if narrow else found


def _called(
    call: "Call", arguments: "Arguments", axes: tuple[int, ...]
) -> tuple[list[Any], list[Any], list[Any]]:
    """One example is a batch of one."""
    if len(axes) == 2:
        return call(arguments, axes[0])
    shared, steps, first, start = arguments
    arguments = Arguments(
        shared, [a[:, None] for a in steps], [a[None] for a in first], [a[None] for a in start]
    )
    final, stacked, summed = call(arguments, axes[0])
    return [a[0] for a in final], [a[:, 0] for a in stacked], summed


def _program(
    graph: Graph,
    known: Sequence[Any],
    state: Sequence[Any],
    totals: Sequence[int] = (),
    shifted: Sequence[Any] = (),
) -> Schedule:
    shared = [v for v in graph.inputs if v in known]
    steps = [v for v in graph.inputs if v not in known and v not in state]
    return schedule_of(graph, shared, steps, state, totals, shifted)


class Arguments(NamedTuple):
    """What a call is given: what is the same for all, arrays of all steps, what shifted ones read last, the state to start from."""

    shared: list[Any]
    steps: list[Any]
    first: list[Any]
    start: list[Any]


class Call:
    """A loop over a batch: ``(arguments, time) -> (final state, stacked, totals)``.

    It is one primitive of JAX. Machine code is made when it is lowered, so that what turns out not to be needed is not compiled;
    devices that are no CPUs get a scan. Its derivative is that of the scan: only derivatives of derivatives come to that.
    """

    def __init__(
        self,
        program: Schedule,
        graph: Graph,
        reverse: bool,
        totals: tuple[int, ...],
        batch_major: frozenset[Any],
    ):
        self.program, self.graph, self.reverse, self.totals = program, graph, reverse, totals
        self.batch_major, self.tuning = batch_major, tuning()
        #: Those that were asked for; an executable holds them too, but only once it is compiled.
        self.kernels: dict[str, kernels.Kernel] = {}

    def __reduce__(self) -> Any:
        """Who serializes a compiled program pickles what it keeps alive. A kernel stays in its process."""
        return object, ()

    def __call__(self, arguments: Arguments, time: int) -> Any:
        return self.results(_native.bind(*itertools.chain(*arguments), call=self, time=time))

    def arguments(self, arrays: Sequence[Any]) -> Arguments:
        rest = iter(arrays)
        return Arguments(*([next(rest) for _ in self.program.values(kind)] for kind in INPUTS))

    def results(self, arrays: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """What a call gives: the final state, what is stacked, totals."""
        one, two = len(self.program.state), len(self.program.outputs)
        return list(arrays[:one]), list(arrays[one:two]), list(arrays[two:])

    def open(self) -> "Call":
        """The same, where the operands of the totals are stacked instead."""
        return Call(self._program(()), self.graph, self.reverse, (), self.batch_major)

    def keeping(self, used: Sequence[bool]) -> tuple["Call", list[bool]]:
        """The same call without the outputs that nobody uses, and which of its inputs it still needs; all of the state stays."""
        _, stacked, totals = self.results(used)
        counts = tuple(itertools.compress(self.totals, totals))
        width, end = len(self.program.state), len(self.program.outputs)
        operands = itertools.compress(grouped(self.graph.outputs[end:], self.totals), totals)
        outputs = (
            *self.graph.outputs[:width],
            *itertools.compress(self.graph.outputs[width:end], stacked),
        )
        graph = extract(
            self.graph.equations, (*outputs, *itertools.chain(*operands)), self.graph.inputs
        )
        shared, steps, shifted = (
            [v for v in some if v in graph.inputs]
            for some in (self.program.shared, self.program.steps, self.program.previous)
        )
        program = schedule_of(graph, shared, steps, self.program.state, counts, shifted)
        needs = [
            kind == "state" or value in graph.inputs
            for kind in INPUTS
            for value in self.program.values(kind)
        ]
        return Call(program, graph, self.reverse, counts, self.batch_major), needs

    def _program(
        self, totals: tuple[int, ...], apart: Callable[[int], bool] = lambda weight: False
    ) -> Schedule:
        program = self.program
        return schedule_of(
            self.graph,
            program.shared,
            program.steps,
            program.state,
            totals,
            program.previous,
            apart,
        )

    def slow(self, *arrays: Any, time: int) -> list[Any]:
        """The same as a scan."""
        program, (shared, steps, first, start) = self.program, self.arguments(arrays)
        known, varying = env_of(program.shared, shared), env_of(program.steps, steps)
        varying |= {
            v: PreviousStep(varying[v], a) for v, a in zip(program.previous, first, strict=True)
        }
        axes = time, self._batch(arrays)
        final, stacked, totals = scan.loop(
            self.graph, known, program.state, varying, start, axes, self.reverse, self.totals
        )
        return [*final, *stacked, *totals]

    def structs(self, time: int, batch: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the final state, of what is stacked, and of totals."""
        outputs, totals, width = (
            self.program.outputs,
            self.program.accumulators,
            len(self.program.state),
        )
        axes = [(batch,)] * width + [(time, batch)] * (len(outputs) - width) + [()] * len(totals)
        return [
            jax.ShapeDtypeStruct((*front, *v.aval.shape), v.aval.dtype)
            for front, v in zip(axes, (*outputs, *totals), strict=True)
        ]

    def rows(self) -> Rows:
        """Where the batch is."""
        front = {"shared": None, "step": 1, "boundary": 0, "state": 0}
        width, stacked = (
            len(self.program.state),
            len(self.program.outputs) - len(self.program.state),
        )
        return Rows(
            [front[kind] for kind in INPUTS for _ in self.program.values(kind)],
            [0] * width + [1] * stacked + [None] * len(self.program.accumulators),
        )

    def fast(self, *arrays: Any, time: int) -> list[Any]:
        """The same as machine code."""
        isa, batch = chosen(), self._batch(arrays)
        if not time * batch:
            return self.slow(*arrays, time=time)
        direct = time * batch <= self.tuning.unpacked_rows
        weights = [
            dot.depth * dot.width * item_of(e.outputs[0]) for e, dot in self.program.dots.items()
        ]
        apart = not direct and any(self.tuning.prefer_block(weight, batch) for weight in weights)
        program = (
            self._program(self.totals, lambda weight: self.tuning.prefer_block(weight, batch))
            if apart
            else self.program
        )
        shares, by_features = _shares(program, time, batch, self.tuning)
        strided = min(time, batch) > 1 and not by_features
        plan = KernelPlan(
            program,
            isa,
            by_features,
            direct,
            self._batch_major(program) if strided else (),
            self.tuning,
        )
        kept = sum(plan.block_widths())
        limits = self.tuning
        rows = limits.block_rows if self.totals else time * batch
        if kept and not self.totals:
            rows = -(-limits.block_bytes // kept)
        stretch = -(-time // min(time, -(-time * batch // rows)))
        scratch = jax.ShapeDtypeStruct((plan.scratch_bytes(batch, stretch),), jnp.uint8)
        sizes = handler.sizes(time, batch, self.reverse, stretch, shares)
        given, wanted = (
            [place in plan.staged for place in program.buffers(kinds)]
            for kinds in (INPUTS, RESULTS)
        )
        results = jax.eval_shape(
            functools.partial(_swapped, which=wanted), self.structs(time, batch)
        )
        kernel = kernels.kernel_of(plan, isa)
        self.kernels[kernel.name] = kernel
        run = jax.ffi.ffi_call(kernels.TARGET, [*results, scratch])
        return _swapped(run(sizes, *_swapped(arrays, given), kernel=kernel.name)[:-1], wanted)

    def _batch_major(self, program: Schedule) -> list[Slot]:
        """The buffers that lie in memory with the batch in front, but for those of which many steps are multiplied at once."""
        apart = {(p.source.kind, p.source.number) for p in program.prologue}
        apart |= {(p.target.kind, p.target.number) for p in program.epilogue}
        # By position: what is emitted can be another value in the program than in the graph.
        emitted = self.graph.outputs[len(program.state) : len(program.outputs)]
        places = zip(program.buffers(("step", "emitted")), (*program.steps, *emitted), strict=True)
        return [
            place
            for place, value in places
            if not is_literal(value)
            and value in self.batch_major
            and (place.kind, place.number) not in apart
        ]

    def _batch(self, arrays: Sequence[Any]) -> int:
        return int(self.arguments(arrays).start[0].shape[0])


def _shares(program: Schedule, time: int, batch: int, limits: Tuning) -> tuple[int, bool]:
    """Into how many shares the work is cut, and whether features are shared out, not rows of the batch.

    Features are if there are few rows, and a stage is so much work that waiting for the other threads does not count.
    """
    products = {equation: 2 * dot.depth * dot.width for equation, dot in program.dots.items()}
    apart = sum(
        products[projection.equation] for projection in (*program.prologue, *program.epilogue)
    )
    others = sum(size(v) for e in program.equations if e.name not in VIEWS for v in e.outputs) * 4
    step = sum(products.values()) - apart + others
    rest = apart + sum(
        2 * size(total) for total in program.accumulators
    )  # of a whole stretch, and shared out by features
    shares = max(
        1, min(limits.threads or _cores(), time * batch * (step + rest) // limits.thread_flops)
    )
    work = step * batch // len(program.stages)
    by_features = (
        batch <= 2 * shares
        and work > limits.stage_flops
        and not any(s.reductions for s in program.stages)
    )
    if shares > 1 and by_features:
        return shares, True
    return (shares if rest else min(shares, batch)), False


def _shapes(*arrays: Any, call: Call, time: int) -> list[jax.ShapeDtypeStruct]:
    return call.structs(time, call._batch(arrays))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: Call, time: int) -> Any:
    return jax.jvp(functools.partial(call.slow, time=time), tuple(primals), tuple(tangents))


def _without_unused(
    used: list[bool], *, call: Call, time: int
) -> tuple[list[bool], list[bool], dict[str, Any]]:
    """A gradient that nobody wants is not computed; the final state always is."""
    width = len(call.program.state)
    call, needs = call.keeping(used)
    return needs, [n < width or is_used for n, is_used in enumerate(used)], {"call": call}


def _batched(arrays: Sequence[Any], axes: Sequence[Any], *, call: Call, time: int) -> Any:
    """One larger batch, or if weights are mapped one call after the other."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = [axis is not None for axis in axes]
    arrays = [
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]
    (of_shared, of_steps, of_first, of_start), given = (
        call.arguments(mapped),
        call.arguments(arrays),
    )
    if any(of_shared):

        def one(pieces: list[Any]) -> Any:
            rest = iter(pieces)
            some = [next(rest) if m else a for m, a in zip(mapped, arrays, strict=True)]
            return _native.bind(*some, call=call, time=time)

        outputs = jax.lax.map(one, [a for m, a in zip(mapped, arrays, strict=True) if m])
        return outputs, [0] * len(outputs)
    batch = call._batch(arrays) if not of_start[0] else given.start[0].shape[1]
    steps = [_fold(a, m, count, 1) for a, m in zip(given.steps, of_steps, strict=True)]
    first = [_fold(a, m, count, 0) for a, m in zip(given.first, of_first, strict=True)]
    start = [_fold(a, m, count, 0) for a, m in zip(given.start, of_start, strict=True)]
    final, stacked, _ = call.open()(Arguments(given.shared, steps, first, start), time)
    final = [a.reshape(count, batch, *a.shape[1:]) for a in final]
    stacked = [a.reshape(time, count, batch, *a.shape[2:]) for a in stacked]
    stacked, operands = (
        stacked[: len(stacked) - sum(call.totals)],
        stacked[len(stacked) - sum(call.totals) :],
    )
    totals = [jax.vmap(total, 1)(some) for some in grouped(operands, call.totals)]
    return [*final, *stacked, *totals], [0] * len(final) + [1] * len(stacked) + [0] * len(totals)


_native = primitive(
    "noria_native_loop",
    shapes=_shapes,
    jvp=_jvp,
    dce=_without_unused,
    batch=_batched,
    portable=lambda *arrays, call, time: call.slow(*arrays, time=time),
    cpu=lambda *arrays, call, time: call.fast(*arrays, time=time),
    rows=lambda *, call, time: call.rows(),
)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _swapped(arrays: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    """Some of the arrays with batch and time exchanged; where the caller did the same, XLA leaves out both."""
    return [jnp.swapaxes(a, 0, 1) if swap else a for a, swap in zip(arrays, which, strict=True)]


def _fold(a: Any, is_mapped: bool, count: int, axis: int) -> Any:
    """The mapped axis, in front, becomes part of the batch axis."""
    a = a if is_mapped else jnp.broadcast_to(a, (count, *a.shape))
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], math.prod(a.shape[axis : axis + 2]), *a.shape[axis + 2 :])
