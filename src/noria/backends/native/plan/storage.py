"""The stored values and their slots: the working state of the planner."""

from collections.abc import Container, Sequence
from typing import Any

from noria.backends.native.lower.supported import check_dtype, has_native_code
from noria.backends.native.plan.lookup import Lookup
from noria.backends.native.plan.stages import Dot, Load, Slot
from noria.ir.graph import Atom, Equation, Graph, is_literal, size


class Storage:
    """The slots of values. The planner adds slots until each stage can compute its results.

    Args:
        graph: legal equations of one example and one step.
        shared: the inputs that are the same for all steps and examples.
        steps: the other inputs.
        state: the values that the first outputs replace.

    Attributes:
        equations: the equations of the steps, without products of time blocks.
        scratch: values stored for one step.
        time_block: values stored for all steps of a time block.
        update_operands: operands of rank updates.
        extra_stores: further slots of values.
        constants: literals, and the slots that they go to.
        dots: the products.
    """

    def __init__(
        self, graph: Graph, shared: Sequence[Any], steps: Sequence[Any], state: Sequence[Any]
    ):
        self.shared, self.steps = tuple(shared), tuple(steps)
        self.equations = graph.equations
        slots = {
            value: Slot(kind, i)
            for kind, values in (("shared", shared), ("step", steps), ("state", state))
            for i, value in enumerate(values)
        }
        producer = {v: e for e in graph.equations for v in e.outputs}
        for value in slots:
            check_dtype(value)  # also inputs that no equation reads, which are stored all the same
        matrix = frozenset(e for e in graph.equations if not has_native_code(e))
        self.lookup = Lookup(producer, slots, set(slots), matrix)
        self.scratch: list[Any] = []
        self.time_block: list[Any] = []
        self.update_operands: list[Any] = []
        self.extra_stores: dict[Any, list[Slot]] = {}
        self.constants: list[tuple[Any, Slot]] = []
        self.dots: dict[Equation, Dot] = {}

    def store(self, value: Any) -> None:
        """Store a value in scratch memory, if it is not stored yet."""
        if value not in self.lookup.slots:
            self.lookup.slots[value] = Slot("scratch", len(self.scratch))
            self.scratch.append(value)

    def add_store(self, atom: Atom, slot: Slot) -> None:
        """Store a value or a literal in one more slot."""
        if is_literal(atom):
            self.constants.append((atom, slot))
        else:
            self.extra_stores.setdefault(atom, []).append(slot)

    def store_outputs(
        self, outputs: Sequence[Atom], slots: Sequence[Slot], besides: Container[Slot]
    ) -> None:
        """Store the outputs of the step, besides those in slots that are filled otherwise."""
        for atom, slot in zip(outputs, slots, strict=True):
            if slot in besides:
                continue
            if is_literal(atom) or atom in self.lookup.slots:
                self.add_store(atom, slot)
            else:
                self.lookup.slots[atom] = slot

    # --- products ---------------------------------------------------------------------------------

    def row_of(self, equation: Equation) -> Load:
        """The row vector of a product, which is stored if it is not in memory as a vector."""
        row, _, _ = factors_of(equation)
        read = self.lookup.node_at(row, 0, size(row))
        if isinstance(read, Load) and read.extent == size(row):
            return read
        self.store(row)
        return Load(row, 0, size(row))

    def add_dot(self, equation: Equation, row: Load) -> None:
        """Describe a product of a row vector."""
        _, matrix, axis = factors_of(equation)
        weight = self.lookup.node_at(matrix, 0, size(matrix))
        assert isinstance(weight, Load)
        depth, width = matrix.aval.shape[axis], matrix.aval.shape[1 - axis]
        number = self.shared.index(weight.value)
        self.dots[equation] = Dot(row, number, weight.offset, depth, width, axis)


def factors_of(equation: Equation) -> tuple[Any, Any, int]:
    """The row vector of a product, the matrix, and the axis of the matrix that is contracted."""
    ((one,), (other,)), _ = equation.params["dimension_numbers"]
    left, right = equation.inputs
    return (right, left, one) if left.aval.ndim == 2 else (left, right, other)
