"""Cells of dynamical systems: continuous time, reservoirs, low rank, piecewise linear maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.cells.starts import uniform_by_columns
from noria.initializers import normal, spectral, uniform


def _lecun_tanh(z: jax.Array) -> jax.Array:
    """``1.7159 * tanh(0.666 * z)``."""
    return 1.7159 * jnp.tanh(0.666 * z)


def _chaotic(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n) for n columns."""
    return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5


def _positive_definite(key: Key, size: int, dtype: Any) -> jax.Array:
    """``R^T R / n + I`` over its largest eigenvalue, with R from N(0, 1)."""
    R = jax.random.normal(key, (size, size), dtype)
    K = R.T @ R / size + jnp.eye(size, dtype=dtype)
    return K / jnp.linalg.norm(K, 2)


def _positive_diagonal(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The diagonal of a matrix of `_positive_definite`."""
    return jnp.diag(_positive_definite(key, shape[0], dtype))


def _off_diagonal(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A matrix of `_positive_definite` with zeros on the diagonal."""
    return _without_diagonal(_positive_definite(key, shape[0], dtype))


def _without_diagonal(W: jax.Array) -> jax.Array:
    """The matrix with zeros on the diagonal."""
    return W * (1 - jnp.eye(W.shape[0], dtype=W.dtype))


class ESNCell(VectorCell):
    """The echo state network: a leaky layer whose weights stay as they are drawn.

    ::

        h' = (1 - leak) * h + leak * activation(input_scale * W x + radius * U h + b)

    No array is trained: only a read-out behind the layer is, by ridge regression for example.
    ``U`` is drawn with the spectral radius 1; ``init={"U": nr.initializers.spectral(1.0, 0.1)}``
    makes it sparse.

    Args:
        radius: the spectral radius of the recurrent matrix.
        leak: the share of the new value; 1 is the network of 2001.
        input_scale: factor of the input weights, which are drawn from U(-1, 1).
        activation: any element-wise function.

    Source: Jaeger 2001, GMD report 148; ``leak`` by Jaeger et al. 2007, doi
    10.1016/j.neunet.2007.04.016. ReservoirPy also has a form with the leak inside of the
    activation.
    """

    radius: float = 0.9
    leak: float = 1.0
    input_scale: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in", uniform(1.0), trained=False)
    U: jax.Array = matrix("hidden", "hidden", spectral(1.0), trained=False)
    b: jax.Array = vector("hidden", trained=False)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not 0 < self.leak <= 1:
            raise ValueError(f"ESNCell(leak={self.leak}): expected a number above 0, at most 1.")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = self.input_scale * (self.W @ x) + self.radius * (self.U @ h) + self.b
        return (1 - self.leak) * h + self.leak * self.activation(a)


class CTRNNCell(VectorCell):
    """A continuous-time network, solved by Euler's method, with a time constant for each unit.

    ::

        tau   = exp(log_tau)
        rate:     tau dh/dt = -h + activation(W x + U h + b)
        current:  tau dh/dt = -h + W x + U activation(h) + b

    The output is ``h`` in the form of rates and ``activation(h)`` in the form of currents. The
    latter with ``init={"U": nr.initializers.normal(1.5 / hidden**0.5)}`` is the network of
    Sussillo and Abbott, who train the read-out only.

    Args:
        form: ``"rate"`` or ``"current"``.
        dt: the time of a step.
        unfolds: number of steps of Euler's method in a step.
        activation: any element-wise function.

    Source: Funahashi and Nakamura 1993, doi 10.1016/S0893-6080(05)80125-X; currents by Sussillo
    and Abbott 2009, doi 10.1016/j.neuron.2009.07.018.
    """

    form: str = "rate"
    dt: float = 0.1
    unfolds: int = 1
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    log_tau: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("CTRNNCell", "form", self.form, ("rate", "current"))
        if self.unfolds < 1:
            raise ValueError(f"CTRNNCell(unfolds={self.unfolds}): expected at least 1.")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        rate = self.dt / self.unfolds * jnp.exp(-self.log_tau)
        u = self.W @ x + self.b
        for _ in range(self.unfolds):
            if self.form == "rate":
                drive = self.activation(u + self.U @ h)
            else:
                drive = u + self.U @ self.activation(h)
            h = h + rate * (drive - h)
        return h

    def output(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """The rates of the units."""
        return state if self.form == "rate" else self.activation(state)


class LowRankRNNCell(VectorCell):
    """A network of currents whose matrix is random and fixed, plus a part of low rank.

    ::

        J  = g chi + m n^T / hidden
        h' = h + dt (-h + J activation(h) + W x)
        y  = activation(h')

    ``chi`` is drawn from N(0, 1 / hidden) and is not trained. With ``g = 0`` the cell has none.

    Args:
        rank: the rank of the trained part.
        g: factor of the fixed part; the activity without an input is chaotic above about 1.
        dt: the time of a step over the time constant of the units.
        activation: any element-wise function.

    Source: Mastrogiuseppe and Ostojic 2018, doi 10.1016/j.neuron.2018.07.003. The paper designs
    ``m`` and ``n``; here they are trained.
    """

    rank: int = size(default=1)
    g: float = 0.8
    dt: float = 0.1
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    chi: jax.Array | None = matrix(
        "hidden", "hidden", _chaotic, trained=False, when=lambda cell: cell.g != 0
    )
    m: jax.Array = matrix("hidden", "rank", normal(1.0))
    n: jax.Array = matrix("hidden", "rank", normal(1.0))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        r = self.activation(h)
        drive = self.m @ (self.n.T @ r) / self.hidden_size + self.W @ x
        if self.chi is not None:
            drive = drive + self.g * (self.chi @ r)
        return h + self.dt * (drive - h)

    def output(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """The rates of the units."""
        return self.activation(state)


class PLRNNCell(VectorCell):
    """The piecewise linear network: a diagonal linear part, and ReLU for the other units.

    ::

        z' = A * z + W relu(z) + C x + h                 (W without its diagonal)

    Source: Durstewitz 2017, doi 10.1371/journal.pcbi.1005542. The initial values are those of the
    code for Hess et al. 2023, with separate draws for ``A`` and ``W``. That code does not hold the
    diagonal of ``W`` at zero.
    """

    A: jax.Array = vector("hidden", _positive_diagonal)
    W: jax.Array = matrix("hidden", "hidden", _off_diagonal)
    C: jax.Array = matrix("hidden", "in")
    h: jax.Array = vector("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        return self.A * z + _without_diagonal(self.W) @ relu(z) + self.C @ x + self.h


class ShallowPLRNNCell(VectorCell):
    """A piecewise linear network with one layer of hidden units between two states.

    ::

        z' = A * z + W_1 relu(W_2 z + h_2) + C x + h_1
        z' = A * z + W_1 (relu(W_2 z + h_2) - relu(W_2 z)) + C x + h_1       (clipped)

    Args:
        units: number of hidden units.
        clipped: whether states stay bounded if all ``|A| < 1``.

    Source: Hess et al. 2023, arXiv 2306.04406.
    """

    units: int = size(default=50)
    clipped: bool = True
    A: jax.Array = vector("hidden", _positive_diagonal)
    W_1: jax.Array = matrix("hidden", "units", uniform_by_columns)
    W_2: jax.Array = matrix("units", "hidden", uniform_by_columns)
    C: jax.Array = matrix("hidden", "in")
    h_1: jax.Array = vector("hidden")
    h_2: jax.Array = vector("units", uniform_by_columns)
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        a = self.W_2 @ z
        units = relu(a + self.h_2) - relu(a) if self.clipped else relu(a + self.h_2)
        return self.A * z + self.W_1 @ units + self.C @ x + self.h_1


class DendPLRNNCell(VectorCell):
    """A piecewise linear network whose activation is a sum of shifted ReLUs for each unit.

    ::

        p  = sum over b of  alpha_b relu(z - H_b)
        z' = A * z + W p + C x + h                       (W without its diagonal)

    Args:
        bases: number of ReLUs of a unit.

    Source: Brenner et al. 2022, arXiv 2207.02542. The authors' code can also draw the thresholds
    ``H`` from the range of the data.
    """

    bases: int = size(default=20)
    A: jax.Array = vector("hidden", _positive_diagonal)
    W: jax.Array = matrix("hidden", "hidden", _off_diagonal)
    alpha: jax.Array = vector("bases", uniform_by_columns)
    H: jax.Array = array("hidden", "bases", initializer=normal(1.0))
    C: jax.Array = matrix("hidden", "in")
    h: jax.Array = vector("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        p = relu(z[:, None] - self.H) @ self.alpha
        return self.A * z + _without_diagonal(self.W) @ p + self.C @ x + self.h


class CfCCell(VectorCell):
    """The closed-form continuous-time network: a step for any time difference ``dt``.

    ::

        u  = activation(W x + U h + b)
        g  = W_g u + b_g
        t  = sigmoid((W_a u + b_a) * dt + W_t u + b_t)
        h' = (1 - t) * tanh(g) + t * tanh(W_f u + b_f)                 (default)
        h' = tanh(g) + t * tanh(W_f u + b_f)                           (no_gate)
        h' = A - A * exp(-dt * (|w| + |g|)) * g                        (pure)

    The layer gets the time differences as ``dt=``.

    Args:
        units: number of units of the backbone ``u``, which has one layer.
        mode: ``"default"``, ``"no_gate"`` or ``"pure"``, the solution of the equation itself.
        activation: activation of the backbone; ``1.7159 tanh(0.666 z)`` by default.

    Source: Hasani et al. 2022, arXiv 2106.13898, in the form of the authors' library ncps. The
    paper has no ``W_t u + b_t``. ``ParaCfC`` of pararnn-torch is another cell, without a backbone.
    """

    units: int = size(default=128)
    mode: str = "default"
    activation: Callable[[jax.Array], jax.Array] = _lecun_tanh
    W: jax.Array = matrix("units", "in")
    U: jax.Array = matrix("units", "hidden")
    b: jax.Array = vector("units")
    W_g: jax.Array = matrix("hidden", "units")
    b_g: jax.Array = vector("hidden")
    W_f: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_f: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    W_a: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    W_t: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_t: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    w: jax.Array | None = vector("hidden", when=lambda cell: cell.mode == "pure")
    A: jax.Array | None = vector("hidden", 1.0, when=lambda cell: cell.mode == "pure")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("CfCCell", "mode", self.mode, ("default", "no_gate", "pure"))

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        u = self.activation(self.W @ x + self.U @ h + self.b)
        g = self.W_g @ u + self.b_g
        if self.w is not None and self.A is not None:
            return self.A - self.A * jnp.exp(-dt * (jnp.abs(self.w) + jnp.abs(g))) * g
        a, b = total(times(self.W_a, u), self.b_a), total(times(self.W_t, u), self.b_t)
        t = sigmoid(a * dt + b)
        f = jnp.tanh(total(times(self.W_f, u), self.b_f))
        keep = 1 - t if self.mode == "default" else 1
        return keep * jnp.tanh(g) + t * f
