"""The machine that code is generated for: its vector instructions."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Isa:
    """A set of vector instructions.

    Attributes:
        name: what ``NORIA_NATIVE_ISA`` calls it.
        bits: the width of a vector register.
        registers: how many there are.
        cpu: LLVM's name of a processor that has them; empty for the one at hand.
        features: what LLVM is told besides.
    """

    name: str
    bits: int
    registers: int
    cpu: str = ""
    features: str = ""

    def lanes(self, dtype: Any) -> int:
        """Numbers in a vector."""
        return self.bits // (8 * dtype.itemsize)


#: Best first. The first that the machine has is taken.
ISAS = {
    "x86": (
        Isa("avx512", 512, 32, "x86-64-v4", "-prefer-256-bit"),
        Isa("avx2", 256, 16, "x86-64-v3"),
        Isa("sse", 128, 16, "x86-64"),
    ),
    "arm": (Isa("neon", 128, 32),),
}


class NoSuchMachine(Exception):
    """There is no code generator for this machine, or not for what ``NORIA_NATIVE_ISA`` asks for."""
