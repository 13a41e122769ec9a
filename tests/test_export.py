"""`jax.export` of layers, with numbers for the sizes and with symbols."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from models import random

import noria as nr


def key(n: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), 3)[n]


MODELS: dict[str, Callable[[], nr.Layer]] = {
    "GRU": lambda: nr.GRU(2, 3, key=key(0)),
    "states": lambda: nr.LSTM(2, 3, key=key(0), save="states"),
    "checkpoint": lambda: nr.RNN(2, 3, key=key(0), checkpoint="sqrt"),
    "chain": lambda: nr.Chain(
        nr.Bidirectional(nr.LSTM(2, 3, key=key(0)), nr.GRU(2, 3, key=key(1))),
        nr.Dense(6, 2, key=key(2)),
    ),
}
SIZES = {"b": 3, "t": 5}


def exported(function: Any, shape: str, platform: str = "cpu") -> Any:
    struct = jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float64)
    return export.export(jax.jit(function), platforms=[platform])(struct)


@pytest.mark.sampled(21)
@pytest.mark.parametrize("backend", ["plain", "scan", "auto"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("GRU", "b, t, 2"),
        ("GRU", "t, 2"),
        ("states", "b, 4, 2"),
        ("checkpoint", "3, t, 2"),
        ("chain", "b, t, 2"),
    ],
)
def test_free_sizes(name, shape, backend):
    """Values and gradients of one exported program, for two sizes each."""
    model = nr.with_backend(MODELS[name](), backend)

    def gradient(xs: jax.Array) -> jax.Array:
        return jax.grad(lambda xs: jnp.sin(model(xs)).sum())(xs)

    programs = {f: exported(f, shape) for f in (model, gradient)}
    for extra in (0, 2):
        sizes = [SIZES[s] + extra if s in SIZES else int(s) for s in shape.split(", ")]
        xs = random(0, *sizes)
        for function, program in programs.items():
            np.testing.assert_allclose(program.call(xs), function(xs), atol=1e-12)


def test_other_devices_get_a_scan():
    program = exported(MODELS["chain"](), "3, 4, 2", "cuda")
    assert "stablehlo.while" in program.mlir_module()
    assert "noria_" not in program.mlir_module()


def test_machine_code_needs_numbers():
    layer = nr.with_backend(MODELS["GRU"](), "native")
    with pytest.raises(
        ValueError, match=r"machine code needs sizes that are numbers, and there is \(b, t\)"
    ):
        exported(layer, "b, t, 2")


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_a_program_for_other_processes_runs_a_scan(backend):
    """They do not have the kernels of this one."""
    layer = nr.with_backend(MODELS["GRU"](), backend)
    program = exported(layer, "3, 4, 2")
    assert "noria_" not in program.mlir_module()
    np.testing.assert_allclose(
        program.call(random(0, 3, 4, 2)), layer(random(0, 3, 4, 2)), atol=1e-12
    )
