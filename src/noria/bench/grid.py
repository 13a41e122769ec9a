"""The measured cells, modes and shapes, and the operations of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Steps, examples, features of a step, units."""

    time: int
    batch: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        return ", ".join(map(str, self))


class Kind(NamedTuple):
    """A cell: its name in tables, and how many rows its weights have for each unit."""

    title: str
    input_rows: int
    state_rows: int


CELLS = {
    "lstm": Kind("LSTM", 4, 4),
    "gru": Kind("GRU", 3, 3),
    "rnn": Kind("RNN", 1, 1),
    "lnlstm": Kind("layer-norm LSTM", 4, 4),
    "peephole": Kind("peephole LSTM", 4, 4),
    "mgu": Kind("minimal gated unit", 2, 2),
    "indrnn": Kind("IndRNN", 1, 0),
    "leaky": Kind("leaky cell", 1, 1),
    "mingru": Kind("minGRU", 2, 0),
}

#: Those that other libraries have, too.
COMMON = ("lstm", "gru", "rnn")

MODES = ("inference", "training")

GRID = [
    Shape(*s)
    for s in (
        (128, 32, 256, 256),
        (100, 16, 64, 64),
        (512, 1, 128, 128),
        (200, 64, 128, 128),
        (64, 128, 512, 512),
        (1000, 4, 32, 32),
        (35, 20, 200, 650),
        (784, 64, 1, 128),
        (20, 7, 10, 50),
    )
]
QUICK = [Shape(100, 16, 64, 64), Shape(20, 7, 10, 50)]

#: One of time, batch and units grows, the others stay.
SCALING = [
    *(Shape(time, 16, 128, 128) for time in (64, 128, 256, 512, 1024)),
    *(Shape(128, batch, 128, 128) for batch in (1, 4, 16, 64, 256)),
    *(Shape(128, 16, hidden, hidden) for hidden in (32, 64, 128, 256, 512)),
]

#: One step, as a live stream gives it; and a thousand inside of one call.
STEP, STEPS = Shape(1, 1, 128, 128), Shape(1000, 1, 128, 128)


class Work(NamedTuple):
    """The work of one call.

    ``mode`` is ``"inference"`` (outputs and final state), ``"training"`` or ``"step"`` (one step
    from a state, called from Python). Training computes the mean of the squared outputs, the final
    state, and the gradients of all weights.
    """

    cell: str
    mode: str
    shape: Shape

    @classmethod
    def read(cls, cell: str, mode: str, shape: Sequence[int]) -> "Work":
        """The work that was written as JSON."""
        return cls(cell, mode, Shape(*shape))

    @property
    def weights(self) -> int:
        """Numbers in the matrices of the products; every library must have as many."""
        return sum(self._parts)

    @property
    def flops(self) -> int:
        """Operations of the products, without element-wise work and the gradient of the input."""
        of_inputs, of_state = self._parts
        times = (2, 3) if self.mode == "training" else (1, 1)
        return 2 * self.shape.time * self.shape.batch * (times[0] * of_inputs + times[1] * of_state)

    @property
    def _parts(self) -> tuple[int, int]:
        kind, (_, _, inputs, hidden) = CELLS[self.cell], self.shape
        return kind.input_rows * hidden * inputs, kind.state_rows * hidden * hidden

    def inputs(self, time_major: bool = True) -> Any:
        """Normal numbers, ``(time, batch, inputs)`` or ``(batch, time, inputs)``."""
        xs = np.random.default_rng(0).normal(size=self.shape[:3]).astype(np.float32)
        return xs if time_major else np.ascontiguousarray(xs.swapaxes(0, 1))


def read_shapes(text: str) -> list[Shape]:
    """``"100,16,64,64;20,7,10,50"`` as shapes.

    >>> read_shapes("100,16,64,64; 20,7,10,50")[1].batch
    7
    """
    try:
        shapes = [Shape(*map(int, part.split(","))) for part in text.split(";")]
    except (TypeError, ValueError):
        shapes = []
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise ValueError(
            f'shapes is {text!r}; expected "time,batch,in,hidden", several with semicolons between.'
        )
    return shapes


def read_names(what: str, text: str, known: Sequence[str]) -> list[str]:
    """``"lstm,gru"`` as names, each of which must be known."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise ValueError(
                f"{what}: {name!r} is not known; expected some of {', '.join(known)}, "
                "with commas between."
            )
    return names
