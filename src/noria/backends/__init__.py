"""The ways to run a cell over a sequence. All take the same arguments and give the same answer.

``run(cell, start, own, xs, lengths, resets, keys, batched, reverse) -> (state, ys)`` where

=========== =======================================================================================================
``cell``    transition and emission of one example and one step
``start``   the state before the first step, already with a batch axis if ``batched``
``own``     the layer's initial state for one example, which a reset puts back
``xs``      pytree of ``(time, ...)`` or ``(batch, time, ...)``
``lengths`` ``()`` or ``(batch,)`` valid steps, or ``None``
``resets``  ``(time,)`` or ``(batch, time)``, true where the state is put back before that step is taken, or ``None``
``keys``    random keys, one a step, or ``None``
``reverse`` whether steps are taken from the last to the first
=========== =======================================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from noria.backends import native, plain, reference, scan


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
        shifts: whether arrays of ``steps`` may be `noria.graph.Shifted`.
        lifts: ``lifts(equation, given, batch, light)``, whether it pays to take a product of the input out of the loop; a step is
            ``given`` these values, and a loop is ``light`` if it has no product of the state.
        slices: whether the loop may take slices of what is lifted; if not it is lifted in slices.
        sums: ``sums(equation)``, whether totals may be made of what this equation gives; for others, and ``None``, the compiler
            stacks what is needed and contracts it after the loop.
    """

    run: Callable[..., Any]
    lifts: Callable[..., bool]
    slices: bool
    sums: Callable[..., bool] | None
    shifts: bool
    packs: bool


#: Backends that run the cell as it is.
WHOLE: dict[str, Callable[..., Any]] = {"reference": reference.run, "plain": plain.run}

LOOPS = {
    "scan": LoopBackend(scan.loop, scan.lifts, slices=False, sums=None, shifts=False, packs=False),
    "native": LoopBackend(
        native.loop, native.lifts, slices=True, sums=native.is_expressible, shifts=True, packs=True
    ),
}

#: What a layer may be told.
NAMES = (*WHOLE, *LOOPS, "associative")
