"""The compiled loop as one `jax.lax.scan`: any device.

`noria.backends.plain` scans the cell without compiling it; `noria.backends.reference` is the
definition in Python.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax

from noria._jax import is_symbolic
from noria.backends.base import (
    LoopCall,
    LoopResult,
    RunLoop,
    Size,
    TimeMajor,
    grouped,
    in_time_order,
    swapped,
    total,
)
from noria.ir.evaluate import evaluate, is_narrow
from noria.ir.graph import Env, Equation, Value, env_of
from noria.ir.reasons import Reason


class Scan:
    """See `noria.backends.base.LoopBackend`.

    Time comes first. A transpose of hoisted products makes a loop of 64 examples, 128 steps and 512
    units 10 % slower, and its gradient 45 %. A transpose of the input costs little.
    """

    merit = Reason.ANY_DEVICE()
    time_major = True
    packs_weights = False
    reads_previous_step = False
    keeps_delays = False
    carries_context = False
    slices_in_loop = False
    can_accumulate: Callable[[Equation], bool] | None = None

    def obstacles(self, call: LoopCall) -> tuple[str, ...]:
        return ()

    def prepare(self, call: LoopCall) -> RunLoop:
        return functools.partial(run, call)

    def has_code(self, equation: Equation) -> bool:
        return True

    def should_hoist(
        self, equation: Equation, given: Sequence[Value], batch: Size, light: bool
    ) -> bool:
        """Whether to hoist a product of the input; its gradient is one product in any case.

        Measured on CPUs: with a hundred examples or more, a deep product is as fast inside of the
        loop. Outside, its result goes through memory twice. A ``light`` loop spends its time on
        memory, and a product of one or two features is cheaper to compute than to store.
        """
        if equation.name != "dot_general" or jax.default_backend() != "cpu" or is_symbolic(batch):
            return True
        contracted, _ = equation.params["dimension_numbers"][0]
        depth = math.prod(equation.inputs[0].aval.shape[axis] for axis in contracted)
        return not (batch >= 96 and depth >= 128) and not (light and batch >= 32 and depth <= 2)

    def should_keep(self, equation: Equation, batch: Size) -> bool:
        return False

    def should_repeat(self, equation: Equation, batch: Size) -> bool:
        return False

    def prefers_single_step(self, rows: int) -> bool:
        return False

    def recomputes(self, state: Sequence[Value]) -> bool:
        """A step takes longer than to store its residuals."""
        return False

    def segment_steps(self, stored: int, passed: int, time: int) -> int:
        return time


BACKEND = Scan()


def run(call: LoopCall, env: Env, steps: Env, carry: list[jax.Array]) -> LoopResult:
    """The loop; arrays may have either order of axes."""
    graph, sizes = call.graph, call.sizes
    names = [v for v in graph.inputs if v in steps]
    env = {v: a.astype(v.aval.dtype) if is_narrow(v.aval) else a for v, a in env.items()}  # once

    def body(
        carry: list[jax.Array], step: list[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        varying = env_of(call.state, carry) | env_of(names, step)
        outputs = evaluate(graph, env, varying, sizes.state_axes)
        return outputs[: len(call.state)], outputs[len(call.state) :]

    read = [in_time_order(steps[v], sizes, call.reverse) for v in names]
    length = None if read else sizes.time  # where there is an array, its size may be symbolic
    final, stacked = jax.lax.scan(body, carry, read, length=length, reverse=call.reverse)
    found = call.result([*final, *stacked])
    return LoopResult(
        final,
        [swapped(a, sizes) for a in found.emitted],
        [TimeMajor(a) if sizes.time_axis else a for a in found.residuals],
        [total(some, len(sizes.axes)) for some in grouped(found.accumulated, call.accumulators)],
    )
