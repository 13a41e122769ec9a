"""Layers on four devices: results, kernels and collectives of the programs in `sharding`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from models import AUTO

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

BATCH = 16
BACKENDS = ("native", "scan", "plain", "associative", "reference")
TYPED = [
    f"{way} {backend}"
    for way in ("by_typed_shard_map", "by_explicit_mesh")
    for backend in (*BACKENDS, "stored")
]
MEMORY = [
    f"{way} memory" for way in ("by_jit", "by_shard_map", "by_typed_shard_map", "by_explicit_mesh")
]
TRAINING = ["by_jit native", "by_shard_map native", *TYPED, *MEMORY]

#: Programs in which each device has its own rows of the batch: how many.
ROWS = {
    **{name: BATCH // 4 for name in TRAINING if name.endswith(("native", "stored", "memory"))},
    **dict.fromkeys(
        ("inference", "explicit_inference", "explicit_context", "in_shardings", "constraint"),
        BATCH // 4,
    ),
    **{
        "two axes": BATCH // 4,
        "the second axis": BATCH // 2,
        "time too": BATCH // 2,
        "sharded_weights": BATCH // 2,
    },
    "two_meshes": BATCH // 2,
    **{
        "mapped": BATCH // 4,
        "mapped explicit": BATCH // 4,
        "mapped_weights": BATCH // 4,
        "mapped outside": BATCH,
    },
    **{
        "steps": 1,
        "steps explicit": 1,
        "part of a mesh": BATCH // 2,
        "part of a mesh, typed": BATCH // 2,
    },
    "uneven": 63,  # which no four devices can share out evenly: each computes all
}

#: Programs that differ from others in one respect only; the selection of each day is without them.
LONG = {
    *("by_typed_shard_map plain", "by_typed_shard_map associative", "by_typed_shard_map stored"),
    *("by_explicit_mesh scan", "by_explicit_mesh reference", "by_explicit_mesh memory"),
    *("by_shard_map memory", "by_typed_shard_map memory"),
    *("constraint", "two_meshes", "the second axis", "mapped outside", "mapped explicit", "steps"),
    *("in_shardings", "mapped", "part of a mesh", "time too", "explicit_context"),
    *("by_typed_shard_map reference", "by_explicit_mesh plain"),
    *("by_typed_shard_map scan", "by_explicit_mesh associative", "by_explicit_mesh stored"),
    *("two axes", "part of a mesh, typed", "mapped_weights"),
}


def each(names: Iterable[str]) -> Any:
    """A test for each program."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[pytest.mark.full] * (n in LONG)) for n in names]
    )


@pytest.fixture(scope="module")
def found(request: Any) -> dict[str, Any]:
    """The results of all programs that the tests of this run ask for."""
    here = [i for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    asked = [i.callspec.params["name"] for i in here]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "sharding.py", *dict.fromkeys(asked)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@each(dict.fromkeys([*TRAINING, *ROWS, "mapped inside", "second_derivatives", "without_jit"]))
def test_as_on_one_device(found: Any, name: str):
    """Values and gradients."""
    assert "raised" not in found[name], found[name]["traceback"]
    assert found[name]["error"] < 1e-5


@each(ROWS)
def test_each_device_runs_its_own_rows(found: Any, name: str):
    assert found[name]["rows"] == [ROWS[name]]


@each(name for name in TRAINING if name != "by_explicit_mesh reference")
def test_a_training_step_sends_gradients_once(found: Any, name: str):
    """Each of them, and a few numbers."""
    assert found[name]["others"] == []
    sent = sum(found[name]["all-reduce"])
    assert 4 * found[name]["parameters"] <= sent <= 4 * found[name]["parameters"] + 1000


@each(name for name in TRAINING if name.endswith("native"))
def test_a_training_step_of_machine_code_sends_all_at_once(found: Any, name: str):
    assert len(found[name]["all-reduce"]) == 1


@each(["inference", "explicit_inference", "steps", "steps explicit"])
def test_inference_sends_nothing(found: Any, name: str):
    assert found[name]["others"] == []
    assert found[name]["all-reduce"] == []


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("explicit_inference", ["P('data', None)", "P('data', None, None)"]),
        ("steps explicit", ["P('data', None)"]),
    ],
)
def test_results_are_typed_on_an_explicit_mesh(found: Any, name: str, types: list[str]):
    assert found[name]["types"] == types
