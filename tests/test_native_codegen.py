"""The code that the native backend generates: registers, memory layout, shares, coefficients.

None of these changes a result. They decide how fast a kernel is, and are cheap to check.
"""

import ctypes
import importlib.util
import mmap
import platform
import re
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from llvmlite import ir
from models import assert_close

import noria as nr
from noria.backends.native.codegen import llvm
from noria.backends.native.codegen.addresses import Columns
from noria.backends.native.codegen.kernel import emit
from noria.backends.native.codegen.microkernels import (
    GemmSizes,
    gemm_microkernel,
    rank_k_update,
)
from noria.backends.native.codegen.packing import pack_steps
from noria.backends.native.codegen.unit_update import Operand, Target, add_outer_products
from noria.backends.native.machine import Isa, Tuning
from noria.backends.native.runtime import target
from noria.backends.native.runtime.handler import Handler
from noria.backends.native.runtime.state import CACHE_LINE, ShareState
from noria.backends.native.runtime.xla_abi import offset_of

ISAS = target.available()
each_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)


@pytest.fixture
def plans_for(plans: list[Any], monkeypatch: pytest.MonkeyPatch):
    """The plans of a training step for an instruction set: both loops, the reverse loop last."""

    def found(isa: Isa) -> list[Any]:
        monkeypatch.setenv("NORIA_NATIVE_ISA", isa.name)
        layer = nr.GRU(32, 64, key=jax.random.key(0), dtype=jnp.float32, backend="native")
        step = jax.jit(jax.grad(lambda layer, xs: (layer(xs) ** 2).sum()))
        step.lower(layer, jnp.zeros((16, 8, 32), jnp.float32))
        return [planned.plan for planned in plans]

    return found


def assembly_of(function: ir.Function, isa: Isa) -> str:
    """The assembly of an internal function, which LLVM would remove if nothing called it."""
    function.linkage = "external"
    return target.assembly_of(function.module, isa)


def spills(text: str) -> list[str]:
    """Instructions that move a vector register to or from the stack."""
    vector, stack = (
        (r"\b[qv]\d+", r"\[sp")
        if platform.machine() in ("aarch64", "arm64")
        else ("%[xyz]mm", "%rsp")
    )
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if re.search(vector, line) and re.search(stack, line)]


@each_isa
@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("ahead", [0, 2048])
def test_accumulators_of_a_panel_stay_in_registers(plans_for, isa, width, is_given, ahead):
    plan = plans_for(isa)[-1]
    if width > Tuning().panel_vectors[isa.registers >= 32]:
        pytest.skip("no panel of this instruction set is so wide")
    rows = plan.register_rows(width)
    vector = ir.VectorType(ir.FloatType(), plan.lanes)
    align = 4 if is_given else 4 * plan.lanes
    sizes = GemmSizes(width, rows, align, ahead, plan.depth_steps)
    text = assembly_of(gemm_microkernel(ir.Module("test"), vector, sizes), isa)
    assert len(re.findall(r"fmla|fmadd|addps", text)) >= rows * width * plan.depth_steps
    assert not spills(text)


@each_isa
def test_few_registers_have_fewer_instructions_beside_the_arithmetic(plans_for, isa):
    """Small weights are not fetched early there, and no vector is spilled around a function."""
    text = target.assembly_of(emit(plans_for(isa)[0]), isa)
    has_few = isa.registers < 32
    assert bool(re.search("prefetch|prfm", text)) != has_few
    assert ("noria.tanh" in text) != has_few


# Without fused multiply-add, a product needs one register more: SSE spills one vector of a row.
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa.name != "sse"], ids=lambda i: i.name)
def test_accumulators_of_a_rank_update_stay_in_registers(plans_for, isa):
    plan = plans_for(isa)[-1]
    vector = ir.VectorType(ir.FloatType(), plan.lanes)
    rows, width = min(plan.lanes, plan.update_rows), plan.update_vectors
    text = assembly_of(rank_k_update(ir.Module("test"), vector, rows, width, plan.lanes), isa)
    assert len(re.findall(r"fmla|fmadd|addps", text)) >= rows * width
    assert not spills(text)


class NewMemory:
    """Pages of the system, the first number of each, and the faults of a block that fills them."""

    def __init__(self, pages: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.memory, self.pages = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE, flags), pages
        self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    @property
    def first_numbers(self) -> np.ndarray:
        return np.frombuffer(self.memory, np.float32)[:: mmap.PAGESIZE // 4][: self.pages]

    @contextmanager
    def written_once(self) -> Iterator[None]:
        """A page that is read before it is written has two faults."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        yield
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        if not faults:
            pytest.skip("this system counts no faults")
        assert self.pages <= faults < 1.5 * self.pages


counts_faults = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux counts faults")


@counts_faults
@each_isa
def test_a_sum_that_begins_does_not_read_its_result(plans_for, isa):
    plan = plans_for(isa)[-1]
    vector = ir.VectorType(ir.FloatType(), plan.lanes)
    rows, width = min(plan.lanes, plan.update_rows), plan.update_vectors
    function = rank_k_update(ir.Module("test"), vector, rows, width, plan.lanes)
    function.linkage = "external"
    library = target.compile_module(function.module, isa)
    kinds = [ctypes.c_void_p] * 2 + [ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 2]
    call = ctypes.CFUNCTYPE(None, *kinds, ctypes.c_bool)(library.address(function.name))
    left, right = (np.ones(width * plan.lanes, np.float32).ctypes for _ in range(2))
    out = NewMemory(512)
    with out.written_once():
        for first in range(0, out.pages, rows):
            place = out.start + first * mmap.PAGESIZE
            call(left.data, right.data, 4 * plan.lanes, place, mmap.PAGESIZE, 1, True)
    np.testing.assert_array_equal(out.first_numbers, 1)


@counts_faults
@pytest.mark.skipif(not ISAS[0].has_unit, reason="there is no matrix unit here")
def test_a_sum_of_the_matrix_unit_that_begins_does_not_read_its_result(plans_for):
    plan, module = plans_for(ISAS[0])[-1], ir.Module("test")
    b, arguments = llvm.begin_function(module, "update", llvm.VOID, *[llvm.POINTER] * 4, llvm.I64)
    left, right, out, memory, is_fresh = arguments
    depth, pages, one = llvm.i64(16), 256, llvm.i64(1)
    operands = Operand(left, llvm.i64(16 * 64), pages), Operand(right, llvm.i64(16 * 64), 64)
    place = Target(out, mmap.PAGESIZE, b.trunc(is_fresh, llvm.I1))
    share = llvm.i64(0), one
    add_outer_products(b, plan, operands, place, depth, memory, share)
    b.ret_void()
    library = target.compile_module(module, ISAS[0])
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(library.address("update"))
    numbers = np.ones(16 * pages, np.float32)
    scratch = np.zeros(plan.update.bytes + 64, np.uint8)
    data, spare = numbers.ctypes.data, scratch.ctypes.data + -scratch.ctypes.data % 64
    first, result = NewMemory(pages), NewMemory(pages)
    call(data, data, first.start, spare, 1)  # all other memory is mapped now
    with result.written_once():
        call(data, data, result.start, spare, 1)
    np.testing.assert_array_equal(result.first_numbers, 16)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has this advice")
def test_large_results_ask_for_huge_pages(plans_for):
    """One request for each emitted array, and one for scratch memory."""
    counts = set()
    for plan in plans_for(ISAS[0]):
        module = emit(plan)
        Handler(plan, module).emit()
        counts.add(len(plan.schedule.values("emitted")))
        requests = str(module).count('call void @"prefer_huge_pages"')
        assert requests == len(plan.schedule.values("emitted")) + 1
    assert max(counts) > 1


def test_a_builder_folds_the_arithmetic_of_whole_numbers():
    module = ir.Module("test")
    b, (n, pointer) = llvm.begin_function(module, "f", llvm.VOID, llvm.I64, llvm.POINTER)
    zero, one, six = map(llvm.i64, (0, 1, 6))
    assert b.add(n, zero) is n
    assert b.add(zero, n) is n
    assert b.sub(n, zero) is n
    assert b.mul(one, n) is n
    assert b.udiv(n, one) is n
    assert b.gep(pointer, [zero], llvm.I8) is pointer
    assert [b.add(six, six).constant, b.sub(one, six).constant] == [12, -5]
    found = b.mul(six, six), b.mul(n, zero), b.udiv(six, llvm.i64(4)), b.and_(six, llvm.i64(3))
    assert [number.constant for number in found] == [36, 0, 1, 2]
    assert b.select(b.icmp_signed("<", one, six), n, six) is n
    assert not b.block.instructions, "all of this is known when the code is written"


def test_a_builder_makes_a_value_once_in_a_block():
    """In another block its definition may not come first; and memory may have changed."""
    module = ir.Module("test")
    b, (n, pointer) = llvm.begin_function(module, "f", llvm.VOID, llvm.I64, llvm.POINTER)

    def address() -> ir.Value:
        return llvm.advance(b, pointer, b.mul(b.add(n, llvm.i64(3)), llvm.i64(8)))

    first = address()
    assert address() is first
    assert b.load(first, typ=llvm.I64) is not b.load(first, typ=llvm.I64)
    with b.if_then(b.icmp_signed("<", n, llvm.i64(5))):
        assert address() is not first
    with b.goto_entry_block():
        assert b.add(n, llvm.i64(3)) is not first.operands[1].operands[0]
    with b.if_then(b.icmp_signed("<", llvm.i64(1), llvm.i64(5))):
        block = b.block
    assert b.block is block, "no branch where the condition is known to hold"


class Together(nr.Cell):
    """Some states, each multiplied with the same weight."""

    W: jax.Array
    count: int

    def initial_state(self) -> Any:
        return (jnp.zeros(len(self.W), jnp.float32),) * self.count

    def __call__(self, states: Any, x: jax.Array) -> Any:
        return tuple(jnp.tanh(self.W @ h + n + x) for n, h in enumerate(states))


@pytest.mark.parametrize("count", [2, 3])
def test_products_with_the_same_columns_share_panels(count, plans):
    """A weight is packed once, whatever it is multiplied with."""
    weight = 0.1 * jax.random.normal(jax.random.key(0), (48, 48), jnp.float32)
    layer = nr.Recurrence(Together(weight, count), backend="native")
    xs = jnp.ones((9, 5, 48), jnp.float32)
    assert_close(layer.scan(None, xs), nr.with_backend(layer, "plain").scan(None, xs), 1e-5)
    (planned,) = plans
    assert planned.panel_bytes == weight.nbytes
    uses = Counter(panel.offset for tiling in planned.plan.tilings for panel in tiling.panels)
    assert set(uses.values()) == {count}


class Apart(nr.Cell):
    """Two products with parts of one weight, or with parts of its transpose."""

    W: jax.Array
    second: tuple[int, bool]

    def initial_state(self) -> Any:
        return (jnp.zeros(48, jnp.float32),) * 2

    def __call__(self, states: Any, x: Any) -> Any:
        start, is_transposed = self.second
        part = self.W[start : start + 48]
        one, two = self.W[:48] @ states[0], (part.T if is_transposed else part) @ states[1]
        return jnp.tanh(one + x), jnp.tanh(two + x)


@pytest.mark.parametrize("second", [(0, True), (48, False), (48, True)])
def test_products_with_other_columns_have_other_panels(second, plans):
    """Rows further down in the same array, and the same rows as columns."""
    weight = 0.1 * jax.random.normal(jax.random.key(0), (96, 48), jnp.float32)
    layer, xs = (
        nr.Recurrence(Apart(weight, second), backend="native"),
        jnp.ones((9, 5, 48), jnp.float32),
    )
    assert_close(layer.scan(None, xs), nr.with_backend(layer, "plain").scan(None, xs), 1e-5)
    (planned,) = plans
    panels = [panel for tiling in planned.plan.tilings for panel in tiling.panels]
    assert len({panel.offset for panel in panels}) == len(panels) > 1


def test_panels_of_the_same_layout_are_packed_by_one_function():
    """Weights of four layers of the same size, and of one of another."""
    module = ir.Module("test")
    b, (weight, panel) = llvm.begin_function(module, "pack", llvm.VOID, *[llvm.POINTER] * 2)
    vector = ir.VectorType(ir.FloatType(), 4)
    for rows, first in ((8, 0), (8, 4), (16, 4)):
        columns = [[Columns(weight, (rows, 6), 1, llvm.i64(first), 4)]]
        pack_steps(b, vector, columns, panel, llvm.i64(0), 6)
    b.ret_void()
    names = [name for name in module.globals if name.startswith("pack_steps")]
    assert len(names) == 2
    assert [str(module).count(f'call void @"{name}"') for name in names] == [2, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("carries", [True, False])
def test_loops_take_each_number_once(carries, is_known, count):
    """Known counts make other code than counts of a call; `carry_loop` has at least one."""
    module = ir.Module("test")
    b, (given,) = llvm.begin_function(module, "total", llvm.I64, llvm.I64)
    stop = llvm.i64(count) if is_known else given
    total = llvm.stack(b, 8, 8)
    b.store(llvm.i64(0), total)

    def add(n: ir.Value) -> ir.Value:
        old = b.load(total, typ=llvm.I64)
        b.store(b.add(b.mul(old, llvm.i64(10)), b.add(n, llvm.i64(1))), total)

    if not carries:
        with llvm.loop(b, llvm.i64(0), stop) as n:
            add(n)
    elif count:
        (last,) = llvm.carry_loop(b, stop, [llvm.i64(7)], lambda n, _: [add(n) or n])
        b.store(b.add(b.mul(b.load(total, typ=llvm.I64), llvm.i64(10)), last), total)
    b.ret(b.load(total, typ=llvm.I64))
    library = target.compile_module(module, ISAS[0])
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("total"))
    digits = [*range(1, count + 1), *([count - 1] if carries and count else [])]
    assert run(count) == int("".join(map(str, digits)) or "0")


def test_counters_of_a_share_are_cache_lines_apart():
    assert offset_of(ShareState, "claimed") == 0
    assert offset_of(ShareState, "done") == CACHE_LINE == 64
    assert ctypes.sizeof(ShareState) == 2 * CACHE_LINE


def test_the_share_of_the_calling_thread_is_the_largest():
    module = ir.Module("test")
    b, arguments = llvm.begin_function(module, "start", llvm.I64, *[llvm.I64] * 3)
    b.ret(llvm.share_of(b, *arguments)[0])
    b, arguments = llvm.begin_function(module, "end", llvm.I64, *[llvm.I64] * 3)
    b.ret(llvm.share_of(b, *arguments)[1])
    library = target.compile_module(module, ISAS[0])
    number = ctypes.c_int64
    start, end = (
        ctypes.CFUNCTYPE(number, *[number] * 3)(library.address(name)) for name in ("start", "end")
    )
    for count in range(20):
        for shares in range(1, 9):
            starts = [start(count, share, shares) for share in range(shares)]
            ends = [end(count, share, shares) for share in range(shares)]
            assert [*starts, count] == [0, *ends]
            sizes = np.subtract(ends, starts)
            assert sizes[0] == sizes.max() <= sizes.min() + 1


def coefficients_script() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / "coefficients.py"
    spec = importlib.util.spec_from_file_location("coefficients_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.full
def test_coefficients_are_nearly_the_best():
    """The script finds each table again.

    Committed numbers are rounded, in single precision to ten digits. So the largest errors are
    compared, with the ratio that the script states for each table. In double precision, the
    rounding of coefficients may add a quarter of the rounding error of a result.
    """
    names = []
    for problem in coefficients_script().problems():
        found, committed = problem.fit(), list(map(Decimal, problem.committed))
        smallest, error = problem.error(found), problem.error(committed)
        allowed = max(Decimal(problem.ratio) * smallest, Decimal(2) ** -55)
        assert error <= allowed, (problem.name, smallest, error)
        assert smallest <= error * Decimal("1.01"), (problem.name, smallest, error)
        names.append(problem.name)
    assert len(names) == len(set(names)) == 13
