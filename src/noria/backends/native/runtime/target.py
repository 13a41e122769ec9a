"""The instruction sets that this machine has, and LLVM's compiler from a module to machine code."""

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from noria.backends.environment import environment
from noria.backends.native.machine import ISAS, Isa, NoSuchMachine
from noria.ir.reasons import Reason

_AVX512 = "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma"

#: The features that a processor must have, by LLVM's names.
_NEEDS = {
    "amx": (*_AVX512, "amx-tile", "amx-bf16"),
    "avx512": _AVX512,
    "avx2": ("avx2", "fma", "bmi2"),
    "sse": ("sse2",),
    "neon": (),
}


@functools.cache
def available() -> tuple[Isa, ...]:
    """The instruction sets that this machine has, best first."""
    family = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}.get(
        platform.machine().lower()
    )
    features = llvm.get_host_cpu_features() if family == "x86" else {}
    return tuple(
        isa
        for isa in ISAS.get(family or "", ())
        if all(features.get(need) for need in _NEEDS[isa.name])
        and (not isa.has_unit or _may_use_unit())
    )


# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) on x86-64.
_ARCH_PRCTL, _REQUEST, _TILES = 158, 0x1023, 18


def _may_use_unit() -> bool:
    """Ask Linux for the tile registers: it saves them only for processes that have asked.

    It refuses if a thread has an alternate signal stack that is too small for them.
    """
    if platform.system() != "Linux":
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILES)) == 0


def chosen() -> Isa:
    """The instruction set that ``NORIA_NATIVE_ISA`` names, or else the best one.

    Raises:
        NoSuchMachine: if this machine does not have it.
    """
    found, asked = available(), environment().native_isa
    if not found:
        raise NoSuchMachine(Reason.PROCESSOR(machine=platform.machine()))
    names = [isa.name for isa in found]
    if asked and asked not in names:
        raise NoSuchMachine(Reason.INSTRUCTIONS(asked=asked, names=", ".join(names)))
    return found[names.index(asked)] if asked else found[0]


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _machine(isa: Isa) -> Any:
    """A code generator. An engine takes ownership of it, so each engine needs a new one."""
    _initialise()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=processor(isa), features=isa.features, opt=3)


def processor(isa: Isa) -> str:
    """LLVM's name of the processor to generate code for."""
    return isa.cpu or str(llvm.get_host_cpu_name())


@dataclass(frozen=True, eq=False)
class Library:
    """Compiled functions; they live as long as this object, or until it is closed."""

    engine: Any

    def address(self, name: str) -> int:
        """The address of a function."""
        return int(self.engine.get_function_address(name))

    def variable(self, name: str) -> int:
        """The address of a variable."""
        return int(self.engine.get_global_value_address(name))

    def close(self) -> None:
        """Free the memory of the functions."""
        self.engine.close()


def add_symbol(name: str, address: int) -> None:
    """Give a function a name, by which modules that are compiled from now on can call it."""
    llvm.add_symbol(name, address)


def object_code(module: ir.Module, isa: Isa) -> bytes:
    """The machine code of a module, as an object file."""
    machine, optimized = _optimized(module, isa)
    with _quick_emission():
        return bytes(machine.emit_object(optimized))


def library_of(code: bytes, isa: Isa) -> Library:
    """Load an object file."""
    # An engine keeps its module, a few megabytes. So it gets an empty one and an object file.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(isa))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Library(engine)


def compile_module(module: ir.Module, isa: Isa) -> Library:
    """Machine code for a module, in memory only."""
    return library_of(object_code(module, isa), isa)


def assembly_of(module: ir.Module, isa: Isa) -> str:
    """The machine code of a module as text, to read it."""
    machine, optimized = _optimized(module, isa)
    with _quick_emission():
        return str(machine.emit_assembly(optimized))


@contextlib.contextmanager
def _quick_emission() -> Iterator[None]:
    """No loop strength reduction, for the time of one emission.

    It took up to three quarters of the time of an emission, and its code was at most a few percent
    faster. The options of LLVM belong to the process, where others may use llvmlite, too.
    """
    llvm.set_option("noria", "-disable-lsr")
    try:
        yield
    finally:
        llvm.set_option("noria", "-disable-lsr=false")


def _optimized(module: ir.Module, isa: Isa) -> tuple[Any, Any]:
    """A code generator, and the module after LLVM's optimizations."""
    machine = _machine(isa)
    module.triple = machine.triple
    parsed = llvm.parse_assembly(str(module), context=llvm.create_context())
    parsed.verify()
    # The code is vectorized and unrolled already, and most functions are not inlined. So each is
    # simplified by itself. The passes over the module took twice as long for a code that is no
    # faster; of a highway cell, one of them (LoopLoadElimination) took more than half of that time.
    # Without any passes, emission takes longer (benchmarks/compiling.py).
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    if isa.registers < 32:
        _inline(parsed, builder)
    passes = builder.getFunctionPassManager()
    for function in parsed.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    _free(passes)
    return machine, parsed


def _inline(module: llvm.ModuleRef, builder: llvm.PassBuilder) -> None:
    """Inline elementary functions, so that no vector is spilled around a call.

    With 16 registers small LSTMs are 7 % faster. With 32 they are not, and large cells take longer
    to compile.
    """
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.run(module, builder)
    _free(passes)


def _free(passes: llvm.ModulePassManager | llvm.FunctionPassManager) -> None:
    """Free the memory of a pass manager, 200 kilobytes and more.

    llvmlite 0.45 to 0.50 never does: the first of the base classes has a ``_dispose`` that does
    nothing, and hides the other one. `tests/test_native_memory.py` would see the leak.
    """
    llvm.newpassmanagers.NewPassManager._dispose(passes)
    passes.detach()  # so that llvmlite does not free it too
