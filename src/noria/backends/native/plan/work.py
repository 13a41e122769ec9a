"""The division of a call: the shares of threads, and the steps of a time block."""

from noria._integers import ceil_div
from noria.backends.native.machine import Tuning
from noria.backends.native.plan.cores import cores
from noria.backends.native.plan.matrices import MatrixStage
from noria.backends.native.plan.schedule import Schedule
from noria.backends.native.plan.tiling import KernelPlan
from noria.ir.graph import size
from noria.ir.primitives import VIEWS


def shares_of(
    schedule: Schedule, time: int, batch: int, models: int, tuning: Tuning
) -> tuple[int, bool]:
    """The number of shares, and whether they are shares of the features, not rows of the batch.

    With at least as many models as shares, shares are whole models.

    Features are divided if there are few rows, and each stage is so much work that waiting for the
    other threads after it costs little. Reductions need all features, and stages on matrices all
    rows, so they rule that out. Each thread reads only its part of the weights, so there may be
    more rows if the weights are larger than the cache of a core.
    """
    products = {equation: 2 * dot.depth * dot.width for equation, dot in schedule.dots.items()}
    hoisted = sum(products[p.equation] for p in (*schedule.prologue, *schedule.epilogue))
    results = [v for e in schedule.equations if e.name not in VIEWS for v in e.outputs]
    step = sum(products.values()) - hoisted + 4 * sum(map(size, results))
    # Prologue and epilogue of a time block are always divided by features.
    block = hoisted + sum(2 * size(accumulator) for accumulator in schedule.accumulators)
    threads = tuning.threads or cores()
    flops = models * time * batch * (step + block)
    shares = max(1, min(threads, flops // tuning.thread_flops))
    if models >= shares:
        return shares, False
    work = step * batch // len(schedule.stages)
    reduces = any(isinstance(stage, MatrixStage) or stage.reductions for stage in schedule.stages)
    is_cached = schedule.weight_bytes <= tuning.cached_weight_bytes
    few = shares * (tuning.feature_rows if is_cached else tuning.uncached_feature_rows)
    if shares > 1 and batch <= few and work > tuning.stage_flops and not reduces:
        return shares, True
    of_rows = shares if block else min(shares, batch)
    return max(of_rows, min(shares, models)), False


def block_steps(plan: KernelPlan, time: int, batch: int, tuning: Tuning) -> int:
    """Steps of a time block: blocks are nearly equal, with about the rows that `Tuning` names."""
    kept = sum(plan.block_widths())
    if plan.schedule.accumulators:
        rows = tuning.block_rows
    elif kept:
        by_unit = any(tiling.by_unit for _, tiling in (*plan.prologue, *plan.epilogue))
        rows = ceil_div(tuning.unit_block_bytes if by_unit else tuning.block_bytes, kept)
    else:
        return time
    return ceil_div(time, min(time, ceil_div(time * batch, rows)))
