"""What a loop backend is given, and what it promises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria._jax import ShapedArray


class PreviousStep(NamedTuple):
    """Arrays of all steps, of which a loop reads at each step that of the step which it takes next; at the last, ``first``."""

    array: Any
    first: Any

    def whole(self, reverse: bool) -> Any:
        """What a loop reads, in the order of time; ``reverse`` if it goes from the last step to the first."""
        first = self.first[None]
        return (
            jnp.concatenate([first, self.array])[:-1]
            if reverse
            else jnp.concatenate([self.array, first])[1:]
        )


def grouped(operands: Sequence[Any], totals: Sequence[int]) -> list[tuple[Any, ...]]:
    """The operands of each total: one or two, one after the other."""
    rest = iter(operands)
    return [tuple(next(rest) for _ in range(count)) for count in totals]


def aval_of_total(operands: Sequence[Any]) -> Any:
    """Shape and dtype of a total of values of one step and example."""
    shape = (
        operands[0].aval.shape if len(operands) == 1 else tuple(v.aval.shape[0] for v in operands)
    )
    return ShapedArray(shape, operands[0].aval.dtype)


def total(operands: Sequence[Any], axes: int = 2) -> Any:
    """The sum over the first ``axes`` axes of an array, or of the outer products of the vectors in two."""
    summed = tuple(range(axes))
    first, *others = operands
    if not others:
        return first.sum(summed)
    return jax.lax.dot_general(first, others[0], ((summed, summed), ((), ())), precision="highest")


@dataclass(frozen=True)
class LoopBackend:
    """A way to run a loop that the compiler has taken out of a cell, forward or reverse.

    Attributes:
        run: ``run(graph, known, state, steps, start, axes, reverse, totals, batch_major) -> (final state, stacked, summed)``, where ``graph`` is one
            step of one example, its first outputs the next ``state``; arrays of ``known`` are the same for all, those of ``steps``
            have the axes time and batch (``axes``) in front, those of ``start`` the batch. ``totals`` are numbers of operands, which
            are the last outputs: what is summed over all steps and examples is a value (1) or the outer product of two vectors (2).
            Arrays of the values ``batch_major``, read or stacked, come from the caller or go there, where the batch is the first
            axis: so they lie in memory, though time is the first axis here. Whoever keeps to that saves a copy.
        packs: whether it puts weights into an order of its own, so that it need not be given transposed ones.
        shifts: whether arrays of ``steps`` may be `noria.backends.base.PreviousStep`.
        should_hoist: ``should_hoist(equation, given, batch, light)``, whether it pays to take a product of the input out of the loop; a step is
            ``given`` these values, and a loop is ``light`` if it has no product of the state.
        slices: whether the loop may take slices of what is lifted; if not it is lifted in slices.
        sums: ``sums(equation)``, whether totals may be made of what this equation gives; for others, and ``None``, the compiler
            stacks what is needed and contracts it after the loop.
    """

    run: Callable[..., Any]
    should_hoist: Callable[..., bool]
    slices: bool
    sums: Callable[..., bool] | None
    shifts: bool
    packs: bool
