"""The choice of a backend: what is decided is run, explained and logged, and decided once."""

import logging
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from models import AUTO, assert_close, make_cell, random

import noria as nr
from noria.backends import LOOP_BACKENDS
from noria.backends.base import LoopCall
from noria.backends.scan import Scan
from noria.compiler import select

native_only = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
XS = random(0, 2, 5, 3)


def value(layer: Any, xs: Any) -> jax.Array:
    return jnp.sum(layer(xs) ** 2)


def unsupported(h: jax.Array, x: jax.Array) -> jax.Array:
    """A step that the native backend has no code for."""
    return jnp.sort(jnp.tanh(h + x))


@pytest.mark.parametrize("backend", ["auto", *LOOP_BACKENDS, "plain", "reference"])
def test_a_decision_is_what_is_explained(backend, monkeypatch):
    if backend == "native" and AUTO != "native":
        pytest.skip("there is no machine code here")
    layer, made = nr.Recurrence(make_cell("gru"), backend=backend), []
    decide = select.decide

    def spy(*args: Any) -> select.Decision:
        made.append(decide(*args))
        return made[-1]

    monkeypatch.setattr(select, "decide", spy)
    page = nr.explain(layer, XS)
    jax.jit(lambda xs: layer(xs)).lower(XS)
    explained, run = made
    for decision in (explained, run):
        assert (page.backend, page.label, page.time) == (decision.backend, "GRU(in_size=3)", 5)
        assert page.reason.startswith(decision.reason)


def test_each_decision_is_logged_once(caplog):
    layer = nr.Recurrence(unsupported, initial_state=jnp.zeros(3))
    with caplog.at_level(logging.DEBUG, "noria"):
        jax.jit(lambda xs: layer(xs)).lower(XS)
    lines = [r.getMessage() for r in caplog.records if r.name == "noria"]
    assert len(lines) == 1
    assert lines[0].startswith("Recurrence(unsupported): backend scan: ")
    assert "sort" in lines[0] or AUTO != "native"


@native_only
def test_a_reverse_loop_without_native_code_is_logged_and_explained(caplog, monkeypatch):
    native = sys.modules[LOOP_BACKENDS["native"]].BACKEND
    obstacles = type(native).obstacles

    def only_forward(self: Any, call: LoopCall) -> tuple[str, ...]:
        return ("of the test",) if call.accumulators else obstacles(self, call)

    monkeypatch.setattr(type(native), "obstacles", only_forward)
    layer = nr.Recurrence(make_cell("lstm", 3, 6))
    with caplog.at_level(logging.DEBUG, "noria"):
        found = jax.jit(jax.grad(value))(layer, XS)
    assert "LSTM(in_size=3): the reverse loop runs on backend scan: of the test" in caplog.text
    page = nr.explain(layer, XS)
    assert page.backend == "native"
    assert page.reason.endswith("; the reverse loop runs on backend scan: of the test")
    expected = jax.grad(value)(nr.with_backend(layer, "scan"), XS)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-10)


@native_only
def test_all_obstacles_are_explained():
    """Each with its line, in the order of the cell."""

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        a = jnp.sort(h + x)
        b = jax.lax.erf_inv(a)
        return jnp.tanh(jnp.sort(b))

    page = nr.explain(nr.Recurrence(cell, initial_state=jnp.zeros(3)), XS)
    line = cell.__code__.co_firstlineno
    assert page.backend == "scan"
    assert page.obstacles == (
        f"there is no native code for sort of f64[3], test_decisions.py:{line + 1}",
        f"there is no native code for erf_inv of f64[3], test_decisions.py:{line + 2}",
        f"there is no native code for sort of f64[3], test_decisions.py:{line + 3}",
    )
    assert page.reason.startswith(page.obstacles[0] + "; ")
    shown = str(page).splitlines()
    assert shown[1:5] == ["All obstacles:", *(f"  {obstacle}" for obstacle in page.obstacles)]


@native_only
def test_a_dtype_is_an_obstacle_beside_operations():
    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sort(h + x)

    half = jnp.float16
    page = nr.explain(nr.Recurrence(cell, initial_state=jnp.zeros(3, half)), XS.astype(half))
    line = cell.__code__.co_firstlineno
    start, end = "there is no native code for", f", test_decisions.py:{line + 1}"
    assert page.obstacles == (
        f"{start} add of f16[3] f16[3]{end}",
        f"{start} sort of f16[3]{end}",
        f"{start} values of f16[3]",
    )


def test_all_side_effects_are_explained():
    def inner(h: jax.Array) -> jax.Array:
        jax.debug.print("{}", h)
        return h

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda h: None, h)
        return jnp.tanh(jax.jit(inner)(h) + x)

    page = nr.explain(nr.Recurrence(cell, initial_state=jnp.zeros(3)), XS)
    lines = cell.__code__.co_firstlineno + 1, inner.__code__.co_firstlineno + 1
    assert page.backend == "plain"
    assert len(page.obstacles) == 2
    for obstacle, line in zip(page.obstacles, lines, strict=True):
        assert obstacle.startswith("a step has the side effect ")
        assert obstacle.endswith(f", test_decisions.py:{line}")


@native_only
def test_each_loop_of_a_training_step_is_planned_once(monkeypatch):
    from noria.backends.native import kernel_call
    from noria.backends.native.plan.schedule import schedule_of

    planned: Counter[bool] = Counter()

    def spied(*args: Any) -> Any:
        schedule = schedule_of(*args)
        planned[bool(schedule.accumulators)] += 1
        return schedule

    monkeypatch.setattr(kernel_call, "schedule_of", spied)
    layer = nr.Recurrence(make_cell("lstm", 3, 7))
    jax.jit(jax.grad(value)).lower(layer, XS)
    assert planned == {False: 1, True: 1}  # the forward loop, and the reverse loop


class Toy(Scan):
    """A third backend."""

    merit = "for the test"
    calls: list[LoopCall] = []  # noqa: RUF012

    def prepare(self, call: LoopCall) -> Any:
        self.calls.append(call)
        return super().prepare(call)


def test_a_third_backend_is_one_module_and_one_line(monkeypatch):
    module = ModuleType("toy_backend")
    module.BACKEND = Toy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_backend", module)
    monkeypatch.setitem(LOOP_BACKENDS, "toy", "toy_backend")
    layer = nr.Recurrence(make_cell("lstm"), backend="toy")
    found = jax.value_and_grad(value)(layer, XS)
    assert {call.reverse for call in Toy.calls} == {False, True}
    expected = jax.value_and_grad(value)(nr.with_backend(layer, "plain"), XS)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-10)
    assert nr.explain(layer, XS).reason == "as asked for"
    with pytest.raises(ValueError, match="toy"):
        nr.Recurrence(make_cell("lstm"), backend="nonsense")


@native_only
def test_a_changed_environment_is_seen_by_the_next_call(caplog, monkeypatch):
    layer = nr.Recurrence(make_cell("rnn", 3, 5))
    for variable, backend in ((None, "native"), ("scan", "scan"), (None, "native")):
        if variable is None:
            monkeypatch.delenv("NORIA_BACKEND", raising=False)
        else:
            monkeypatch.setenv("NORIA_BACKEND", variable)
        caplog.clear()
        jax.clear_caches()
        with caplog.at_level(logging.DEBUG, "noria"):
            layer(XS)
        assert f"RNN(in_size=3): backend {backend}: " in caplog.text
        assert nr.explain(layer, XS).backend == backend


@pytest.mark.parametrize("backend", ["scan", "associative"])
def test_as_many_examples_as_steps_are_not_confused(backend):
    """A backend that takes time first transposes whatever the sizes are."""
    layer = nr.Recurrence(lambda h, x: 0.5 * h + x, initial_state=jnp.zeros(3), backend=backend)
    xs = random(1, 4, 4, 3)
    assert_close(layer(xs), nr.with_backend(layer, "plain")(xs), 1e-12)


@native_only
def test_thresholds_of_the_trace_hold_when_the_code_is_made(plans):
    from noria.backends.native.machine import tuning, using

    layer = nr.Recurrence(make_cell("gru", 3, 7))
    with using(replace(tuning(), unpacked_rows=0)):
        traced = jax.jit(jax.grad(value)).trace(layer, XS[:1, :2])
    with using(replace(tuning(), equations=2)):
        traced.lower()
    assert [plan.plan.unpacked for plan in plans] == [False, False]


def test_a_derivative_rule_may_give_a_constant():
    @jax.custom_jvp
    def two(x: Any) -> Any:
        return jnp.full_like(x, 2.0) if x.ndim else jnp.asarray(2.0, x.dtype)

    two.defjvp(lambda primals, tangents: (jnp.asarray(2.0, XS.dtype), 3.0 * tangents[0]))

    def cell(h: Any, x: Any) -> Any:
        return 0.5 * h + two(h) + x.sum()

    found = [
        jax.grad(lambda xs, b=b: nr.Recurrence(cell, jnp.zeros(()), backend=b)(xs).sum())(XS)
        for b in ("auto", "scan", "plain")
    ]
    assert_close(found[:2], [found[2]] * 2, 1e-10)


def test_two_threads_differentiate_one_layer():
    """A gradient is decided once for a trace, also if two threads ask for it at the same time."""
    layer = nr.Recurrence(make_cell("lstm", 3, 7), backend="scan")
    decisions: list[Any] = []
    with select.listening(lambda decision: decisions.append(decision)):
        jax.make_jaxpr(lambda xs: layer(xs))(XS)
    executor = decisions[-1].program.executor
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: executor.gradient, range(8)))
    assert all(gradient is found[0] for gradient in found)
