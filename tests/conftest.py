"""Every test runs with 64 bits enabled, without silent promotion, and with the shapes in signatures checked.

The check covers the modules behind the public boundary. At the boundary (cells, layers, optimise, fit) wrong arguments must
meet Noria's own messages, as they do for a user, and not those of the checker.
"""

import itertools
from importlib import import_module
from typing import Any

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

if hasattr(jax, "enable_x64"):
    enable_x64: Any = jax.enable_x64
else:  # before JAX 0.8
    enable_x64 = import_module("jax.experimental").enable_x64

install_import_hook(
    ["noria.backends", "noria.data", "noria.losses", "noria.masking", "noria.summary"],
    "beartype.beartype",
)

# One profile: each new shape compiles, so examples are few and have no deadline.
settings.register_profile("noria", deadline=None, max_examples=12, derandomize=True)
settings.load_profile("noria")


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
    from noria.backends.native import layout, run

    found = []

    class Spied(layout.Plan):
        def __init__(self, *args: Any):
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(run, "Plan", Spied)
    return found


@pytest.fixture
def plain_jax():
    """JAX as a newcomer has it: 32 bits, ordinary promotion."""
    with enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def ordinary_promotion():
    """For what runs through Optax, whose step counters are promoted."""
    with jax.numpy_dtype_promotion("standard"):
        yield
