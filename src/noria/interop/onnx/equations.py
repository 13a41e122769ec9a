"""One equation of a traced step, for the functions that write it as nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from noria.interop.onnx.writer import Writer
from noria.ir.graph import Equation

#: A constant, or the name of a value with the leading axes.
Known = np.ndarray | str


class Target(Protocol):
    """The translator of a graph."""

    writer: Writer
    lead: int

    def name(self, known: Known) -> str: ...
    def varying(self, known: Known) -> str: ...
    def fail(self, equation: Equation, reason: str) -> NoReturn: ...


@dataclass(frozen=True)
class Step:
    """One equation, and the translator that its nodes go to."""

    to: Target
    equation: Equation

    @property
    def lead(self) -> int:
        return self.to.lead

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output, without leading axes."""
        shape: tuple[int, ...] = self.equation.outputs[0].aval.shape
        return shape

    @property
    def is_boolean(self) -> bool:
        return self.equation.inputs[-1].aval.dtype == np.bool_

    def rank(self, place: int = 0) -> int:
        """The number of axes of an operand, without leading axes."""
        return len(self.equation.inputs[place].aval.shape)

    def add(self, op: str, *given: Known, **attributes: Any) -> str:
        return self.to.writer.add(op, *map(self.to.name, given), **attributes)

    def number(self, value: float) -> np.ndarray:
        """A number of the type of the operand."""
        return np.asarray(value, self.equation.inputs[0].aval.dtype)

    def ints(self, values: Sequence[int]) -> str:
        return self.to.writer.ints(*values)

    def axes(self, axes: Sequence[int]) -> list[int]:
        return [axis + self.lead for axis in axes]

    def aligned(self, given: Sequence[Known]) -> list[Known]:
        """The operands of an element-wise primitive: a single number gets axes of size 1."""
        most = len(self.shape)
        return [
            self.reshaped(a, [1] * most) if isinstance(a, str) and self.rank(n) < most else a
            for n, a in enumerate(given)
        ]

    def reshaped(self, x: Known, shape: Sequence[int]) -> str:
        return self.add("Reshape", x, self.ints([0] * self.lead + list(shape)))

    def param(self, name: str) -> Any:
        return self.equation.params[name]

    def cast(self, x: Known, dtype: Any) -> str:
        from onnx import helper

        return self.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def fail(self, reason: str) -> NoReturn:
        self.to.fail(self.equation, reason)


#: From a step and the values of its operands to the values of its outputs.
Translation = Callable[..., Any]
