"""The phases of a kernel: which function does a share of phase ``n`` of a model.

Phase 0 packs the weights, unless they are given as panels. Then each time block has the same
phases::

    block_prologue     if there are products to make for all steps of the block
    run                one phase if threads share the rows of the batch: all steps of the block;
                       else one phase for each stage of each step, whose features they share
    block_epilogue     if there are products left, or accumulators
"""

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I64,
    POINTER,
    VOID,
    begin_function,
    i64,
    minimum,
    share_of,
)
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime.team import Team


class Phases:
    """Adds to the module of a kernel ``perform(team, table, phase, share, shares)``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        self.plan, self.module = plan, module

    def of_block(self, b: ir.IRBuilder, block_steps: ir.Value) -> ir.Value:
        """The number of phases in a time block."""
        stages = i64(len(self.plan.tilings))
        loops = b.mul(block_steps, stages) if self.plan.by_features else i64(1)
        others = sum(f"block_{part}" in self.module.globals for part in ("prologue", "epilogue"))
        return b.add(loops, i64(others))

    def emit(self) -> None:
        kinds = POINTER, POINTER, I64, I64, I64
        b, arguments = begin_function(self.module, "perform", VOID, *kinds)
        pointer, table, phase, share, shares = arguments
        team = Team(b, pointer)
        with b.if_else(b.icmp_signed("==", phase, i64(0))) as (is_first, is_later):
            with is_first:
                if self.plan.given_panels is None:
                    b.call(self.module.globals["pack"], [table, share, shares])
            with is_later:
                self._phase_of_block(team, table, b.sub(phase, i64(1)), share, shares)
        b.ret_void()

    def _phase_of_block(
        self, team: Team, table: ir.Value, phase: ir.Value, share: ir.Value, shares: ir.Value
    ) -> None:
        """A share of a phase, counted from the first phase of the first time block."""
        b, functions = team.b, self.module.globals
        sizes = [team.load(name) for name in ("time", "batch", "reverse", "block_steps")]
        time, _, _, block_steps = sizes
        phases = team.load("phases_of_block")
        number, begin = b.urem(phase, phases), b.mul(b.udiv(phase, phases), block_steps)
        end = minimum(b, b.add(begin, block_steps), time)
        is_first, is_last = i64(0), b.sub(phases, i64(1))
        has_prologue = "block_prologue" in functions
        done = b.append_basic_block("done")
        for name, position in (("block_prologue", is_first), ("block_epilogue", is_last)):
            if name in functions:
                with b.if_then(b.icmp_signed("==", number, position)):
                    b.call(functions[name], [table, *sizes, begin, end, share, shares])
                    b.branch(done)
        self._run(
            b, [table, *sizes], (begin, end), b.sub(number, i64(int(has_prologue))), share, shares
        )
        b.branch(done)
        b.position_at_end(done)

    def _run(
        self,
        b: ir.IRBuilder,
        arguments: list[ir.Value],
        block: tuple[ir.Value, ir.Value],
        number: ir.Value,
        share: ir.Value,
        shares: ir.Value,
    ) -> None:
        """A share of phase ``number`` of the loop over the steps of a time block."""
        (begin, end), run = block, self.module.globals["run"]
        if not self.plan.by_features:
            batch = arguments[2]
            b.call(run, [*arguments, begin, end, *share_of(b, batch, share, shares)])
            return
        stages = i64(len(self.plan.tilings))
        step = b.add(begin, b.udiv(number, stages))
        with b.if_then(b.icmp_signed("<", step, end)):  # the last block may have fewer steps
            b.call(run, [*arguments, step, b.urem(number, stages), share, shares])
