"""Where everything stands while a kernel runs: the buffers that it is given, and scratch memory.

The buffers are those of `Schedule`: shared, steps, what shifted ones read last, the state before the first step; then the final state, what is emitted, totals, and
scratch memory. Arrays of steps and what is emitted have the axes time and batch in front, the states the batch; in memory the batch may be the outermost. In scratch
memory stand the panels, then for each state two arrays between which steps alternate, then values of single steps, sums, what is put aside for a few
steps, and then what there is of all steps of a time block: values in the order of time, and records.
"""

from llvmlite import ir

from noria.backends.native.codegen import microkernels
from noria.backends.native.codegen.llvm import POINTER, at, i64
from noria.backends.native.plan.schedule import INPUTS, RESULTS, Schedule
from noria.backends.native.plan.tiling import KernelPlan, Panel, bytes_of_rows

#: Addresses, by kind and index.
Arrays = dict[tuple[str, int], ir.Value]


def panel_at(
    b: ir.IRBuilder, buffers: "Buffers", plan: KernelPlan, panel: Panel, j: ir.Value
) -> ir.Value:
    """Where the panel of block ``j`` stands."""
    width = panel.dot.depth * len(panel.columns) * microkernels.bytes_of(plan.panel_vector(panel))
    return at(b, at(b, buffers.scratch, panel.scratch_offset), b.mul(j, i64(width)))


class Buffers:
    """The addresses of all buffers, by kind and index; those of ``next`` are for the final state."""

    def __init__(self, b: ir.IRBuilder, table: ir.Value, schedule: Schedule):
        found = [(place.kind, place.number) for place in schedule.buffers((*INPUTS, *RESULTS))]
        found.append(("scratch", 0))
        self._table = {
            key: b.load(at(b, table, 8 * i), typ=POINTER, align=8) for i, key in enumerate(found)
        }

    def __getitem__(self, key: tuple[str, int]) -> ir.Value:
        return self._table[key]

    @property
    def scratch(self) -> ir.Value:
        return self._table["scratch", 0]


def arrays(
    b: ir.IRBuilder, plan: KernelPlan, buffers: Buffers, batch: ir.Value, block_steps: ir.Value
) -> Arrays:
    """What stands in scratch memory behind the panels; of a state there are ``one`` and ``two``."""
    schedule = plan.schedule
    of_step = [(kind, n) for n in range(len(schedule.state)) for kind in ("one", "two")]
    of_step += [("scratch", n) for n in range(len(schedule.scratch))]
    of_step += [("sum", n) for n in range(len(plan.reductions))]
    of_step += [("staged", n) for n in range(len(plan.staged))]
    of_stretch = [
        (kind, n) for kind in ("time_block", "operand") for n in range(len(schedule.values(kind)))
    ]
    place, found, rows = at(b, buffers.scratch, plan.panel_bytes), {}, b.mul(batch, block_steps)
    for names, widths, count in (
        (of_step, plan.scratch_widths(), batch),
        (of_stretch, plan.block_widths(), rows),
    ):
        for name, width in zip(names, widths, strict=True):
            found[name] = place
            place = at(b, place, bytes_of_rows(b, count, width))
    return found
