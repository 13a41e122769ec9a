"""Initialisers for state-space models, gates and reservoirs: ranges, distributions, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noria import initializers

KEY = jax.random.key(0)
COUNT = 4000


def quantiles(numbers: np.ndarray) -> np.ndarray:
    return np.quantile(numbers, [0.1, 0.25, 0.5, 0.75, 0.9])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_log_uniform(dtype):
    drawn = initializers.log_uniform(0.001, 0.1)(KEY, (COUNT,), dtype)
    assert drawn.dtype == dtype
    assert bool((drawn >= 0.001 * (1 - 1e-6)).all() and (drawn <= 0.1 * (1 + 1e-6)).all())
    share = np.log(np.asarray(drawn) / 0.001) / np.log(100)
    np.testing.assert_allclose(quantiles(share), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.03)


def test_chrono():
    """Exp of a bias is uniform from 1 to the longest dependency less one."""
    steps = np.exp(np.asarray(initializers.chrono(101)(KEY, (COUNT,), jnp.float64)))
    np.testing.assert_allclose(quantiles((steps - 1) / 99), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.03)


@pytest.mark.parametrize("inner", [0.0, 0.9])
def test_ring(inner):
    """The squares of the moduli are uniform, so that areas are."""
    nu = np.asarray(initializers.ring(inner, 0.99)(KEY, (COUNT,), jnp.float64))
    share = (np.exp(-2 * np.exp(nu)) - inner**2) / (0.99**2 - inner**2)
    np.testing.assert_allclose(quantiles(share), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.03)


def test_spectral():
    matrix = np.asarray(initializers.spectral(0.8, 0.2)(KEY, (40, 40), jnp.float64))
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(matrix)).max(), 0.8, rtol=1e-10)
    assert 0.15 < np.mean(matrix != 0) < 0.25


def test_a_reservoir_without_eigenvalues_is_zero():
    nothing = initializers.spectral(0.8, 1e-9)(KEY, (3, 3), jnp.float32)
    np.testing.assert_array_equal(nothing, 0)


def test_block_diagonal():
    init = initializers.block_diagonal(initializers.orthogonal(), 3)
    matrix = np.asarray(init(KEY, (6, 6), jnp.float64))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-12)
    outside = np.kron(np.eye(3), np.ones((2, 2))) == 0
    np.testing.assert_array_equal(matrix[outside], 0)


def legendre(theta: float | None, order: int = 6) -> tuple[np.ndarray, np.ndarray]:
    init = initializers.legendre(theta)
    A, B = (np.asarray(init(KEY, shape, jnp.float64)) for shape in ((order, order), (order,)))
    return A, B


def polynomial(n: int, t: np.ndarray) -> np.ndarray:
    """The Legendre polynomial of degree n on [0, 1], with a norm of 1."""
    return np.sqrt(2 * n + 1) * np.polynomial.Legendre.basis(n)(2 * t - 1)


def test_legendre_remembers_a_polynomial_exactly():
    """Both memories hold its projections, on a window or on all of the past."""
    order, theta = 6, 400.0
    t, weights = np.polynomial.legendre.leggauss(20)
    t, weights = (t + 1) / 2, weights / 2

    def past(x: Any) -> Any:
        return 3 * x**2 - x + 0.5

    def projected(values: np.ndarray) -> list[float]:
        return [np.sum(weights * polynomial(n, t) * values) for n in range(order)]

    A, B = legendre(None)
    # c_n(s) is the integral of g_n(t) f(s t); its derivative at s = 1 is that of g_n(t) t f'(t).
    derivative = A @ projected(past(t)) + B * past(np.ones(1))
    np.testing.assert_allclose(derivative, projected(t * (6 * t - 1)), atol=1e-12)
    A, B = legendre(theta)
    c = np.zeros(order)
    for step in range(4000):
        c = A @ c + B * past((step + 0.5) / theta - 9)
    np.testing.assert_allclose(c, projected(past(t)), atol=0.02)


WRONG = {
    "log_uniform(0, 1)": (lambda: initializers.log_uniform(0, 1), "expected 0 < low <= high"),
    "chrono(2)": (lambda: initializers.chrono(2), "expected more than 2 steps"),
    "ring(0.9, 1)": (lambda: initializers.ring(0.9, 1), "expected 0 <= r_min < r_max < 1"),
    "legendre(0)": (lambda: initializers.legendre(0), "legendre\\(theta=0\\): expected a number"),
    "legendre": (
        lambda: initializers.legendre()(KEY, (3, 4), jnp.float32),
        r"legendre: \(3, 4\) is neither \(order, order\) nor",
    ),
    "spectral(1, 0)": (lambda: initializers.spectral(1, 0), "a density above 0"),
    "block_diagonal": (
        lambda: initializers.block_diagonal(initializers.ones, 2)(KEY, (3, 4), jnp.float32),
        "has no 2 equal blocks",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_says_what_is_wrong(name):
    call, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        call()
