"""Packing: the function ``pack`` fills the panels of a share of all weights, once for each call."""

from collections.abc import Sequence

from llvmlite import ir

from noria.backends.native.codegen import microkernels
from noria.backends.native.codegen.addresses import Buffers, panel_at, panel_vector
from noria.backends.native.codegen.llvm import I64, POINTER, VOID, at, i64, in_share
from noria.backends.native.plan.tiling import (
    KernelPlan,
    Panel,
    PanelSegment,
    StageTiling,
    item_of,
)


def emit_pack(plan: KernelPlan, module: ir.Module) -> None:
    """Add to a module ``void pack(void** buffers, int64 share, int64 shares)``."""
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER, I64, I64]), "pack")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    table, share, shares = function.args
    buffers = Buffers(b, table, plan.schedule)
    of_blocks = [tiling for _, tiling in (*plan.prologue, *plan.epilogue)]
    for tiling in () if plan.unpacked else (*plan.tilings, *of_blocks):
        for panel in tiling.panels:
            for j, counts in in_share(b, *plan.counts(tiling), share, shares):
                _pack(b, buffers, plan, tiling, panel, j, counts)
    b.ret_void()


def _pack(
    b: ir.IRBuilder,
    buffers: Buffers,
    plan: KernelPlan,
    tiling: StageTiling,
    panel: Panel,
    j: ir.Value,
    counts: Sequence[int],
) -> None:
    """Fill the panel of block ``j``, whose vectors have these numbers of features."""
    vectors = [
        [columns_of(b, buffers, plan, tiling, j, segment) for segment in segments]
        for segments in plan.segments(panel, counts)
    ]
    address = panel_at(b, buffers, plan, panel, j)
    microkernels.pack(b, panel_vector(plan, panel), address, vectors)


def columns_of(
    b: ir.IRBuilder,
    buffers: Buffers,
    plan: KernelPlan,
    tiling: StageTiling,
    j: ir.Value,
    segment: PanelSegment,
) -> microkernels.Columns:
    """The columns of a weight that a segment of block ``j`` consists of."""
    product = segment.product
    dot, item = plan.schedule.dots[product.equation], item_of(product.equation.outputs[0])
    block = b.mul(j, i64(tiling.vectors * plan.lanes))
    first = b.add(block, i64(product.offset + segment.first))
    weight = at(b, buffers["shared", dot.weight], dot.offset * item)
    return microkernels.Columns(weight, dot.shape, dot.contracted_axis, first, segment.width)
