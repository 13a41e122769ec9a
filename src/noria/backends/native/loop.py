"""A loop over a batch as the native primitive sees it: its arrays, and variants of it."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import numpy as np

from noria._jax import Rows
from noria.backends import scan
from noria.backends.base import (
    LoopCall,
    PreviousStep,
    Sizes,
    TimeMajor,
    aval_of_total,
    grouped,
    in_order,
    swapped,
    total,
)
from noria.backends.native.machine import Isa, Tuning
from noria.backends.native.runtime import kernels
from noria.ir.graph import Env, Value
from noria.ir.passes import extract

#: Runs a loop: its results, of its arrays.
Run: TypeAlias = Callable[["NativeLoop", Sequence[Any]], list[Any]]

#: The value of an array, and whether it is the boundary of the value.
Input = tuple[Value, bool]


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
        unchanged: ``steps`` whose arrays have no axis of time; only the loop of a kernel has them,
            see `noria.backends.native.unchanged`.
        isa: the instruction set, and
        tuning: the thresholds, both of the time of the trace: the code is made later, when others
            may hold.
        known: arrays of shared values that are constants of the program; their weights are packed
            when it is lowered.
        models: the number of models, or ``None``. Results have an axis of models in front.
        of_models: the inputs whose arrays have such an axis too.
    """

    def __init__(
        self,
        call: LoopCall,
        previous: tuple[Value, ...],
        time_major: frozenset[Value],
        isa: Isa,
        tuning: Tuning,
        known: dict[Value, np.ndarray],
        models: int | None = None,
        of_models: frozenset[Input] = frozenset(),
    ) -> None:
        inputs = {*call.graph.inputs}
        self.call = call
        self.shared = [v for v in call.shared if v in inputs]
        self.steps = call.steps
        self.previous, self.time_major = previous, time_major
        self.isa, self.tuning, self.known = isa, tuning, known
        self.models, self.of_models = models, of_models
        self.unchanged: tuple[Value, ...] = ()
        #: The kernels of its program. An executable holds them too, but only once it is compiled.
        self.kernels: dict[str, kernels.Kernel] = {}

    def __reduce__(self) -> Any:
        """Pickle an empty object: serializing a program pickles its loops, without kernels."""
        return object, ()

    # --- variants -------------------------------------------------------------------------------

    def without_accumulation(self) -> "NativeLoop":
        """The same loop, with the operands of the accumulators emitted."""
        outputs, (_, two, three) = self.call.graph.outputs, self.call.ends
        graph = replace(
            self.call.graph, outputs=(*outputs[:two], *outputs[three:], *outputs[two:three])
        )
        return self.with_call(replace(self.call, graph=graph, accumulators=()))

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
        return self.with_call(pruned), needs + [True] * len(call.state)

    def with_call(self, call: LoopCall) -> "NativeLoop":
        inputs = {*call.graph.inputs}
        previous = tuple(v for v in self.previous if v in inputs)
        known = {v: a for v, a in self.known.items() if v in inputs}
        time_major = self.time_major & inputs
        models = self.models, self.of_models
        return NativeLoop(call, previous, time_major, self.isa, self.tuning, known, *models)

    def with_tuning(self, tuning: Tuning) -> "NativeLoop":
        models = self.models, self.of_models
        given = self.call, self.previous, self.time_major, self.isa, tuning, self.known
        return NativeLoop(*given, *models)

    def with_models(self, models: int, by_model: Sequence[bool]) -> "NativeLoop":
        """The loop for some models; flags say which arrays have an axis of models."""
        some = frozenset(itertools.compress(self.inputs(), by_model))
        known = {v: a for v, a in self.known.items() if (v, False) not in some}
        base = self.call, self.previous, self.time_major, self.isa, self.tuning
        return NativeLoop(*base, known, models, some)

    def with_tangents(self, call: LoopCall, tangent_of: dict[Value, Value]) -> "NativeLoop":
        """The loop of a ``call`` that reads the inputs, and tangents of some of them."""
        previous = *self.previous, *(tangent_of[v] for v in self.previous if v in tangent_of)
        time_major = self.time_major | {tangent_of[v] for v in self.time_major & {*tangent_of}}
        moving = {(tangent_of[v], late) for v, late in self.of_models if v in tangent_of}
        given = self.isa, self.tuning, self.known, self.models, self.of_models | moving
        return NativeLoop(call, previous, time_major, *given).with_call(call)

    # --- arrays ---------------------------------------------------------------------------------

    @property
    def by_model(self) -> list[bool]:
        """Of each array, whether it has an axis of models."""
        return [name in self.of_models for name in self.inputs()]

    @property
    def batch_axes(self) -> list[int]:
        """The axis of the batch in each result that is no sum."""
        _, two, three = self.call.ends
        front = int(self.models is not None)
        return [front] * two + [front + 1] * (three - two)

    def rows(self) -> Rows:
        """The axis of the batch in each array and in each result."""
        steps = [1 if v in self.time_major else 0 for v in self.steps]
        count = len(self.previous) + len(self.call.state)
        axes = [*steps, *[0] * count]
        front = self.by_model[len(self.shared) :]
        return Rows(
            [None] * len(self.shared) + [a + m for a, m in zip(axes, front, strict=True)],
            [*self.batch_axes, *[None] * len(self.call.accumulators)],
        )

    def batch(self, arrays: Sequence[Any]) -> int:
        return int(arrays[-1].shape[self.by_model[-1]])  # there is a state

    def structs(self, time: int, batch: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the results."""
        outputs, (one, two, three) = self.call.graph.outputs, self.call.ends
        models = () if self.models is None else (self.models,)
        axes: list[tuple[int, ...]] = [(batch,)] * one
        axes += [(batch, time)] * (two - one) + [(time, batch)] * (three - two)
        avals = [v.aval for v in outputs[:three]]
        avals += map(aval_of_total, grouped(outputs[three:], self.call.accumulators))
        axes += [()] * len(self.call.accumulators)
        return [
            jax.ShapeDtypeStruct((*models, *front, *aval.shape), aval.dtype)
            for front, aval in zip(axes, avals, strict=True)
        ]

    @property
    def mapped_axes(self) -> list[int]:
        """The place where `jax.vmap` puts an axis of each result."""
        return self.batch_axes + [int(self.models is not None)] * len(self.call.accumulators)

    def inputs(self) -> list[Input]:
        """The names of the arrays."""
        whole = ((v, False) for v in (*self.shared, *self.steps))
        late, state = ((v, True) for v in self.previous), ((v, False) for v in self.call.state)
        return [*whole, *late, *state]

    # --- lowering -------------------------------------------------------------------------------

    def __call__(self, *arrays: Any, time: int) -> list[Any]:
        """The loop as a scan.

        JAX's caches hold a parameter of a primitive weakly only if it is a function. Otherwise they
        would keep the loop, and the constants that it knows.
        """
        return self._of_each_model(functools.partial(self._scan, time, self.batch(arrays)), arrays)

    def derived(self, *arrays: Any, time: int) -> list[Any]:
        """The loop with the derivative rules of the compiler; without them, the scan."""
        run = self._scan if self.call.derive is None else self._derived
        return self._of_each_model(functools.partial(run, time, self.batch(arrays)), arrays)

    def _of_each_model(self, run: Callable[..., list[Any]], arrays: Sequence[Any]) -> list[Any]:
        if self.models is None:
            return run(*arrays)
        axes = [0 if has_models else None for has_models in self.by_model]
        found: list[Any] = jax.vmap(run, axes, axis_size=self.models)(*arrays)
        return found

    def _scan(self, time: int, batch: int, *arrays: Any) -> list[Any]:
        env, steps, state = self._given(arrays)
        call = replace(self.call, sizes=Sizes(time, batch))
        found = scan.run(call, env, steps, state)
        residuals = [a.array for a in found.residuals]
        return [*found.carry, *found.emitted, *residuals, *found.accumulated]

    def _derived(self, time: int, batch: int, *arrays: Any) -> list[Any]:
        """Sums over the batch are taken after the loop, and residuals are transposed."""
        env, steps, state = self._given(arrays)
        sizes, counts = Sizes(time, batch), self.call.accumulators
        call = replace(self.without_accumulation().call, sizes=sizes, residuals=0)
        assert call.derive is not None
        ordered = [in_order(steps[v], sizes, call.reverse) for v in call.steps]
        final, found = call.derive(call)(sizes, [*env.values()], ordered, state)
        emitted, operands, residuals = self._parts(found)
        totals = map(total, grouped(operands, counts))
        return [*final, *emitted, *(swapped(a, sizes) for a in residuals), *totals]

    def _parts(self, found: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Emitted values, operands of accumulators and residuals, in the order of such a loop."""
        one, two, _ = self.call.ends
        end = len(found) - self.call.residuals
        return found[: two - one], found[two - one : end], found[end:]

    def _given(self, arrays: Sequence[Any]) -> tuple[Env, dict[Value, Any], list[Any]]:
        """Shared values, steps and state of one model."""
        rest = iter(arrays)
        env = {v: next(rest) for v in self.shared}
        steps: dict[Value, Any] = {v: next(rest) for v in self.steps}
        steps |= {v: TimeMajor(steps[v]) for v in self.time_major}
        steps |= {v: PreviousStep(steps[v], next(rest)) for v in self.previous}
        return env, steps, list(rest)
