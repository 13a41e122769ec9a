"""Elementary functions of the native backend against NumPy's in a wider format, in every binade."""

import ctypes
import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from llvmlite import ir

from noria.backends.native.codegen import maths
from noria.backends.native.runtime import target

WIDER = {np.dtype("f4"): np.float64, np.dtype("f8"): np.longdouble}
ISAS = target.available()
BOUNDS = {
    name: {"float32": float(single), "float64": float(double)}
    for name, single, double in re.findall(
        r"^    (\w+) +([\d.]+)\*? +([\d.]+)\*?$", maths.__doc__ or "", re.MULTILINE
    )
}


def long_double(name, x):
    """What NumPy lacks, from the C library; SciPy's erfc is wrong by 250 ulp at 26.5."""
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes, function.restype = [ctypes.c_longdouble], ctypes.c_longdouble
    return np.fromiter(map(function, x.tolist()), np.float64, len(x))


ORACLES: dict[str, Callable[..., Any]] = {
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": lambda x: long_double("erfl", x),
    "erfc": lambda x: long_double("erfcl", x),
    "atan2": np.arctan2,
    "pow": np.power,
}
#: Where a function's own code changes its way, or its answer leaves the range.
THRESHOLDS = (
    *(
        2.0**-54,
        2.0**-25,
        math.log(2) / 2,
        0.5,
        math.sqrt(0.5),
        1.0,
        math.sqrt(2),
        3.95,
        4.0,
        9.0,
        9.02,
        9.19,
        9.9,
        10.06,
        12.0,
    ),
    *(
        16.6,
        17.3,
        19.06,
        20.0,
        26.5,
        36.7,
        37.4,
        87.34,
        88.38,
        88.7229,
        89.416,
        103.97,
        126.0,
        127.0,
        128.0,
        149.5,
    ),
    *(
        708.4,
        709.09,
        709.7828,
        710.4759,
        745.13,
        1022.0,
        1024.0,
        1075.0,
        1e5,
        2.0**23,
        2.0**24,
        2.0**52,
        2.0**53,
    ),
    *(n * math.pi / 2 for n in (1, 2, 3, 4, 5, 1001, 63661)),
)
needs_x86 = pytest.mark.skipif(
    not ISAS or ISAS[-1].name != "sse", reason="the control register is x86's"
)


def set_mode(builder, mode):
    """Store into MXCSR, the register of the floating-point mode."""
    place = builder.alloca(ir.IntType(32))
    builder.store(ir.IntType(32)(mode), place)
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    name = "llvm.x86.sse.ldmxcsr"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(place, ir.IntType(8).as_pointer())])


@functools.cache  # also because LLVM's target machine dies with the first library that is dropped
def compiled(name, dtype, isa, flush=False):
    """``void f(const T* x, ..., T* y, i64 n)``; flushes denormals to zero if asked for."""
    emit = maths.FUNCTIONS.get(name) or maths.BINARY_FUNCTIONS[name]
    element, lanes, i64 = (
        ir.FloatType() if dtype == "f4" else ir.DoubleType(),
        isa.lanes(dtype),
        ir.IntType(64),
    )
    arity = 2 if name in maths.BINARY_FUNCTIONS else 1
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [element.as_pointer()] * (arity + 1) + [i64])
    function = ir.Function(module, kind, "f")
    start, loop, end = (function.append_basic_block(label) for label in ("start", "loop", "end"))
    builder = ir.IRBuilder(start)
    if flush:
        set_mode(builder, 0x9FC0)
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(i64)
    i.add_incoming(i64(0), start)
    *pointers, n = function.args
    vector = ir.VectorType(element, lanes).as_pointer()
    *xs, y = (builder.bitcast(builder.gep(p, [i]), vector) for p in pointers)
    builder.store(
        emit(builder, *(builder.load(x, align=dtype.itemsize) for x in xs)), y, align=dtype.itemsize
    )
    following = builder.add(i, i64(lanes))
    i.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, n), loop, end)
    builder.position_at_end(end)
    if flush:
        set_mode(builder, 0x1F80)
    builder.ret_void()
    library = target.compile_module(module, isa)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(
        library.address("f")
    )

    def run(*arrays, library=library):  # whose code lives as long as it does
        padded = [np.pad(x.astype(dtype), (0, -len(x) % lanes)) for x in arrays]
        answer = np.empty_like(padded[0])
        call(*(x.ctypes.data for x in (*padded, answer)), len(answer))
        return answer[: len(arrays[0])]

    return run


@functools.cache
def binades(dtype, each):
    """Numbers of every binade and sign, and those next to a threshold."""
    info, random = np.finfo(dtype), np.random.default_rng(0)
    exponents = np.arange(info.minexp, info.maxexp)[:, None]
    mantissas = np.concatenate(
        [1 + random.random((len(exponents), each)), np.ones((len(exponents), 1))], axis=1
    )
    x = np.ldexp(mantissas, exponents).astype(dtype).ravel()
    near = np.array([v for v in THRESHOLDS if v < info.max], dtype).view(f"i{dtype.itemsize}")
    x = np.concatenate([x, (near[:, None] + np.arange(-200, 201)).ravel().view(dtype)])
    moderate = random.uniform(0, 110 if dtype == "f4" else 750, 40_000)
    x = np.concatenate(
        [x[np.isfinite(x)], moderate.astype(dtype), random.uniform(0, 3, 40_000).astype(dtype)]
    )
    return np.concatenate([x, -x])


@functools.cache
def arguments(name, dtype):
    x = binades(dtype, 500 if dtype == "f4" else 40)
    if name not in maths.BINARY_FUNCTIONS:
        return (x,)
    y = np.random.default_rng(1).permutation(x)
    if name == "pow":  # answers of every size, and negative numbers to whole powers
        with np.errstate(all="ignore"):
            y = (
                np.random.default_rng(2).uniform(-1, 1, len(x))
                * np.log(np.finfo(dtype).max)
                / np.log(abs(x))
            ).astype(dtype)
        y = np.where(x < 0, np.rint(y), y)
    return x, y


@functools.cache
def expected(name, dtype):
    oracle = ORACLES.get(name) or getattr(np, name)
    with np.errstate(all="ignore"):
        return oracle(*(x.astype(WIDER[dtype]) for x in arguments(name, dtype)))


def assert_within(name, dtype, got, want):
    info = np.finfo(dtype)
    size = abs(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    with np.errstate(all="ignore"):
        ulps = abs(got - want) / size / info.eps
        rounded = want.astype(dtype)
    ordinary = (size >= info.tiny) & np.isfinite(rounded)
    worst = np.argmax(np.where(ordinary, ulps, 0))
    where = [x[worst] for x in arguments(name, dtype)]
    assert ulps[worst] <= BOUNDS[name][dtype.name] or not ordinary[worst], (
        f"{name}{where}: {ulps[worst]:.2f} ulp"
    )
    near_top = (size > info.max * (1 - 4 * info.eps)) & np.isinf(got)  # may round up
    np.testing.assert_array_equal(
        got[~ordinary & np.isinf(rounded)], rounded[~ordinary & np.isinf(rounded)]
    )
    assert np.isfinite(got[ordinary & ~near_top]).all()
    below = size < info.tiny
    assert (abs(got[below]) <= info.tiny * (1 + 4 * info.eps)).all()
    signed = below & (want != 0)
    np.testing.assert_array_equal(np.signbit(got[signed]), np.signbit(want[signed]))


ALL = [*maths.FUNCTIONS, *maths.BINARY_FUNCTIONS]
every_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
every_dtype = pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")], ids=str)


def test_the_table_names_every_function():
    assert sorted(BOUNDS) == sorted(ALL)


@pytest.mark.sampled(2)
@pytest.mark.covered(1, together="name dtype")
@every_isa
@every_dtype
@pytest.mark.parametrize("name", ALL)
def test_every_binade(name, dtype, isa):
    if np.finfo(np.longdouble).nmant <= 52 and dtype == "f8":
        pytest.skip("there is no wider format here")
    got = compiled(name, dtype, isa)(*arguments(name, dtype))
    assert_within(name, dtype, got, expected(name, dtype))


@pytest.mark.covered(1)
@needs_x86
@every_isa
@pytest.mark.parametrize(
    "name", ["tanh", "logistic", "exp", "expm1", "log", "log1p", "sinh", "erf", "exp2"]
)
def test_with_denormals_flushed(name, isa):
    dtype = np.dtype("f4")
    got = compiled(name, dtype, isa, flush=True)(*arguments(name, dtype))
    assert_within(name, dtype, got, expected(name, dtype))


@pytest.mark.covered(1, together="name dtype")
@every_isa
@every_dtype
@pytest.mark.parametrize("name", ALL)
def test_special_values_are_those_of_xla(name, dtype, isa):
    values = np.array(
        [np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1e5, -1e5], dtype
    )
    xs = [values]
    if name in maths.BINARY_FUNCTIONS:
        xs = [np.array(x, dtype) for x in zip(*itertools.product(values, values), strict=True)]
    got, want = compiled(name, dtype, isa)(*xs), np.asarray(jax.jit(getattr(jax.lax, name))(*xs))
    np.testing.assert_allclose(got, want, 1e-6 if dtype == "f4" else 1e-14, np.finfo(dtype).tiny)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.covered(1, together="name dtype")
@every_isa
@every_dtype
@pytest.mark.parametrize("name", list(maths.FUNCTIONS))
def test_odd_inputs(name, dtype, isa):
    """NaN of any payload gives NaN; denormals give what they or zeros give."""
    bits = 32 if dtype == "f4" else 64
    payloads = np.arange(1, 600, dtype=f"u{dtype.itemsize}")
    quiet = (payloads | (0x7FC00000 if bits == 32 else 0x7FF8000000000000)).view(dtype)
    assert np.isnan(compiled(name, dtype, isa)(np.concatenate([quiet, -quiet]))).all()
    tiny = np.finfo(dtype).tiny
    small = np.array([0.5, 0.3, 2.0**-10, -0.5, -0.3], dtype) * tiny
    got = compiled(name, dtype, isa)(small)
    with np.errstate(all="ignore"):
        exact, flushed = (
            (ORACLES.get(name) or getattr(np, name))(x.astype(WIDER[dtype])).astype(dtype)
            for x in (small, small * 0)
        )
    near = [np.isclose(got, want, 1e-6, 2 * tiny, equal_nan=True) for want in (exact, flushed)]
    assert (near[0] | near[1]).all(), (got, exact)


@every_isa
@every_dtype
def test_what_is_bounded_stays_bounded(dtype, isa):
    x = np.linspace(-12, 12, 1_000_001).astype(dtype)
    for name, low in (("tanh", -1), ("erf", -1), ("logistic", 0)):
        y = compiled(name, dtype, isa)(x)
        assert y.min() >= low
        assert y.max() <= 1
        ends = compiled(name, dtype, isa)(np.array([-1e4, 1e4, 20 if dtype == "f4" else 40], dtype))
        np.testing.assert_array_equal(ends, [low, 1, 1])
    assert compiled("exp", dtype, isa)(np.zeros(4))[0] == 1
    whole = np.arange(-120.0, 120.0)
    np.testing.assert_array_equal(compiled("exp2", dtype, isa)(whole), 2.0**whole)


@every_isa
def test_one_large_angle_does_not_disturb_the_others(isa):
    x = np.array([1, 2e6, 3, 4, np.inf, 1e30, 7, 8] * 2, np.float32)
    with np.errstate(invalid="ignore"):
        for name in ("sin", "cos", "tan"):
            want = getattr(np, name)(x.astype(np.float64))
            np.testing.assert_allclose(compiled(name, x.dtype, isa)(x), want, 1e-6)


def test_a_function_is_defined_once():
    module = ir.Module()
    vector = ir.VectorType(ir.FloatType(), 8)
    builder = ir.IRBuilder(
        ir.Function(module, ir.FunctionType(vector, [vector]), "f").append_basic_block()
    )
    y = maths.FUNCTIONS["tanh"](
        builder, maths.FUNCTIONS["tanh"](builder, module.globals["f"].args[0])
    )
    builder.ret(y)
    text = str(module)
    assert text.count("define internal") == 1
    assert text.count('call <8 x float> @"noria.tanh.v8f32"') == 2
    assert not re.search(r"\b(fast|nnan|ninf|nsz|contract|reassoc)\b", text)
