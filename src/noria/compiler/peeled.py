"""The values of peeled arrays over a sequence: delays, counters, and outputs.

`noria.compiler.peel` finds them. An example takes its first ``length`` steps only. Past the end its
state stays as it is, and a reset there does nothing::

    delay     state_t = entry_(t-1)                 the start state at the first step
    counter   state_t = start + n_t * by            n_t: steps since the start or the last reset
    output    the final state is the last output    the start state without a step
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from noria._jax import is_symbolic
from noria.backends.base import Sizes
from noria.compiler.peel import Counter, Delay, Peeled
from noria.compiler.windows import Window
from noria.ir.evaluate import evaluate, spread
from noria.ir.graph import Env, env_of
from noria.ops.linear_recurrence import shifted

Arrays = list[jax.Array]

#: ``(parameters, arrays of all steps, state that is left) -> (its end, outputs)``.
Rest = Callable[[Env, Env, Arrays, Sizes], tuple[Arrays, Arrays]]


def run_peeled(
    peeled: Peeled, rest: Rest, env: Env, values: Env, state: Arrays, sizes: Sizes, reverse: bool
) -> tuple[Arrays, Arrays]:
    """Final state and outputs of a step whose ``rest`` runs without the peeled arrays.

    Args:
        peeled: the peeled arrays.
        rest: runs the rest of the step.
        env: the parameters.
        values: arrays of all steps for the input.
        state: the whole state before the first step.
        sizes: of time and batch.
        reverse: whether steps are taken from the last to the first.
    """
    starts, finals = env_of(peeled.state, state), {}
    valid, reset = (None if v is None else values[v] for v in (peeled.valid, peeled.reset))
    taken, values = Taken(sizes, reverse, valid, reset), dict(values)
    if peeled.counters:
        counts = taken.counts()
        for counter in peeled.counters:
            by, own = evaluate(counter.by, env, {}, ())[0], env[counter.own]
            values[counter.state], finals[counter.state] = taken.counted(
                counter, counts, starts[counter.state], own, by
            )
    for stage in peeled.stages:
        found = evaluate(stage.graph, env, values, sizes.axes)
        values |= env_of(stage.graph.outputs, found)
        for delay, entries in zip(stage.delays, found, strict=False):
            values[delay.state], finals[delay.state] = taken.delayed(
                delay, entries, starts[delay.state], env[delay.own]
            )
    ends, outputs = rest(env, values, [starts[v] for v in peeled.looped], sizes)
    finals |= env_of(peeled.looped, ends)
    finals |= {v: taken.last(outputs[n], starts[v]) for v, n in peeled.outputs.items()}
    return [finals[v] for v in peeled.state], outputs[: peeled.emitted]


@dataclass(frozen=True)
class Taken:
    """The steps that are taken, in their order.

    Attributes:
        sizes: of time and batch.
        reverse: whether steps are taken from the last to the first.
        valid: of all steps, false past the end; ``None`` if all are taken.
        reset: of all steps, true at a reset; ``None`` if there is none.
    """

    sizes: Sizes
    reverse: bool
    valid: jax.Array | None
    reset: jax.Array | None

    @property
    def axis(self) -> int:
        return self.sizes.time_axis

    def last(self, array: jax.Array, start: jax.Array) -> jax.Array:
        """The value at the last step of each example; ``start`` for one without a step."""
        time, axis, valid = self.sizes.time, self.axis, self.valid
        if not is_symbolic(time) and not time:
            return start
        end = functools.partial(
            jax.lax.index_in_dim, index=0 if self.reverse else -1, axis=axis, keepdims=False
        )
        if valid is None:
            return end(array)
        if self.reverse:
            return jnp.where(_like(end(valid), start), end(array), start)
        index = jnp.sum(valid, axis, dtype=jnp.int32, keepdims=True) - 1
        places = _like(jnp.maximum(index, 0), array)
        found = jnp.squeeze(jnp.take_along_axis(array, places, axis), axis)
        return jnp.where(_like(jnp.squeeze(index, axis) >= 0, start), found, start)

    def later(self, array: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The value of the step before at each step, and the value of the last step.

        Past the end of an example it is the value of its last step, as in a loop.
        """
        final, moved = self.last(array, start), shifted(array, start, self.reverse, self.axis)
        if self.valid is None:
            return moved, final
        taken, kept = self.valid, final
        if self.reverse:
            first = jnp.zeros(self.sizes.state_axes, bool)
            taken, kept = shifted(taken, first, True, self.axis), start
        return jnp.where(_like(taken, moved), moved, self.at_all_steps(kept)), final

    def at_all_steps(self, array: jax.Array) -> jax.Array:
        """One array of each example, at all steps."""
        repeated = spread(array, (self.sizes.time,))
        return jnp.swapaxes(repeated, 0, 1) if self.axis else repeated

    # --- delays ---------------------------------------------------------------------------------

    def delayed(
        self, delay: Delay, entries: jax.Array, start: jax.Array, own: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The state before each step, and the final state."""
        window = delay.window
        if window is None:
            return self.later(entries, start)
        axis, count = window.axis - delay.state.aval.ndim, window.entries
        starts = jnp.split(start, count, axis)
        if self.valid is None and self.reset is None:
            states, finals = self.windowed(window, entries, starts)
        else:
            states, finals = [*starts], [*starts]
            owns = jnp.split(own.astype(start.dtype), count, axis)
            for n in window.by_age:
                states[n], finals[n] = self.later(entries, starts[n])
                entries = self.after_reset(states[n], owns[n])
        return jnp.concatenate(states, axis), jnp.concatenate(finals, axis)

    def windowed(self, window: Window, entries: jax.Array, starts: Arrays) -> tuple[Arrays, Arrays]:
        """The entries before each step, and after the last one: slices of all that there were."""
        time, count = self.sizes.time, window.entries
        old = [jnp.expand_dims(starts[n], self.axis) for n in window.by_age]
        every = jnp.concatenate(
            [entries, *old] if self.reverse else [*old[::-1], entries], self.axis
        )
        states, finals = [*starts], [*starts]
        for age, n in enumerate(window.by_age, 1):
            begin = age if self.reverse else count - age
            states[n] = jax.lax.slice_in_dim(every, begin, begin + time, axis=self.axis)
            end = age - 1 if self.reverse else time + count - age
            finals[n] = jax.lax.index_in_dim(every, end, self.axis, keepdims=False)
        return states, finals

    def after_reset(self, states: jax.Array, own: jax.Array) -> jax.Array:
        """The state that the cell reads."""
        if self.reset is None:
            return states
        everywhere = spread(own, self.sizes.axes)
        return jnp.where(_like(self.reset, states), everywhere, states)

    # --- counters -------------------------------------------------------------------------------

    def counts(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The steps taken before each step and in all, since the last reset or the start.

        Two arrays of numbers, and two that are true if there was a reset since the start.
        """
        axes, axis = self.sizes.axes, self.axis
        others = [n for n in range(len(axes)) if n != axis]
        total = jnp.full([1] * len(axes), self.sizes.time, jnp.int32)
        if self.valid is not None:
            total = jnp.sum(self.valid, axis, dtype=jnp.int32, keepdims=True)
        place = jnp.expand_dims(jnp.arange(self.sizes.time, dtype=jnp.int32), others)
        before = jnp.clip(total - 1 - place if self.reverse else place, 0, total)
        if self.reset is None:
            never = jnp.zeros((), bool)
            return before, jnp.squeeze(total, axis), never, never
        taken = self.reset if self.valid is None else self.reset & self.valid
        marks = jnp.where(taken, before, -1)
        latest = jax.lax.cummax(marks, axis, reverse=self.reverse)
        at_end = jnp.max(marks, axis, keepdims=True, initial=-1)
        ends = jnp.squeeze(total - jnp.maximum(at_end, 0), axis)
        return (
            before - jnp.maximum(latest, 0),
            ends,
            latest >= 0,
            jnp.squeeze(at_end, axis) >= 0,
        )

    def counted(
        self,
        counter: Counter,
        counts: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
        start: jax.Array,
        own: jax.Array,
        by: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """The state before each step, and the final state.

        A sum of floating-point numbers is a multiple only while it is whole and has few digits;
        otherwise the steps are added one by one.
        """
        own, dtype = own.astype(start.dtype), start.dtype

        def at_once(start: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
            def value(n: jax.Array, was_reset: jax.Array, start: jax.Array, axes: Any) -> Any:
                base = jnp.where(_like(was_reset, start), spread(own, axes), start)
                return base + _like(n.astype(dtype), start) * by

            before, total, reset_before, reset = counts
            states = value(before, reset_before, self.at_all_steps(start), self.sizes.axes)
            return states, value(total, reset, start, self.sizes.state_axes)

        if not jnp.issubdtype(dtype, jnp.inexact):
            return at_once(start, own)
        most = 2.0 ** (jnp.finfo(dtype).nmant + 1) - counter.known * jnp.asarray(
            self.sizes.time, dtype
        )
        few = functools.reduce(
            jnp.logical_and,
            [jnp.all((a == jnp.round(a)) & (jnp.abs(a) <= most)) for a in (start, own)],
        )
        return jax.lax.cond(few, at_once, functools.partial(self.one_by_one, by=by), start, own)

    def one_by_one(
        self, start: jax.Array, own: jax.Array, by: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The result of `counted`, by a loop over the steps."""
        flags = [
            None if a is None else jnp.moveaxis(a, self.axis, 0) for a in (self.valid, self.reset)
        ]
        places = jnp.arange(self.sizes.time)
        again = spread(own, self.sizes.state_axes)

        def step(state: jax.Array, given: Any) -> tuple[jax.Array, jax.Array]:
            valid, reset, _ = given
            before = state if reset is None else jnp.where(_like(reset, state), again, state)
            after = before + by
            return after if valid is None else jnp.where(_like(valid, state), after, state), before

        final, states = jax.lax.scan(step, start, (*flags, places), reverse=self.reverse)
        return jnp.moveaxis(states, 0, self.axis), final


def _like(flags: jax.Array, array: jax.Array) -> jax.Array:
    """Flags or numbers of steps and examples with the rank of ``array``."""
    return flags.reshape(flags.shape + (1,) * (array.ndim - flags.ndim)) if flags.ndim else flags
