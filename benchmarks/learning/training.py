"""Train several seeds of a model at once, and measure them."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from model import model_of
from task import SCORES, Task, loss

import noria as nr

STEPS_PER_CALL = 100

Key = tuple[str, str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class Result:
    """The scores of a cell in a task.

    Attributes:
        task: its name.
        cell: its name.
        scores: one for each seed.
        parameters: of the whole model.
        seconds: for training all seeds.
        training: microseconds of one sequence and step in training, 0 before it is measured.
        streaming: microseconds of one step of one stream, 0 before it is measured.
        settings: those that differ from the task's.
    """

    task: str
    cell: str
    scores: tuple[float, ...]
    parameters: int
    seconds: float
    training: float = 0.0
    streaming: float = 0.0
    settings: Mapping[str, float] = field(default_factory=dict)


def key_of(task: str, cell: str, settings: Mapping[str, float]) -> Key:
    """Results that differ in it are different ones."""
    return task, cell, tuple(sorted(settings.items()))


def optimiser_of(task: Task) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, task.rate, task.steps // 20, task.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def trained(
    task: Task, name: str, seeds: int, told: Callable[[int, float], None]
) -> tuple[float, ...]:
    """The score of each seed."""
    optimiser = optimiser_of(task)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    models = eqx.filter_vmap(functools.partial(model_of, task, name))(keys)
    states = eqx.filter_vmap(lambda model: nr.setup(optimiser, model))(models)

    @eqx.filter_jit(donate="all")
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), eqx.if_array(0), 0, None))
    def several(model: Any, state: Any, key: jax.Array, start: jax.Array) -> Any:
        """Some steps of one seed: the model, the state of the optimiser, and the last loss."""
        arrays, rest = eqx.partition((model, state), eqx.is_array)

        def step(arrays: Any, n: jax.Array) -> Any:
            model, state = eqx.combine(arrays, rest)
            batch = task.draw(jax.random.fold_in(key, n), task.rows)
            value, gradient = nr.value_and_grad(lambda m: loss(task, m(batch.xs), batch))(model)
            model, state = nr.update(state, model, gradient)
            return eqx.filter((model, state), eqx.is_array), value

        arrays, values = jax.lax.scan(step, arrays, start + jnp.arange(STEPS_PER_CALL))
        return (*eqx.combine(arrays, rest), values[-1])

    draws = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    for start in range(0, task.steps, STEPS_PER_CALL):
        models, states, values = several(models, states, draws, jnp.asarray(start))
        told(start + STEPS_PER_CALL, float(jnp.mean(values)))
    batch = task.held_out(jax.random.key(1))
    measure = SCORES[task.score].measure

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def score(model: Any, batch: Any) -> jax.Array:
        return measure(model(batch.xs), batch)

    return tuple(float(s) for s in score(models, batch))


def measured(task: Task, name: str, seeds: int, told: Callable[[int, float], None]) -> Result:
    """Train a cell, with the time that it took."""
    start = time.perf_counter()
    scores = trained(task, name, seeds, told)
    parameters = nr.count_parameters(model_of(task, name, jax.random.key(0)))
    return Result(task.name, name, scores, parameters, time.perf_counter() - start)


def timed(task: Task, result: Result) -> Result:
    """The result with times of a step: in training a batch, and of one `noria.stream`."""
    model = model_of(task, result.cell, jax.random.key(0))
    batch = task.draw(jax.random.key(2), task.rows)
    gradient = eqx.filter_jit(nr.value_and_grad(lambda m, b: loss(task, m(b.xs), b)))
    stream, x = nr.stream(model), batch.xs[0, 0]
    training = _median(lambda: gradient(model, batch), 11) / batch.xs[..., 0].size
    streaming = _median(lambda: stream(x), 301)
    return replace(result, training=1e6 * training, streaming=1e6 * streaming)


def _median(call: Callable[[], Any], calls: int) -> float:
    """Seconds of a call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)
