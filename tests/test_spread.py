"""`fit(mesh=...)` and `spread`: four devices in one process, and several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import AUTO

import noria as nr

HERE = Path(__file__).parent
#: Examples that a kernel sees of a batch of 64, or of 63.
ROWS = {
    "even": 16,
    "carried": 16,
    "uneven": 63,
    "explicit": 16,
    "one of two axes": 32,
    "both axes": 16,
    "hidden": 32,
}
LONG = {"explicit", "both axes", "one of two axes"}
CASES = [pytest.param(name, marks=[pytest.mark.full] * (name in LONG)) for name in ROWS]

native = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


@pytest.fixture(scope="module")
def found(request: Any) -> dict[str, Any]:
    """The results of all programs that the tests of this run ask for."""
    here = [i for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    asked = [i.callspec.params["name"] for i in here if "name" in i.callspec.params]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, HERE / "spreading.py", *dict.fromkeys(asked), "loop", "explained"],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    failed = [case["traceback"] for case in results.values() if "traceback" in case]
    assert not failed, failed[0]
    return results


@native
@pytest.mark.parametrize("name", CASES)
def test_fit_on_four_devices_is_fit_on_one(found: dict[str, Any], name: str):
    case = found[name]
    assert case["error"] < 1e-6
    assert case["losses"] < 1e-5
    assert set(case["devices"]) == {4}
    assert case["rows"] == [ROWS[name]]


@native
@pytest.mark.parametrize("name", [case for case in CASES if case.values[0] != "hidden"])
def test_a_step_sends_each_gradient_once_and_gathers_nothing(found: dict[str, Any], name: str):
    case = found[name]
    assert case["others"] == []
    if name == "uneven":  # each device computes all of it
        assert case["all-reduce"] == []
        return
    assert len(case["all-reduce"]) == 1
    bytes_ = 4 * case["parameters"]
    assert bytes_ <= case["all-reduce"][0] <= bytes_ + 1000


@native
def test_a_loop_of_ones_own(found: dict[str, Any]):
    case = found["loop"]
    assert case["error"] < 1e-6
    assert (case["rows"], case["others"], len(case["all-reduce"])) == ([16], [], 1)


@native
def test_explain_tells_of_devices(found: dict[str, Any]):
    assert (
        "On 4 devices: each computes 16 of 64 examples; a training step sends the gradients of the "
        "model once, 6.94 kB; a call without gradients sends nothing." in found["loop"]["explained"]
    )
    assert "so nothing is gained by cutting them" in found["explained"]["hidden"]
    assert (
        "they cannot share 63 examples evenly, so each computes all of them"
        in (found["explained"]["uneven"])
    )


def test_spread_puts_rows_and_modules(plain_jax: None):
    mesh = jax.make_mesh((1,), ("data",))
    model: Any
    batch: Any
    model, batch = nr.spread(
        (nr.Dense(2, 1, key=jax.random.key(0)), {"xs": jnp.zeros((4, 2)), "n": 3}), mesh
    )
    assert model.W.sharding.mesh == mesh
    assert (batch["xs"].sharding.spec, batch["n"]) == (jax.sharding.PartitionSpec("data"), 3)
    with pytest.raises(
        ValueError, match=r"spread\(axis='rows'\): the mesh has no axis 'rows'; expected one of"
    ):
        nr.spread(model, mesh, "rows")


# --- processes ----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def run(count: int, folder: Path, *options: str) -> list[dict[str, Any]]:
    """What each of so many processes of one run prints."""
    arguments = [str(count), str(free_port()), str(folder), *options]
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "processes.py", str(n), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(text.splitlines()[-1]) for text, _ in outputs]


def alone(folder: Any = "-", epochs: int = 5) -> dict[str, Any]:
    """The same run in this process."""
    import processes

    given = ["0", "1", "-", str(folder), "--epochs", str(epochs)]
    return processes.main(processes.parser.parse_args(given))


def furthest(a: dict[str, Any], b: dict[str, Any]) -> float:
    pairs = zip(a["leaves"], b["leaves"], strict=True)
    return float(max(np.abs(np.subtract(x, y)).max() for x, y in pairs))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.full)])
def test_processes_train_together(tmp_path: Path, plain_jax: None, count: int):
    """Ten steps: the same parameters everywhere, and nearly those of one process."""
    first, *others = run(count, tmp_path)
    assert {other["digest"] for other in others} == {first["digest"]}
    assert first["threads"] == max(1, len(os.sched_getaffinity(0)) // count)
    expected = alone()
    assert 0 < furthest(first, expected) < 1e-5
    np.testing.assert_allclose(first["losses"], expected["losses"], rtol=1e-5)
    # Saved by several processes in the last epoch, and continued by one.
    steps = sorted(tmp_path.iterdir())
    assert [path.name for path in steps] == [
        "step-000000008.safetensors",
        "step-000000010.safetensors",
    ]
    steps[-1].unlink()
    assert furthest(alone(tmp_path), expected) < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("count", [2, 4])
def test_a_second_run_of_processes_is_bit_equal(tmp_path: Path, count: int):
    (first, *_), (second, *_) = (run(count, tmp_path / name) for name in "ab")
    assert first["digest"] == second["digest"]


@pytest.mark.full
def test_sigterm_to_one_process_ends_all_of_them(tmp_path: Path):
    """After the same step; together they continue as if nothing had been."""
    ended = run(2, tmp_path, "--term", "5")
    assert [one["code"] for one in ended] == [143, 143]
    assert ended[0]["stopped"] == ended[1]["stopped"] == "SIGTERM in epoch 3"
    assert ended[0]["digest"] == ended[1]["digest"]
    (continued, _), (whole, _) = run(2, tmp_path), run(2, tmp_path / "whole")
    assert continued["digest"] == whole["digest"]
