"""The machine that code is generated for: its vector instructions, and the thresholds of the plan.

The defaults of `Tuning` were measured; ``python benchmarks/tuning.py NAME`` repeats the measurement
of a threshold. To run with other thresholds::

    from noria.backends.native.machine import Tuning, using

    with using(Tuning(threads=1)):
        ys = jax.jit(layer)(xs)

They are part of the key of `jax.jit`: a function that was compiled with other thresholds is
compiled anew.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np


class NoSuchMachine(Exception):
    """There is no code generator for this machine, or none for the requested instruction set."""


@dataclass(frozen=True)
class Isa:
    """A set of vector instructions.

    Attributes:
        name: as in ``NORIA_NATIVE_ISA``.
        bits: the width of a vector register.
        registers: the number of vector registers.
        cpu: LLVM's name of a processor that has them; empty for the one at hand.
        features: further features of the target, in LLVM's notation.
        has_unit: whether there is a unit that multiplies tiles of bfloat16 numbers.
        is_fused: whether a multiply-add is one instruction; else its product needs a register.
    """

    name: str
    bits: int
    registers: int
    cpu: str = ""
    features: str = ""
    has_unit: bool = False
    is_fused: bool = True

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """The number of elements of a dtype in a vector."""
        return self.bits // (8 * dtype.itemsize)


#: Best first. The first that the machine has is chosen.
ISAS = {
    "x86": (
        Isa("amx", 512, 32, "x86-64-v4", "-prefer-256-bit,+amx-tile,+amx-bf16", has_unit=True),
        Isa("avx512", 512, 32, "x86-64-v4", "-prefer-256-bit"),
        Isa("avx2", 256, 16, "x86-64-v3"),
        Isa("sse", 128, 16, "x86-64", is_fused=False),
    ),
    "arm": (Isa("neon", 128, 32),),
}


@dataclass(frozen=True)
class Tuning:
    """Every threshold of the native backend.

    A pair has one number for machines with 16 vector registers, and one for those with 32.
    """

    # --- threads ---------------------------------------------------------------------------------

    #: Threads of a call; ``None`` for as many as the process has cores.
    threads: int | None = None

    #: Floating-point operations of a call for each thread. With less, waking the thread costs more
    #: than it saves.
    thread_flops: int = 1_000_000

    #: The same for a step that is called without JAX, whose threads are awake already.
    direct_flops: int = 500_000

    #: Floating-point operations of a stage from which its features are divided among threads. With
    #: less, waiting for the other threads after each stage costs more than it saves.
    stage_flops: int = 100_000

    #: Rows for each thread up to which threads divide the features, if the weights of a step stay
    #: in the cache of a core.
    feature_rows: int = 2

    #: The same if they do not: each thread then reads its part of them only.
    uncached_feature_rows: int = 12

    # --- products ---------------------------------------------------------------------------------

    #: Rows (steps times examples) up to which weights are read in place, not packed into panels:
    #: packing reads a weight once more.
    unpacked_rows: int = 8

    #: The same for a single step, if its weights stay in cache.
    unpacked_step_rows: int = 16

    #: Rows of one step outside of a loop up to which machine code is faster than XLA's operations.
    #: XLA also packs the weights of a product.
    step_rows: int = 128

    #: Numbers of a value that depends on parameters alone, for all examples together, up to which a
    #: single step computes it for each example.
    repeated_numbers: int = 2**14

    #: Bytes of a weight that a step reads fast for one example. A larger one is multiplied for a
    #: time block at once; the limit grows with the batch, up to ``small_weight_examples``.
    small_weight_bytes: int = 2**15
    small_weight_examples: int = 4

    #: From so many examples on, a product in the step runs at full speed if the weight is cached.
    block_examples: int = 8

    #: Bytes of weights that stay in the cache of a core from step to step.
    cached_weight_bytes: int = 3 * 2**19

    #: From so many examples on, a product in the step also hides reads of uncached weights.
    uncached_block_examples: int = 32

    #: From so many examples on, a product of the state that is only emitted stays in the step. Its
    #: operands are in cache there; with fewer examples XLA's product of all steps is faster.
    read_out_examples: int = 8

    #: Rows of a register tile, at most: more need more broadcasts than a core issues in a cycle.
    tile_rows: int = 8

    #: Vectors of a panel. The product of one row needs several independent sums to hide the latency
    #: of a multiply-add, and all sums must fit the registers: four rows of three vectors, or six of
    #: four.
    panel_vectors: tuple[int, int] = (3, 4)

    #: Up to so many rows of a step, panels are as wide with 16 registers as with 32: there are few
    #: sums.
    few_rows: int = 2

    #: Bytes from what is read of a panel to what is fetched for later. Without it a core waits for
    #: panels that are in no cache of its own.
    prefetch_bytes: int = 2**11

    #: Bytes of the weights of a step up to which nothing is fetched early. With few registers that
    #: takes a large part of the instructions, and the processor itself fetches smaller weights.
    prefetched_weight_bytes: tuple[int, int] = (3 * 2**20, 0)

    #: Steps along the depth of a product in one pass of a microkernel's loop. With 16 registers a
    #: step has few multiply-adds, and the instructions of the loop itself count beside them.
    depth_steps: tuple[int, int] = (4, 1)

    #: Vectors of a block of features in a stage with products, divided by their number.
    block_vectors: int = 4

    #: Vectors of a block of features in a stage without products.
    elementwise_vectors: int = 2

    #: Bytes of the matrices in the state of one example from which all products of the input are
    #: computed for a time block. Then each example goes through the steps of a block alone, and its
    #: state stays in the first-level cache.
    matrix_state_bytes: int = 2**12

    #: Vectors of a block of features in a stage on matrices: a head of 64 numbers with AVX-512.
    matrix_vectors: int = 4

    #: The same in a stage that is a product of two matrices: with six or eight rows, the sums fill
    #: the registers.
    product_vectors: tuple[int, int] = (2, 3)

    #: Bytes of the windows of a convolution, up to which an example has its own: with more, they
    #: leave the second-level cache.
    window_bytes: int = 2**21

    # --- the matrix unit --------------------------------------------------------------------------

    #: Bytes of weights whose panels for the unit, one and a half times as large, stay in the cache
    #: of a core from step to step.
    unit_weight_bytes: int = 5 * 2**18

    #: Rows of a step for each thread from which the unit multiplies, if its panels stay in cache.
    unit_rows: int = 8

    #: The same if they do not.
    uncached_unit_rows: int = 24

    #: The same for a single step that packs its weights.
    unit_step_rows: int = 96

    #: Columns of a product from which the unit is faster: all that are multiplied with one row,
    #: which is split for them. The second number is for rows more than twice as long.
    unit_features: tuple[int, int] = (96, 224)

    #: Rows (steps times examples) for each thread from which the unit computes the products of a
    #: time block. With fewer, threads share the columns, and each reads its part of the weights.
    unit_block_rows: int = 64

    #: As ``block_bytes``, if the unit computes products of the time block: the weights of the block
    #: and those of the step then leave the cache less often.
    unit_block_bytes: int = 2**22

    #: Features of both operands from which the unit adds their outer products. With fewer, it takes
    #: longer to split them.
    unit_update_features: int = 256

    #: Rows of a time block whose outer products the unit adds at a time.
    unit_update_rows: int = 512

    #: Bytes of the parts of rows of a time block that stay in cache from panel to panel.
    part_bytes: int = 2**20

    #: Bytes of the panels of a time block that stay in cache from rows to rows.
    unit_panel_bytes: int = 2**19

    #: As ``uncached_block_examples``.
    unit_block_examples: int = 64

    # --- residuals --------------------------------------------------------------------------------

    #: A backward pass computes residuals again if they have so many times the bytes that a step
    #: reads and emits, and no product with a parameter makes them: a matrix for each head.
    recomputed_ratio: int = 2

    #: Bytes of all residuals up to which they are stored in any case.
    stored_bytes: int = 2**23

    #: Bytes of the residuals of a segment that is computed again: they stay in the cache.
    segment_bytes: int = 2**21

    #: The least steps of such a segment: each has the cost of two calls.
    segment_steps: int = 32

    # --- time blocks ------------------------------------------------------------------------------

    #: Rows of a time block whose operands are kept for accumulators. They are enough to hide the
    #: loads and stores of the accumulators, and few enough to stay in the cache.
    block_rows: int = 512

    #: Numbers of an operand of an accumulator from which each example has a sum of its own, in its
    #: state: the operands of a time block would leave the cache.
    carried_numbers: int = 2**7

    #: Bytes that a time block without accumulators keeps.
    block_bytes: int = 2**19

    #: Bytes of the weights that a time block reads at once for each byte that it keeps, at most.
    #: Where they are large, they push those of the steps out of the cache, so blocks are fewer.
    block_weight_ratio: int = 4

    #: Vectors of the right operand of a rank update that are multiplied at a time.
    update_vectors: int = 3

    #: Rows of the left operand that are multiplied at a time.
    update_rows: tuple[int, int] = (4, 8)

    #: Bytes of an example in the staging buffers of arrays whose outer axis is the batch.
    staged_bytes: int = 2**11

    # --- size of the code -------------------------------------------------------------------------

    #: Pieces of an equation on a small matrix. With more it becomes a loop over rows, whose code
    #: does not grow.
    pieces: int = 16

    #: Rows of a matrix, each of which is multiplied with the same weight for itself if there are
    #: ``block_examples``. More rows, or fewer examples, share what a loop over rows reads.
    row_pieces: int = 8

    #: Taps of a convolution along all axes together: each is a part of the code.
    taps: int = 32

    #: Equations of a step. The time of LLVM grows faster than their number. It was 1.1 s for 820,
    #: 2.5 s for 1650, 7 s for 3300 and 21 s for 5500 (sines and products, on one core).
    equations: int = 4096

    def for_call(self, time: int, batch: int, packs: bool) -> "Tuning":
        """These thresholds for some steps and examples; ``packs`` says that the call packs weights.

        Few examples share what a loop over rows reads. A single step divides the features of a
        stage among threads, and panels for the matrix unit take longer to pack.
        """
        changes: dict[str, Any] = {} if batch >= self.block_examples else {"row_pieces": 1}
        if time == 1 and packs:
            changes |= dict.fromkeys(("feature_rows", "uncached_feature_rows"), self.step_rows)
            changes |= dict.fromkeys(("unit_rows", "uncached_unit_rows"), self.unit_step_rows)
        return replace(self, **changes)

    def reads_in_place(self, time: int, batch: int, weight: int) -> bool:
        """Whether weights are not packed, by the bytes of the largest one."""
        in_step = time == 1 and batch <= self.unpacked_step_rows
        return time * batch <= self.unpacked_rows or (
            in_step and weight <= self.cached_weight_bytes
        )

    def prefers_unit(self, weights: int, rows: int) -> bool:
        """Whether the matrix unit is faster than vectors in a step.

        Args:
            weights: the bytes of all weights that a thread reads in a step.
            rows: the rows that it multiplies.
        """
        is_cached = weights <= self.unit_weight_bytes
        return rows >= (self.unit_rows if is_cached else self.uncached_unit_rows)

    def prefer_block(
        self, weight: int, all_weights: int, batch: int, matrices: int = 0, has_unit: bool = False
    ) -> bool:
        """Whether a product is faster for a time block at once.

        The fewer the examples, the more a block gains. From eight examples on the product runs at
        full speed in the step too, unless the weights of a step are more than a core caches.

        Args:
            weight: the bytes of its weight.
            all_weights: those of all products of a step.
            batch: the number of examples.
            matrices: the bytes of matrices in the state of an example. Beside large ones all
                products are computed for a block.
            has_unit: whether a matrix unit may multiply.
        """
        small = min(batch, self.small_weight_examples) * self.small_weight_bytes
        examples, cached = self.uncached_block_examples, self.cached_weight_bytes
        if has_unit:
            examples, cached = self.unit_block_examples, self.unit_weight_bytes
        return (
            matrices >= self.matrix_state_bytes
            or (batch < self.block_examples and weight > small)
            or (batch < examples and all_weights > cached)
        )


_tuning = jax.make_user_context(Tuning())


def tuning() -> Tuning:
    """The thresholds that hold here."""
    found: Tuning = _tuning.value
    return found


def using(tuning: Tuning) -> AbstractContextManager[Any]:
    """A context in which other thresholds hold, for all that is traced in it."""
    context: AbstractContextManager[Any] = _tuning(tuning)
    return context
