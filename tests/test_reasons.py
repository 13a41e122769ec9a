"""The reasons of `explain`, and the page that is generated from them."""

import re
import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import AUTO

import noria as nr
from noria.backends.native.machine import NoSuchMachine
from noria.ir.reasons import Reason

pytest.importorskip("llvmlite")
pytestmark = [
    pytest.mark.skipif(AUTO != "native", reason="there is no machine code here"),
    pytest.mark.usefixtures("plain_jax"),
]

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "what_runs_fast.py"))
#: Reasons that depend on the machine and its environment: no cell shows them.
OF_THE_MACHINE = {
    Reason.VARIABLE,
    Reason.WITHOUT_LOOP,
    Reason.DEVICE,
    Reason.PROCESSOR,
    Reason.INSTRUCTIONS,
    Reason.XLA_VERSION,
}


def pattern(reason: Reason) -> str:
    return re.sub(r"\\{.*?\\}", ".*", re.escape(reason.text))


@pytest.mark.parametrize("reason", SCRIPT["EXAMPLES"], ids=lambda reason: reason.name)
def test_a_cell_gives_the_reason(reason):
    messages = SCRIPT["EXAMPLES"][reason].messages()
    assert any(re.search(pattern(reason), message) for message in messages), messages


def test_every_reason_of_a_cell_has_an_example():
    assert {*Reason} == {*SCRIPT["EXAMPLES"], *OF_THE_MACHINE}


def test_every_reason_is_given_somewhere():
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert [reason.name for reason in Reason if f"Reason.{reason.name}(" not in source] == []


def test_the_page_has_the_reasons_and_the_choices_of_the_compiler():
    assert SCRIPT["PAGE"].read_text() == SCRIPT["page"]()


# --- reasons of the machine ---------------------------------------------------------------------


def explained() -> Any:
    return nr.explain(nr.GRU(3, 4, key=jax.random.key(0)), jnp.zeros((2, 5, 3)))


def test_the_variable_is_a_reason(monkeypatch):
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    assert explained().reason == Reason.VARIABLE()


def test_the_instruction_set_is_a_reason(monkeypatch):
    monkeypatch.setenv("NORIA_NATIVE_ISA", "mmx")
    assert re.search(pattern(Reason.INSTRUCTIONS), explained().reason)


def test_the_processor_is_a_reason(monkeypatch):
    from noria.backends.native.runtime import target

    monkeypatch.setattr(target, "available", lambda: ())
    with pytest.raises(NoSuchMachine, match=pattern(Reason.PROCESSOR)):
        target.chosen()


def test_the_version_of_xla_is_a_reason(monkeypatch, tmp_path):
    from noria.backends.native.runtime.header import api_version

    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    with pytest.raises(NoSuchMachine, match=pattern(Reason.XLA_VERSION)):
        api_version.__wrapped__()


def test_the_device_is_a_reason(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert explained().obstacles == (Reason.DEVICE(device="tpu"),)


def decay(h, x):
    return 0.9 * h + x


def memory(S, x):
    S = 0.9 * S + jnp.outer(x, x)
    return S, x @ S


@pytest.mark.parametrize(
    ("step", "shape", "backend"), [(decay, (3,), "associative"), (memory, (3, 3), "chunkwise")]
)
def test_accelerators_run_linear_steps_all_at_once(monkeypatch, step, shape, backend):
    state = jnp.zeros(shape)
    layer = nr.Recurrence(step, initial_state=state)
    xs = jax.random.normal(jax.random.key(0), (2, 40, 3))
    lengths = jnp.array([40, 7])

    def loss(xs):
        return jnp.sum(jnp.tanh(layer(xs, lengths=lengths)))

    expected = jax.value_and_grad(loss)(xs)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    page = nr.explain(layer, xs, lengths=lengths)
    assert (page.backend, page.reason) == (backend, Reason.WITHOUT_LOOP(device="gpu"))
    found = jax.value_and_grad(loss)(xs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)
    # A loop runs what the user asks for, one step, and residuals that only a loop has.
    assert nr.explain(nr.with_backend(layer, "scan"), xs).backend == "scan"
    assert nr.explain(layer, xs[:, :1]).backend == "scan"
    states = nr.Recurrence(step, initial_state=state, save="states")
    assert nr.explain(states, xs).backend == "scan"
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    assert nr.explain(layer, xs).backend == "scan"
