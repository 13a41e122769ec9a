"""Properties of every schedule: a stage stores all of a value, and reads what is stored.

Otherwise a stage reads memory that nobody has written, and a test may not see it.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

from noria.backends.native.plan.fusion import AnyStage
from noria.backends.native.plan.matrices import MatrixStage
from noria.backends.native.plan.matrix_lookup import LoadAt, MatrixLookup
from noria.backends.native.plan.schedule import Schedule, schedule_of
from noria.backends.native.plan.stages import DotColumns, Load, SolveStage
from noria.ir.graph import size

#: The kinds of the slots that stages fill.
FILLED = ("scratch", "next", "emitted")


def stored(stage: AnyStage) -> set[tuple[str, int]]:
    """The buffers that a stage writes to."""
    if isinstance(stage, SolveStage):
        slots = [*stage.slots]
    elif isinstance(stage, MatrixStage):
        slots = [t.slot for _, some in (*stage.stores, *stage.reductions) for t in some]
    else:
        slots = [slot for _, some in (*stage.stores, *stage.reductions) for slot in some]
    return {(slot.kind, slot.number) for slot in slots}


def read(schedule: Schedule, stage: AnyStage) -> Iterator[Any]:
    """The stored values that a stage loads."""
    if isinstance(stage, SolveStage):
        yield from stage.equation.inputs
        return
    roots = [*(a for a, _ in stage.stores), *(e.inputs[0] for e, _ in stage.reductions)]
    local = stage.local.__contains__
    if isinstance(stage, MatrixStage):
        nodes = MatrixLookup(schedule.lookup).nodes(roots, stage.domain, local)
        yield from (node.value for *_, node in nodes if isinstance(node, LoadAt))
        return
    for *_, node in schedule.lookup.nodes(roots, stage.extent, local):
        if isinstance(node, Load):
            yield node.value
        elif isinstance(node, DotColumns) and node.equation in schedule.dots:
            yield schedule.dots[node.equation].row.value


def check_extent(schedule: Schedule) -> None:
    """Assert that a stage which stores a value goes over all of its elements."""
    for n, stage in enumerate(schedule.stages):
        if isinstance(stage, SolveStage):
            continue
        points = math.prod(stage.domain) if isinstance(stage, MatrixStage) else stage.extent
        for value, _ in stage.stores:
            assert points == size(value), f"stage {n} stores {points} of {size(value)} elements"


def check_order(schedule: Schedule) -> None:
    """Assert that each buffer is complete before a stage reads it."""
    last: dict[tuple[str, int], int] = {}
    for n, stage in enumerate(schedule.stages):
        last.update(dict.fromkeys(stored(stage), n))
    for n, stage in enumerate(schedule.stages):
        for value in read(schedule, stage):
            slot = schedule.slots[value]
            if slot.kind in FILLED:
                at = last.get((slot.kind, slot.number))
                assert at is not None, f"stage {n} reads {slot}, which no stage stores"
                assert at < n, f"stage {n} reads {slot} before stage {at} stores it"


def check_all() -> None:
    """Check every schedule from now on, in this process."""
    from noria.backends.native import kernel_call

    make = schedule_of

    @functools.wraps(make)
    def checked(*args: Any, **options: Any) -> Schedule:
        schedule = make(*args, **options)
        check_extent(schedule)
        check_order(schedule)
        return schedule

    vars(kernel_call)["schedule_of"] = checked
