"""Systems of linear equations in a step: by native code, with the derivatives of JAX."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_backends_agree, check_native
from jax.scipy.linalg import solve
from models import noise, random

import noria as nr
from noria.cells.catalogue import catalogue, class_of
from noria.ir.primitives import MOST_UNKNOWNS

pytest.importorskip("llvmlite")

WIDTH = 3
NATIVE = "native"
KEY = jax.random.key(0)


def positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return solve(matrix, right, assume_a="pos")


def general(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """A matrix with another order of rows has small numbers on its diagonal."""
    return jnp.linalg.solve(jnp.roll(matrix, 1, 0), jnp.roll(right, 1, 0))


def inverse(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.linalg.inv(matrix + 0.1 * jnp.roll(matrix, 1, 0)) @ right


METHODS = {method.__name__: method for method in (positive, general, inverse)}


class Squares(nr.Cell):
    """The least squares problem of all inputs, for each head; ``size`` numbers and columns."""

    W: jax.Array
    heads: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    by: Callable[..., Any] = eqx.field(static=True, default=positive)

    @classmethod
    def make(
        cls, heads: int, size: int, columns: int = 1, dtype: Any = jnp.float64, **options: Any
    ) -> "Squares":
        W = random(5, heads, 1 + columns, size, WIDTH, dtype=dtype)
        return cls(W, heads, size, columns, **options)

    def initial_state(self) -> jax.Array:
        return jnp.zeros((self.heads, self.size, self.size), self.W.dtype)

    def __call__(self, G: jax.Array, x: jax.Array) -> jax.Array:
        k = self.W[:, 0] @ x
        return 0.8 * G + k[:, :, None] * k[:, None, :]

    def output(self, G: jax.Array, x: jax.Array) -> jax.Array:
        right = jnp.einsum("hcsw,w->hsc", self.W[:, 1:], x)
        found = jax.vmap(self.by)(G + jnp.eye(self.size, dtype=G.dtype), right)
        return found.sum(-1).reshape(-1)


class Kalman(nr.Cell):
    """Kalman's filter: a mean and its covariance; measurements are solved for in each step."""

    F: jax.Array
    H: jax.Array
    by: Callable[..., Any] = eqx.field(static=True)

    @classmethod
    def make(cls, size: int, by: Callable[..., Any]) -> "Kalman":
        return cls(0.5 * random(3, size, size) / size**0.5, random(4, WIDTH, size), by)

    def initial_state(self) -> tuple[jax.Array, jax.Array]:
        size, dtype = self.F.shape[0], self.F.dtype
        return jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        mean, P = state
        mean, P = self.F @ mean, self.F @ P @ self.F.T + jnp.eye(len(mean), dtype=x.dtype)
        measured = self.H @ P
        S = measured @ self.H.T + jnp.eye(len(x), dtype=x.dtype)
        gain = self.by(S, measured).T
        return mean + gain @ (x - self.H @ mean), P - gain @ measured

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        return state[0]


def layer_of(cell: nr.Cell, **options: Any) -> nr.Recurrence:
    return nr.Recurrence(cell, **options)


def program_of(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return jax.jit(lambda layer, xs: layer(xs)).lower(layer, xs).compile()


@pytest.mark.sampled(11)
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 16, 17, 33, MOST_UNKNOWNS])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("method", METHODS)
def test_solutions_and_cotangents(method, heads, size, columns, dtype):
    layer = layer_of(Squares.make(heads, size, columns, dtype, by=METHODS[method]))
    tolerance = 2e-4 if dtype == jnp.float32 else None
    # jaxlib 0.10.2 on two cores: large systems that LAPACK solves at the same time, for the scan,
    # can wait for each other's threads for ever. With few of them that is rare.
    batch, time = (2, 2) if size > 32 else (2, 4)
    check_native(layer, random(1, batch, time, WIDTH, dtype=dtype), tolerance=tolerance)


@pytest.mark.versions
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_a_solution_that_feeds_the_state(method, size):
    layer = layer_of(Kalman.make(size, METHODS[method]))
    xs = random(1, 3, 6, WIDTH)
    check_native(layer, xs)
    resets = random(2, 3, 6) > 0.7
    check_native(layer, xs, lengths=jnp.array([6, 0, 3]), resets=resets)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("size", [1, 5, 16, 33])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_triangles(lower, turned, unit, left, size, columns):
    """The other triangle is not read: there are NaN."""

    def by(matrix: jax.Array, right: jax.Array) -> jax.Array:
        triangle = jnp.tri(size, dtype=bool) if lower else jnp.tri(size, dtype=bool).T
        matrix = jnp.where(triangle, matrix / size, jnp.nan)
        matrix = matrix + (0 if unit else 1) * jnp.eye(size)
        found = jax.lax.linalg.triangular_solve(
            matrix,
            right if left else right.T,
            left_side=left,
            lower=lower,
            transpose_a=turned,
            unit_diagonal=unit,
        )
        return found if left else found.T

    check_native(layer_of(Squares.make(2, size, columns, by=by)), random(1, 2, 3, WIDTH))


@pytest.mark.versions
def test_the_system_is_solved_in_the_loop():
    """The states of all steps are not stored."""
    layer = nr.with_backend(layer_of(Squares.make(4, 16, dtype=jnp.float32)), NATIVE)
    xs = random(1, 16, 256, WIDTH, dtype=jnp.float32)
    program = program_of(layer, xs)
    states = 16 * 256 * 4 * 16 * 16 * 4
    assert program.memory_analysis().temp_size_in_bytes < states / 4
    assert "lapack" not in program.as_text()


def test_steps_are_those_of_the_sequence():
    layer = nr.with_backend(layer_of(Squares.make(2, 5)), NATIVE)
    xs, state, found = random(1, 2, 4, WIDTH), None, []
    expected = layer(xs)
    for t in range(4):
        state, y = layer.step(state, xs[:, t])
        found.append(y)
    np.testing.assert_allclose(jnp.stack(found, 1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_forward_and_of_second_order(method):
    layer, xs = layer_of(Squares.make(2, 4, by=METHODS[method])), random(1, 2, 4, WIDTH)

    def loss(layer, xs):
        return jnp.mean(layer(xs) ** 2)

    def pushed(layer, xs):
        return jax.jvp(lambda xs: layer(xs), (xs,), (noise(xs, 4),))

    def curvature(layer, xs):
        gradient = jax.grad(loss, 1)
        return jax.jvp(lambda xs: gradient(layer, xs), (xs,), (noise(xs, 4),))

    for function in (pushed, curvature):
        assert_backends_agree(function, layer, xs)


def test_many_models_in_one_call():
    cells = [Squares.make(2, 5), noise(Squares.make(2, 5), 3)]
    layers = layer_of(jax.tree.map(lambda *leaves: jnp.stack(leaves), *cells))

    def gradients(layers, xs):
        return jax.vmap(jax.value_and_grad(lambda layer: jnp.sum(layer(xs) ** 2)))(layers)

    assert_backends_agree(gradients, layers, random(1, 2, 3, WIDTH))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_threads_share_heads_and_examples(heads, tune):
    tune(cores=3, thread_flops=1, matrix_state_bytes=1)
    layer = layer_of(Squares.make(heads, 6))
    for batch in (1, 2, 5):
        check_native(layer, random(1, batch, 4, WIDTH))


def test_threads_share_the_examples_of_a_step(tune):
    tune(cores=2, thread_flops=1, direct_flops=1, stage_flops=1)
    layer = layer_of(Squares.make(2, 5))
    for batch in (1, 3):
        check_native(layer, random(1, batch, 1, WIDTH))


class Indefinite(Squares):
    """The matrix loses its positive diagonal in the second head of the second example."""

    def __call__(self, G: jax.Array, x: jax.Array) -> jax.Array:
        loss = jnp.where(x[0] > 100, jnp.arange(self.heads, dtype=x.dtype), 0)
        return super().__call__(G, x) - 1e6 * loss[:, None, None] * jnp.eye(self.size)


@pytest.mark.parametrize("backend", [NATIVE, "scan"])
def test_a_matrix_that_is_not_positive_definite_gives_nan(backend):
    layer = nr.with_backend(layer_of(Indefinite.make(2, 5)), backend)
    ys = layer(random(1, 2, 3, WIDTH).at[1, 1, 0].set(101)).reshape(2, 3, 2, 5)
    is_bad = np.zeros((2, 3, 2), bool)
    is_bad[1, 1:, 1] = True
    np.testing.assert_array_equal(np.isnan(ys).all(-1), is_bad)
    np.testing.assert_array_equal(np.isnan(ys).any(-1), is_bad)


def test_infinite_numbers_stay_in_their_head():
    layer = nr.with_backend(layer_of(Squares.make(1, 4)), NATIVE)
    ys = layer(random(1, 3, 2, WIDTH).at[1].set(jnp.inf))
    assert np.isfinite(ys[jnp.array([0, 2])]).all()
    assert not np.isfinite(ys[1]).any()


def conjugate(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return jax.scipy.sparse.linalg.cg(lambda x: matrix @ x, right, maxiter=9)[0]


def two_axes(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """A system whose solution has two axes."""
    whole = jnp.einsum("ij,kl->ikjl", matrix, matrix)
    flat = matrix.shape[0] ** 2
    factors = jax.scipy.linalg.cho_factor(whole.reshape(flat, flat))

    def solved(_: Any, b: jax.Array) -> jax.Array:
        return jax.scipy.linalg.cho_solve(factors, b.reshape(-1)).reshape(b.shape)

    def product(x: jax.Array) -> jax.Array:
        return jnp.einsum("ikjl,jl->ik", whole, x)

    found = jax.lax.custom_linear_solve(product, right + right.T, solved, symmetric=True)
    return found[:, :1]


@pytest.mark.parametrize("by", [conjugate, two_axes])
def test_other_methods_keep_their_results(by):
    layer, xs = layer_of(Squares.make(1, 3, 1 if by is conjugate else 3, by=by)), random(1, 2, 3, 3)
    plain, auto = (nr.with_backend(layer, backend)(xs) for backend in ("plain", "auto"))
    np.testing.assert_allclose(auto, plain, rtol=1e-10, atol=1e-10)


def test_large_systems_are_left_to_lapack():
    """They are solved after the loop, for all steps."""
    layer = nr.with_backend(layer_of(Squares.make(1, MOST_UNKNOWNS + 1)), NATIVE)
    xs = random(1, 2, 3, WIDTH)
    assert "lapack" in program_of(layer, xs).as_text()
    check_native(layer, xs)


def test_hippo_solves_in_native_code():
    cell = class_of(catalogue()["hippo"])(WIDTH, 4, order=5, key=KEY, dtype=jnp.float64)
    check_native(layer_of(cell), random(1, 2, 6, WIDTH))


def test_mesanet_of_one_example_runs_in_native_code(tune):
    tune(cores=2, thread_flops=1, matrix_state_bytes=1)
    cls = class_of(catalogue()["mesanet"])
    cell = cls(WIDTH, 8, heads=2, key_size=4, key=KEY, dtype=jnp.float64)
    check_native(layer_of(cell), random(1, 1, 6, WIDTH))
