"""Hoisting to a time block: products that are computed for many steps at once.

A product of the input does not need the state. So the prologue of a time block can compute it for
all steps of the block. A product that is only emitted can wait for the epilogue. Either way the
weight is read once for a block, not once for a step. `machine.Tuning.prefer_block` decides for
which weights that pays.
"""

from collections.abc import Callable, Sequence

from noria.backends.native.plan.lookup import SpansPieces
from noria.backends.native.plan.stages import BlockDot, Load, Slot
from noria.backends.native.plan.storage import Storage, factors_of
from noria.ir.graph import Atom, Value, is_literal, size, size_in_bytes
from noria.ir.passes import users


def hoist_to_block(
    storage: Storage,
    outputs: Sequence[Atom],
    emitted: Sequence[Atom],
    stays: Sequence[Value],
    prefer_block: Callable[[int, int], bool],
) -> tuple[list[BlockDot], list[BlockDot]]:
    """Take products out of the steps.

    Args:
        storage: the slots of values.
        outputs: all outputs of the step.
        emitted: the emitted values among them.
        stays: inputs whose products stay in the steps.
        prefer_block: whether a product is hoisted, if it can be; of the bytes of its weight, and
            of the weights of all products.

    Returns:
        The products of the prologue, and the products of the epilogue.
    """
    prologue: list[BlockDot] = []
    epilogue: list[BlockDot] = []
    lookup, uses = storage.lookup, users(storage.equations, outputs)

    def is_only_emitted(value: Value) -> bool:
        """Not part of the next state too, nor an operand of an accumulator."""
        return uses.get(value) == [None] and sum(v is value for v in outputs) == 1

    products = [e for e in storage.equations if e.name == "dot_general"]
    all_weights = sum(map(size_in_bytes, {factors_of(e)[1] for e in products}))
    for equation in products:
        row, weight, _ = factors_of(equation)
        (value,) = equation.outputs
        if not prefer_block(size_in_bytes(weight), all_weights):
            continue
        slot, given = Slot("time_block", len(storage.time_block)), _input(storage, row, stays)
        if given is not None:
            lookup.slots[value] = slot
            lookup.leaves.add(value)
            storage.time_block.append(value)
            source = lookup.slots[given.value].moved(given.offset)
            prologue.append(BlockDot(equation, source, slot))
        elif value in emitted and is_only_emitted(value) and not is_literal(row):
            storage.add_store(row, slot)
            storage.time_block.append(row)
            epilogue.append(BlockDot(equation, slot, Slot("emitted", emitted.index(value))))
            given = Load(row, 0, size(row))
        else:
            continue
        storage.add_dot(equation, given)
        del lookup.producer[value]
    storage.equations = tuple(e for e in storage.equations if e not in storage.dots)
    return prologue, epilogue


def _input(storage: Storage, row: Atom, stays: Sequence[Value]) -> Load | None:
    """A row vector as a part of the input of a step, if it is one."""
    try:
        read = storage.lookup.node_at(row, 0, size(row))
    except SpansPieces:
        return None
    if not isinstance(read, Load) or read.value not in storage.steps or read.value in stays:
        return None
    return read if read.extent == size(row) else None
