"""Every test runs with 64 bits, without silent promotion, and with shapes in signatures checked.

The check covers the modules behind the public boundary. At the boundary (cells, layers, optimise,
fit) wrong arguments must meet Noria's own messages, as for a user, and not those of the checker.
"""

import gc
import importlib.util
import itertools
import os
import platform
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from tiers import mark_full
from tuning import tuned

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

#: Where level 0 of XLA is exact enough: it takes half the time of level 1 for a loop. It contracts
#: one of two equal computations to fused multiply-adds, so that the derivative of a minimum finds
#: the minimum nowhere. Instructions without contractions avoid that.
EXACT = ("0", "--xla_cpu_max_isa=AVX")
LEVEL, *_ISA = EXACT if platform.machine().lower() in ("x86_64", "amd64") else ("1",)

#: XLA's options for programs that run once. A small program that is compiled in one part takes a
#: seventh less time.
QUICK = " ".join(
    (
        "--xla_cpu_parallel_codegen_split_count=1",
        f"--xla_backend_optimization_level={LEVEL}",
        *_ISA,
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    )
)

#: The modules whose signatures are checked. By default those that write machine code are left out,
#: since they are called very often.
CHECKED = ["noria.data", "noria.losses", "noria.masking", "noria.summary"]
BACKENDS = ["noria.ops", *(f"noria.backends.{name}" for name in ("plain", "reference", "scan"))]

#: Files that run on the oldest and on the newest JAX each time.
VERSIONS = tuple(f"test_{name}.py" for name in ("each_layer", "versions", "jax", "sweep"))


def pytest_configure(config):
    """XLA compiles quickly. By default examples are few, and fewer signatures are checked."""
    quick = config.option.markexpr == "not full"
    if not hasattr(config, "workerinput"):
        # Machine code is kept for one run, so that none of another version is tested. The workers
        # of the run share the folder; nobody's own folder is used.
        folder = TemporaryDirectory(prefix="noria-tests-")
        os.environ["NORIA_CACHE"] = folder.name
        config.add_cleanup(folder.cleanup)
    # An option that a version does not know ends the process. So newer versions, which run a short
    # selection each time, compile as for a user.
    if jax.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    install_import_hook(
        [*CHECKED, *(BACKENDS if quick else ["noria.backends", "noria.ops"])], "beartype.beartype"
    )
    # Each new shape compiles, so examples are few and have no deadline.
    settings.register_profile(
        "noria", deadline=None, max_examples=4 if quick else 12, derandomize=True
    )
    settings.load_profile("noria")


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`
def pytest_collection_modifyitems(items):
    mark_full(items)
    for item in items:
        if item.path.name in VERSIONS:
            item.add_marker("versions")


def pytest_collection_finish():
    """Collect garbage rarely. JAX makes many objects, and a sixth of the time was for collection.

    What was imported and collected lives as long as the process, so that it is not looked at.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _stages_are_in_order():
    """Every schedule of every test is checked."""
    if importlib.util.find_spec("llvmlite"):
        from schedules import check_all

        check_all()


_done = itertools.count(1)


@pytest.fixture(autouse=True)
def _programs_are_given_up():
    """Clear caches now and then: Linux gives a process 65,530 memory maps, programs take some."""
    yield
    if not next(_done) % 800:
        jax.clear_caches()
        gc.collect()


class Planned(NamedTuple):
    """What a test may ask about the plan of a kernel.

    Attributes:
        plan: the plan itself.
        shares_features: whether threads share the features of each stage, and not the examples.
        emitted: how many arrays are emitted.
        accumulators: how many gradients of parameters the loop sums up.
        prologue: how many products are made before the steps of a time block.
        epilogue: how many products are made after the steps of a time block.
        staged: how many arrays pass through a staging buffer.
        unpacked: whether products read the weights where they are.
        panel_bytes: bytes of packed weights.
    """

    plan: Any
    shares_features: bool
    emitted: int
    accumulators: int
    prologue: int
    epilogue: int
    staged: int
    unpacked: bool
    panel_bytes: int


@pytest.fixture
def plans(monkeypatch):
    """The plans of all kernels that are made from now on."""
    from noria.backends.native import kernel_call
    from noria.backends.native.plan import tiling

    found: list[Planned] = []

    class Spied(tiling.KernelPlan):
        def __init__(self, *args: Any):
            super().__init__(*args)
            schedule = self.schedule
            emitted, accumulators = len(schedule.values("emitted")), len(schedule.accumulators)
            blocks = len(self.prologue), len(self.epilogue), len(self.staged)
            found.append(
                Planned(
                    self,
                    self.by_features,
                    emitted,
                    accumulators,
                    *blocks,
                    self.unpacked,
                    self.panel_bytes,
                )
            )

    monkeypatch.setattr(kernel_call, "KernelPlan", Spied)
    return found


@pytest.fixture
def tune():
    """Replace thresholds for the rest of a test: ``tune(cores=3)``, see `tuning.tuned`."""
    with ExitStack() as stack:
        yield lambda **numbers: stack.enter_context(tuned(**numbers))


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
