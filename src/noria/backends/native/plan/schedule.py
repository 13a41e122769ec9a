"""A step as a schedule: stages in order, and the slots of all stored values.

`schedule_of` makes a schedule in the order of its decisions. They are the products that are
computed for a time block at once (`hoist`), the stored operands of rank updates (`accumulators`),
and the equations of each stage (`fusion`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from noria.backends.base import aval_of_total, grouped
from noria.backends.native.lower.legalize import legal_step
from noria.backends.native.plan.accumulators import rank_updates
from noria.backends.native.plan.fusion import AnyStage, fuse
from noria.backends.native.plan.hoist import hoist_to_block
from noria.backends.native.plan.lookup import Lookup
from noria.backends.native.plan.stages import BlockDot, Dot, RankUpdate, Slot
from noria.backends.native.plan.storage import Storage
from noria.ir.graph import Atom, Equation, Graph, Value

#: The kinds of buffers that a kernel reads and fills, in the order of its arguments.
INPUTS, RESULTS = ("shared", "step", "boundary", "state"), ("next", "emitted", "accumulator")


@dataclass(frozen=True, eq=False)
class Schedule:
    """A step in stages.

    Attributes:
        shared: the inputs that are the same for all steps and examples.
        steps: the other inputs.
        state: the inputs that the next state replaces.
        previous: ``steps`` of which a step reads the step that the loop takes next.
        unchanged: ``steps`` that are the same at all steps.
        outputs: the next state, then the emitted values.
        accumulators: sums over all steps and examples.
        equations: the equations of the steps; products of time blocks are taken out.
        lookup: the producers and slots of values.
        scratch: values stored for one step.
        time_block: values stored for all steps of a time block.
        update_operands: operands of rank updates, stored for all steps of a time block.
        dots: the products.
        prologue: the products before the steps of a time block.
        epilogue: the products after them.
        updates: the rank updates after them.
        stages: the passes of a step over its features, in order.
    """

    shared: tuple[Value, ...]
    steps: tuple[Value, ...]
    state: tuple[Value, ...]
    previous: tuple[Value, ...]
    unchanged: tuple[Value, ...]
    outputs: tuple[Atom, ...]
    accumulators: tuple[Value, ...]
    equations: tuple[Equation, ...]
    lookup: Lookup
    scratch: tuple[Value, ...]
    time_block: tuple[Value, ...]
    update_operands: tuple[Atom, ...]
    dots: dict[Equation, Dot]
    prologue: tuple[BlockDot, ...]
    epilogue: tuple[BlockDot, ...]
    updates: tuple[RankUpdate, ...]
    stages: tuple[AnyStage, ...]

    @property
    def slots(self) -> dict[Value, Slot]:
        """The slot of each stored value."""
        return self.lookup.slots

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that a step reads."""
        return self._weight_bytes(self.dots.keys() - self._of_blocks)

    @property
    def block_weight_bytes(self) -> int:
        """Bytes of the weights that a time block reads at once, and not step by step."""
        return self._weight_bytes(self._of_blocks)

    @property
    def _of_blocks(self) -> set[Equation]:
        return {product.equation for product in (*self.prologue, *self.epilogue)}

    def _weight_bytes(self, products: Iterable[Equation]) -> int:
        dots = ((self.dots[e], e.outputs[0].aval.dtype.itemsize) for e in products)
        return sum(dot.depth * dot.width * itemsize for dot, itemsize in dots)

    def values(self, kind: str) -> Sequence[Atom]:
        """The values in the buffers of a kind."""
        width = len(self.state)
        return {
            "shared": self.shared,
            "step": self.steps,
            "boundary": self.previous,  # read at the last step
            "state": self.state,
            "next": self.outputs[:width],
            "emitted": self.outputs[width:],
            "accumulator": self.accumulators,
            "scratch": self.scratch,
            "time_block": self.time_block,
            "operand": self.update_operands,
        }[kind]

    def buffers(self, kinds: Sequence[str]) -> list[Slot]:
        """All buffers of some kinds, in the order of the arguments of a kernel."""
        return [Slot(kind, number) for kind in kinds for number in range(len(self.values(kind)))]


def schedule_of(
    graph: Graph,
    shared: Sequence[Value],
    steps: Sequence[Value],
    state: Sequence[Value],
    accumulators: Sequence[int] = (),
    previous: Sequence[Value] = (),
    unchanged: Sequence[Value] = (),
    prefer_block: Callable[[int, int], bool] = lambda weight, all_weights: False,
) -> Schedule:
    """The schedule of a step.

    Args:
        graph: equations of one example and one step. The outputs are the next state, the emitted
            values, and the operands of accumulators.
        shared: the inputs that are the same for all steps and examples.
        steps: the other inputs.
        state: the inputs that the next state replaces.
        accumulators: the number of operands of each: one is summed, two give an outer product.
        previous: ``steps`` of which a step reads the step that the loop takes next.
        unchanged: ``steps`` that are the same at all steps.
        prefer_block: whether a product is computed for a time block at once, if it can be; of the
            bytes of its weight, and of the weights of all products.

    Raises:
        UnsupportedEquation: if there is no native code for an equation.
    """
    graph = legal_step(graph, shared)
    end, width = len(graph.outputs) - sum(accumulators), len(state)
    outputs, operands = graph.outputs[:end], grouped(graph.outputs[end:], accumulators)
    storage, emitted = Storage(graph, shared, steps, state), outputs[width:]
    stays = (*previous, *unchanged)
    blocks = hoist_to_block(storage, graph.outputs, emitted, stays, prefer_block)
    slots = [Slot("next", n) for n in range(width)]
    slots += [Slot("emitted", n) for n in range(len(emitted))]
    storage.store_outputs(outputs, slots, besides={product.target for product in blocks[1]})
    updates = tuple(rank_updates(storage, operands))
    stages = tuple(fuse(storage))
    return Schedule(
        shared=storage.shared,
        steps=storage.steps,
        state=tuple(state),
        previous=tuple(previous),
        unchanged=tuple(unchanged),
        outputs=outputs,
        accumulators=tuple(Value(aval_of_total(some)) for some in operands),
        equations=storage.equations,
        lookup=storage.lookup,
        scratch=tuple(storage.scratch),
        time_block=tuple(storage.time_block),
        update_operands=tuple(storage.update_operands),
        dots=storage.dots,
        prologue=tuple(blocks[0]),
        epilogue=tuple(blocks[1]),
        updates=updates,
        stages=stages,
    )
