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
from typing import Any

from noria.backends import native, plain, reference, scan
from noria.backends.base import LoopBackend

#: Backends that run the cell as it is.
CELL_BACKENDS: dict[str, Callable[..., Any]] = {"reference": reference.run, "plain": plain.run}

LOOP_BACKENDS = {
    "scan": LoopBackend(
        scan.loop, scan.should_hoist, slices=False, sums=None, shifts=False, packs=False
    ),
    "native": LoopBackend(
        native.loop,
        native.should_hoist,
        slices=True,
        sums=native.has_native_code,
        shifts=True,
        packs=True,
    ),
}

#: What a layer may be told.
NAMES = (*CELL_BACKENDS, *LOOP_BACKENDS, "associative")
