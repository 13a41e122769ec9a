"""The measured libraries: one module each, imported only in the process that measures it.

Such a module has ``make(work, **options) -> Task``. It may have ``matmul(size)``, which returns a
call that multiplies two square float32 matrices.
"""

import os
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A call that does the work once and waits for it, and the number of its weights."""

    call: Callable[[], Any]
    weights: int


class Unsupported(Exception):
    """This library has no such work."""


class Peer(NamedTuple):
    """A library: its name in tables, its module, the options of that, and its packages."""

    title: str
    module: str
    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    rival: bool = True  # counts as the best peer, if it is the fastest

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


_HERE = "noria.bench.peers"

PEERS = {
    "noria": Peer("Noria", f"{_HERE}.ours", {"backend": "auto"}, rival=False),
    "scan": Peer("Noria, scan", f"{_HERE}.ours", {"backend": "scan"}, rival=False),
    "prepared": Peer(
        "Noria, prepared", f"{_HERE}.ours", {"backend": "auto", "prepared": True}, rival=False
    ),
    "plain": Peer("lax.scan", f"{_HERE}.ours", {"backend": "plain"}),
    "torch": Peer("PyTorch", f"{_HERE}.pytorch", {}, ("torch",)),
    "flax": Peer("Flax nnx", f"{_HERE}.flax_nnx", {}, ("flax",)),
    "keras": Peer("Keras on JAX", f"{_HERE}.keras_jax", {}, ("keras",)),
    "onnx": Peer("onnxruntime", f"{_HERE}.onnx_runtime", {}, ("onnxruntime", "onnx")),
    "call": Peer("least JAX call", f"{_HERE}.least", {}, rival=False),
}

#: Measured by default.
USUAL = ("noria", "plain", "torch", "flax", "keras", "onnx")


def versions(peers: list[str]) -> dict[str, str]:
    """Of the packages that these peers need, and of those that Noria needs to compute."""
    packages = [
        "noria",
        "jax",
        "jaxlib",
        "numpy",
        *(p for name in peers for p in PEERS[name].packages),
    ]
    return {package: version(package) for package in packages}


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
