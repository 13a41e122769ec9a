"""The division of a call into the shares of threads."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from noria._integers import ceil_div
from noria.backends.native.machine import Tuning
from noria.backends.native.plan.cores import cores
from noria.backends.native.plan.schedule import Schedule
from noria.backends.native.plan.stages import Stage
from noria.ir.graph import Equation, size
from noria.ir.primitives import SOLVE, SOLVES, VIEWS


class Division(NamedTuple):
    """The shares of a call.

    Attributes:
        shares: their number.
        by_features: whether they are shares of the features of a stage, not rows of the batch.
        rows: the rows of the batch that a thread takes.
        block_rows: the rows of all steps that it takes of a product for a time block.
        of_examples: whether each thread has an example at least.
    """

    shares: int
    by_features: bool
    rows: int
    block_rows: int
    of_examples: bool


def most_threads(tuning: Tuning) -> int:
    """The threads of a call that is large enough."""
    return tuning.threads or cores()


def flops_beside_products(equations: Iterable[Equation]) -> int:
    """Operations of a step for one example: some for each number that is computed."""
    return 4 * sum(map(_numbers, equations))


def _numbers(equation: Equation) -> int:
    """The numbers that an equation computes, also on the way to its results."""
    if equation.name in SOLVES:
        matrix, right = (v.aval for v in equation.inputs)
        rows = matrix.shape[-1] if equation.name == SOLVE else right.shape[-2]
        return rows * math.prod(matrix.shape) // 2
    return 0 if equation.name in VIEWS else sum(map(size, equation.outputs))


def divided(schedule: Schedule, time: int, batch: int, models: int, tuning: Tuning) -> Division:
    """The division of a call. With at least as many models as shares, shares are whole models."""
    shares, by_features = _shares(schedule, time, batch, models, tuning)
    if models >= shares:
        return Division(shares, False, batch, time * batch, True)
    rows = batch if by_features else ceil_div(batch, shares)
    of_examples = not by_features and batch >= shares
    return Division(shares, by_features, rows, time * batch // shares, of_examples)


def _shares(
    schedule: Schedule, time: int, batch: int, models: int, tuning: Tuning
) -> tuple[int, bool]:
    """The number of shares, and whether they are shares of the features, not rows of the batch.

    Features are divided if there are few rows, and each stage is so much work that waiting for the
    other threads after it costs little. Reductions need all features, and stages on matrices all
    rows. They rule that out, but for a single step, where threads share the examples of such a
    stage. Each thread reads only its part of the weights, so there may be
    more rows if the weights are larger than the cache of a core.
    """
    products = {equation: 2 * dot.depth * dot.width for equation, dot in schedule.dots.items()}
    hoisted = sum(products[p.equation] for p in (*schedule.prologue, *schedule.epilogue))
    step = sum(products.values()) - hoisted + flops_beside_products(schedule.equations)
    # Prologue and epilogue of a time block are always divided by features.
    block = hoisted + sum(2 * size(accumulator) for accumulator in schedule.accumulators)
    threads = most_threads(tuning)
    flops = models * time * batch * (step + block)
    shares = max(1, min(threads, flops // tuning.thread_flops))
    if models >= shares:
        return shares, False
    work = step * batch // len(schedule.stages)
    reduces = any(not isinstance(stage, Stage) or stage.reductions for stage in schedule.stages)
    is_cached = schedule.weight_bytes <= tuning.cached_weight_bytes
    few = tuning.feature_rows if is_cached else tuning.uncached_feature_rows
    is_divisible = time == 1 or not reduces
    if shares > 1 and batch <= few * shares and work > tuning.stage_flops and is_divisible:
        return shares, True
    of_rows = shares if block else min(shares, batch)
    return max(of_rows, min(shares, models)), False
