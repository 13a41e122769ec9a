"""The machine: which vector instructions there are, and how a module of LLVM's language becomes code for them."""

import functools
import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from noria.backends.environment import environment
from noria.backends.native.machine import ISAS, Isa, NoSuchMachine

#: What the processor must have, in LLVM's names.
_NEEDS = {
    "avx512": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma"),
    "avx2": ("avx2", "fma", "bmi2"),
    "sse": ("sse2",),
    "neon": (),
}


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
    )


def chosen() -> Isa:
    """What ``NORIA_NATIVE_ISA`` asks for, or the best one.

    Raises:
        NoSuchMachine: if it is not there.
    """
    found, asked = available(), environment().native_isa
    if not found:
        raise NoSuchMachine(f"there is no native code for a {platform.machine()} processor")
    names = [isa.name for isa in found]
    if asked and asked not in names:
        raise NoSuchMachine(
            f"NORIA_NATIVE_ISA={asked!r}; expected one of what this machine has: {', '.join(names)}"
        )
    return found[names.index(asked)] if asked else found[0]


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _machine(isa: Isa) -> Any:
    """A code generator; the engine that uses it owns it."""
    _initialise()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=processor(isa), features=isa.features, opt=3)


def processor(isa: Isa) -> str:
    """LLVM's name of the processor that code is made for."""
    return isa.cpu or str(llvm.get_host_cpu_name())


@dataclass(frozen=True, eq=False)
class Library:
    """Compiled functions; they live as long as this object, or until they are closed."""

    engine: Any
    assembly: str

    def address(self, name: str) -> int:
        return int(self.engine.get_function_address(name))

    def close(self) -> None:
        """Give the memory back."""
        self.engine.close()


def define(name: str, address: int) -> None:
    """Give a name to the address of a function; modules that are compiled from now on can call it."""
    llvm.add_symbol(name, address)


def compile_module(module: ir.Module, isa: Isa, *, assembly: bool = False) -> Library:
    """Machine code for a module; ``assembly`` keeps its text, for reading."""
    machine = _machine(isa)
    module.triple = machine.triple
    parsed = llvm.parse_assembly(str(module), context=llvm.create_context())
    parsed.verify()
    # The code is in vectors already; more passes double the time and gain nothing that could be measured.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.run(parsed, builder)
    _free(passes)
    text = machine.emit_assembly(parsed) if assembly else ""
    # An engine keeps its module, a few megabytes; so it is given an empty one, and the code as an object file.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(isa))
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine.emit_object(parsed)))
    engine.finalize_object()
    return Library(engine, text)


def _free(passes: llvm.ModulePassManager) -> None:
    """Give back the memory of a pass manager, 200 kilobytes and more.

    llvmlite 0.45 to 0.50 never does: of its base classes, the first has a ``_dispose`` that does nothing.
    """
    llvm.newpassmanagers.NewPassManager._dispose(passes)
    passes.detach()  # nobody frees it twice
