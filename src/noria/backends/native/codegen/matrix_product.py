"""A stage that is a product of two matrices: the rows of a tile share their loads.

Each vector of the right matrix is loaded once for several rows of the left matrix. The sums of all
these rows stay in registers. The right matrix is read where it is, not from panels::

    for each tile of rows, and each block of features:
        for each k:   load right[k, block]; sums[row] += left[row, k] * right[k, block]
        store the sums
"""

from collections.abc import Sequence

from llvmlite import ir

from noria.backends.native.codegen.addresses import Addresses
from noria.backends.native.codegen.llvm import carry_loop, for_share, i64
from noria.backends.native.codegen.matrix import MatrixStageCode, neutral_vector
from noria.backends.native.plan.panels import MatrixTiling


class ProductStageCode(MatrixStageCode):
    """As `MatrixStageCode`, for sums over rows only."""

    def __init__(self, addresses: Addresses, tiling: MatrixTiling, axis: int):
        super().__init__(addresses, tiling)
        self.axis = axis
        most = self.plan.register_rows(tiling.vectors * len(self.over_rows))
        self.most = min(most, self.domain[axis])

    def inner_axes(self) -> tuple[int | None, ...]:
        return self.row_axis, self.axis

    def _one_matrix(self) -> None:
        full, rest = divmod(self.domain[self.axis], self.most)
        for tile, count in for_share(self.b, full, self.most, rest, i64(0), i64(1)):
            first = self.b.mul(tile, i64(self.most))
            self.tile = [self.b.add(first, i64(n)) for n in range(count)]
            self._rows(i64(0), i64(self.rows))

    def _block(
        self, block: ir.Value, counts: Sequence[int], start: ir.Value, stop: ir.Value
    ) -> None:
        b, width = self.b, self.tiling.vectors * self.lanes
        self.counts, self.first = counts, b.mul(block, i64(width))
        per_point = [neutral_vector(self._vector(e), e) for e, _ in self.over_rows for _ in counts]

        def step(k: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
            assert self.row_axis is not None
            self.indices[self.row_axis] = b.add(start, k)
            found: list[ir.Value] = []
            for point in self.tile:
                self.indices[self.axis], self._computed = point, {}
                found += self._row(k, sums[len(found) : len(found) + len(per_point)])
            return found

        found = iter(carry_loop(b, b.sub(stop, start), per_point * len(self.tile), step))
        for point in self.tile:
            self.indices[self.axis] = point
            for _, targets in self.over_rows:
                for n, number in enumerate(counts):
                    self._store_sum(next(found), targets, self.first, number, n)
