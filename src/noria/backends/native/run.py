"""A compiled loop as a JAX function."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from noria.backends import scan
from noria.backends.native import ffi
from noria.backends.native.expressible import NotExpressible, is_expressible, size
from noria.backends.native.layout import Plan
from noria.backends.native.program import Program
from noria.backends.native.target import NoSuchMachine, chosen
from noria.graph import Equation, Graph, Known, named, size_in_bytes

#: Floating-point operations, about, from which on a second thread pays for being woken.
_WORTH_A_THREAD = 1_000_000

#: Bytes of a weight that stay in the cache of a core from step to step.
_CACHED = 3 * 2**19


def reason_against(graph: Graph, known: Sequence[Any], state: Sequence[Any]) -> str | None:
    """Why there is no native code for a loop here, or ``None`` if there is."""
    if jax.default_backend() != "cpu":
        return f"the device is not a CPU but {jax.default_backend()}"
    if not state:
        return "there is no state"
    try:
        ffi.api_version()
        chosen()
        _program(graph, known, state)
    except (NotExpressible, NoSuchMachine) as reason:
        return str(reason)
    return None


def lifts(equation: Equation, batch: int, light: bool) -> bool:
    """Whether to lift a product of the input: with eight examples or more it runs at full speed in the loop too.

    There it saves the way of its result through memory; the fewer the examples, the more a product over all steps gains. A
    weight that is larger than a core's cache is read from farther away in each step, which pays only for many examples.
    """
    if not is_expressible(equation):
        return True
    return batch < 8 or (batch < 32 and max(map(size_in_bytes, equation.inputs)) > _CACHED)


def loop(
    graph: Graph,
    known: Known,
    state: Sequence[Any],
    steps: Known,
    start: list[Any],
    axes: tuple[int, ...],
    reverse: bool,
) -> tuple[list[Any], list[Any]]:
    """See `noria.backends`. What there is no code for runs as `noria.backends.scan`."""
    try:
        program = _program(graph, tuple(known), state)
    except NotExpressible:
        return scan.loop(graph, known, state, steps, start, axes, reverse)
    shared, varying = [known[v] for v in program.shared], [steps[v] for v in program.steps]
    call = Call(program, graph, reverse)
    if len(axes) == 2:
        return call(shared, varying, start, axes[0])
    # One example: a batch of one.
    final, stacked = call(shared, [a[:, None] for a in varying], [a[None] for a in start], axes[0])
    return [a[0] for a in final], [a[:, 0] for a in stacked]


def _program(graph: Graph, known: Sequence[Any], state: Sequence[Any]) -> Program:
    shared = [v for v in graph.inputs if v in known]
    steps = [v for v in graph.inputs if v not in known and v not in state]
    return Program(graph, shared, steps, state)


class Call:
    """A loop over a batch: ``(shared, steps, start, time) -> (final state, stacked)``.

    It is one primitive of JAX. Machine code is made when it is lowered, so that what turns out not to be needed is not compiled;
    devices that are no CPUs get a scan. Its derivative is that of the scan: only derivatives of derivatives come to that.
    """

    def __init__(self, program: Program, graph: Graph, reverse: bool):
        self.program, self.graph, self.reverse = program, graph, reverse

    def __call__(self, shared: list[Any], steps: list[Any], start: list[Any], time: int) -> Any:
        out = _native.bind(*shared, *steps, *start, call=self, time=time)
        return list(out[: len(start)]), list(out[len(start) :])

    def parts(self, arrays: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The arguments of a call: shared, steps, start."""
        one, two = len(self.program.shared), len(self.program.shared) + len(self.program.steps)
        return list(arrays[:one]), list(arrays[one:two]), list(arrays[two:])

    def slow(self, *arrays: Any, time: int) -> list[Any]:
        """The same as a scan."""
        program, (shared, steps, start) = self.program, self.parts(arrays)
        known, varying = named(program.shared, shared), named(program.steps, steps)
        axes = time, self._batch(arrays)
        final, stacked = scan.loop(self.graph, known, program.state, varying, start, axes, self.reverse)
        return [*final, *stacked]

    def structs(self, time: int, batch: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the final state and of what is stacked."""
        outputs, width = self.program.outputs, len(self.program.state)
        axes = [(batch,)] * width + [(time, batch)] * (len(outputs) - width)
        return [
            jax.ShapeDtypeStruct((*front, *v.aval.shape), v.aval.dtype) for front, v in zip(axes, outputs, strict=True)
        ]

    def fast(self, *arrays: Any, time: int) -> list[Any]:
        """The same as machine code."""
        isa, batch = chosen(), self._batch(arrays)
        plan = Plan(self.program, isa)
        results = [*self.structs(time, batch), jax.ShapeDtypeStruct((plan.scratch_bytes(batch),), jnp.uint8)]
        sizes = ffi.sizes(time, batch, self.reverse, self._chunks(time, batch))
        return list(jax.ffi.ffi_call(ffi.register(plan, isa), results)(sizes, *arrays)[:-1])

    def _batch(self, arrays: Sequence[Any]) -> int:
        return int(self.parts(arrays)[2][0].shape[0])

    def _chunks(self, time: int, batch: int) -> int:
        """Into how many chunks the rows are shared out."""
        program = self.program
        products = sum(2 * dot.depth * dot.width for dot in program.dots.values())
        others = sum(size(v) for e in program.equations for v in e.outputs) * 4
        worth = time * batch * (products + others) // _WORTH_A_THREAD
        return max(1, min(_cores(), batch, worth))


_native = jex.Primitive("noria_native_loop")
_native.multiple_results = True


@_native.def_impl
def _(*arrays: Any, call: Call, time: int) -> list[Any]:
    return list(jax.jit(functools.partial(_native.bind, call=call, time=time))(*arrays))


@_native.def_abstract_eval
def _(*arrays: Any, call: Call, time: int) -> list[Any]:
    return [jax.core.ShapedArray(s.shape, s.dtype) for s in call.structs(time, call._batch(arrays))]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: Call, time: int) -> Any:
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(functools.partial(call.slow, time=time), tuple(primals), tuple(tangents))


def _batched(arrays: Sequence[Any], axes: Sequence[Any], *, call: Call, time: int) -> Any:
    """One larger batch, or if weights are mapped one call after the other."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = [axis is not None for axis in axes]
    arrays = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True)]
    (of_shared, _, _), (shared, steps, start) = call.parts(mapped), call.parts(arrays)
    if any(of_shared):

        def one(pieces: list[Any]) -> Any:
            rest = iter(pieces)
            given = [next(rest) if m else a for m, a in zip(mapped, arrays, strict=True)]
            return _native.bind(*given, call=call, time=time)

        return jax.lax.map(one, [a for m, a in zip(mapped, arrays, strict=True) if m]), [0] * len(call.program.outputs)
    _, of_steps, of_start = call.parts(mapped)
    steps = [_fold(a, m, count, 1) for a, m in zip(steps, of_steps, strict=True)]
    start = [_fold(a, m, count, 0) for a, m in zip(start, of_start, strict=True)]
    final, stacked = call(shared, steps, start, time)
    final = [a.reshape(count, a.shape[0] // count, *a.shape[1:]) for a in final]
    stacked = [a.reshape(time, count, a.shape[1] // count, *a.shape[2:]) for a in stacked]
    return [*final, *stacked], [0] * len(final) + [1] * len(stacked)


ad.primitive_jvps[_native] = _jvp
batching.primitive_batchers[_native] = _batched
mlir.register_lowering(_native, mlir.lower_fun(lambda *a, call, time: call.slow(*a, time=time)))
mlir.register_lowering(_native, mlir.lower_fun(lambda *a, call, time: call.fast(*a, time=time)), platform="cpu")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fold(a: Any, is_mapped: bool, count: int, axis: int) -> Any:
    """The mapped axis, in front, becomes part of the batch axis."""
    a = a if is_mapped else jnp.broadcast_to(a, (count, *a.shape))
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], math.prod(a.shape[axis : axis + 2]), *a.shape[axis + 2 :])
