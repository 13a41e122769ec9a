"""Every test runs with 64 bits enabled, without silent promotion, and with the shapes in signatures checked.

The check covers the modules behind the public boundary. At the boundary (cells, layers, optimise, fit) wrong arguments must
meet Noria's own messages, as they do for a user, and not those of the checker.
"""

import itertools
import os
from typing import Any

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from tiers import mark_full

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

#: XLA's options for programs that run once. At level 0 it computes a number twice with different roundings, and then the derivative
#: of a minimum finds it nowhere.
QUICK = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"

#: The modules whose signatures are checked; by default without those that write machine code, which are called very often.
CHECKED = ["noria.data", "noria.losses", "noria.masking", "noria.summary"]
BACKENDS = [f"noria.backends.{name}" for name in ("associative", "plain", "reference", "scan")]

#: Files that run on the oldest and on the newest JAX each time.
VERSIONS = tuple(f"test_{name}.py" for name in ("each_layer", "versions", "jax", "sweep"))


def pytest_configure(config):
    """By default XLA compiles quickly and examples are few; where other tests are asked for, all is done thoroughly."""
    quick = config.option.markexpr == "not full"
    if quick and jax.__version_info__ < (
        0,
        11,
    ):  # an option that a version does not know ends the process
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    install_import_hook(
        [*CHECKED, *(BACKENDS if quick else ["noria.backends"])], "beartype.beartype"
    )
    # Each new shape compiles, so examples are few and have no deadline.
    settings.register_profile(
        "noria", deadline=None, max_examples=6 if quick else 12, derandomize=True
    )
    settings.load_profile("noria")


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`
def pytest_collection_modifyitems(items):
    mark_full(items)
    for item in items:
        if item.path.name in VERSIONS:
            item.add_marker("versions")


_done = itertools.count(1)


@pytest.fixture(autouse=True)
def _programs_are_given_up():
    """Now and then: each compiled program takes some of the 65,530 pieces of memory that Linux gives a process."""
    yield
    if not next(_done) % 150:
        jax.clear_caches()


@pytest.fixture
def plans(monkeypatch):
    """The native kernels that are made from now on."""
    from noria.backends.native import primitive
    from noria.backends.native.plan import tiling

    found = []

    class Spied(tiling.KernelPlan):
        def __init__(self, *args: Any):
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(primitive, "KernelPlan", Spied)
    return found


@pytest.fixture
def plain_jax():
    """JAX as a newcomer has it: 32 bits, ordinary promotion."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def ordinary_promotion():
    """For what runs through Optax, whose step counters are promoted."""
    with jax.numpy_dtype_promotion("standard"):
        yield
