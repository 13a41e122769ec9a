"""Cells near the GRU: missing values, blocks, delays, products of the two sources, and noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell

#: Glorot's bound for each matrix of a stack.
_each_glorot = jax.nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2, batch_axis=0)


class GRUDCell(VectorCell):
    """The GRU with decays, GRU-D, for inputs with missing values.

    ::

        v, m, d = x                                     values, masks (1: seen), time gaps
        gamma_x = exp(-relu(w_gamma_x * d + b_gamma_x))
        gamma_h = exp(-relu(W_gamma_h d + b_gamma_h))
        x^      = m * v + (1 - m) * (gamma_x * last + (1 - gamma_x) * x_mean)
        h^      = gamma_h * h
        z  = sigmoid(W_z x^ + U_z h^ + V_z m + b_z)
        r  = sigmoid(W_r x^ + U_r h^ + V_r m + b_r)
        n  = tanh(W x^ + U (r * h^) + V m + b)
        h' = (1 - z) * h^ + z * n
        last' = m * v + (1 - m) * last

    ``in`` is three times the number of variables: ``x`` has their values, their masks and the times
    since each was seen, side by side. Where the mask is 0 the value is not used, and may be NaN.
    ``x_mean`` is not trained. It is 0, for standardised data; ``init={"x_mean": ...}`` sets it.
    ``last`` starts at 0. ``w_gamma_x`` starts at 0.1: a negative one would never learn.

    Raises:
        ValueError: if ``in`` is no multiple of 3.

    Source: Che et al. 2016, arXiv 1606.01865. The authors' code feeds ``1 - m`` in the place of
    ``m``, decays a missing value to 0, and mixes ``n`` with ``h``.
    """

    w_gamma_x: jax.Array = vector("in // 3", 0.1)
    b_gamma_x: jax.Array = vector("in // 3")
    W_gamma_h: jax.Array = matrix("hidden", "in // 3")
    b_gamma_h: jax.Array = vector("hidden")
    x_mean: jax.Array = vector("in // 3", trained=False)
    W_z: jax.Array = matrix("hidden", "in // 3")
    U_z: jax.Array = matrix("hidden", "hidden")
    V_z: jax.Array = matrix("hidden", "in // 3")
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in // 3")
    U_r: jax.Array = matrix("hidden", "hidden")
    V_r: jax.Array = matrix("hidden", "in // 3")
    b_r: jax.Array = vector("hidden")
    W: jax.Array = matrix("hidden", "in // 3")
    U: jax.Array = matrix("hidden", "hidden")
    V: jax.Array = matrix("hidden", "in // 3")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    last: jax.Array = state("in // 3")

    def __check_init__(self) -> None:
        if self.in_size % 3:
            raise ValueError(
                f"{self._call}: in_size is {self.in_size}; expected a multiple of 3: values, masks "
                "and time gaps."
            )

    @property
    def variables(self) -> int:
        """The number of variables, a third of ``in``."""
        return self.in_size // 3

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, last = state
        v, m, d = jnp.split(x, 3)
        gamma_x = jnp.exp(-relu(self.w_gamma_x * d + self.b_gamma_x))
        gamma_h = jnp.exp(-relu(self.W_gamma_h @ d + self.b_gamma_h))
        seen = m > 0
        x = jnp.where(seen, v, gamma_x * last + (1 - gamma_x) * self.x_mean)
        h = gamma_h * h
        z = sigmoid(self.W_z @ x + self.U_z @ h + self.V_z @ m + self.b_z)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.V_r @ m + self.b_r)
        n = jnp.tanh(self.W @ x + self.U @ (r * h) + self.V @ m + self.b)
        return self.State((1 - z) * h + z * n, jnp.where(seen, v, last))


class BlockGRUCell(VectorCell):
    """The GRU of DreamerV3: recurrent matrices in blocks, a layer norm, and a slow update.

    ::

        r, c, u = three parts of  LN(W x + U h; alpha, beta)
        n  = tanh(sigmoid(r) * c)
        h' = sigmoid(u - 1) * n + (1 - sigmoid(u - 1)) * h

        LN(a; alpha, beta) = alpha * (a - mean(a)) / sqrt(var(a) + epsilon) + beta

    Each part of ``U h`` has a block-diagonal matrix. The reset multiplies the whole candidate, not
    the state alone. One normalisation runs over all three parts.

    Args:
        blocks: number of blocks; the paper has 8.
        epsilon: added to the variance.

    Raises:
        ValueError: if ``blocks`` does not divide ``hidden``.

    Source: Hafner et al. 2023, arXiv 2301.04104. In the authors' code a hidden layer in blocks
    comes before the gates. It has the norm, and a dense layer of the state mixes the blocks.
    """

    blocks: int = size(default=4)
    epsilon: float = 1e-4
    W: jax.Array = matrix("3 * hidden", "in")
    U: jax.Array = array(
        "3 * blocks", "hidden // blocks", "hidden // blocks", initializer=_each_glorot
    )
    alpha: jax.Array = vector("3 * hidden", 1)
    beta: jax.Array = vector("3 * hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % self.blocks:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected a multiple of blocks."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        each = h.reshape(self.blocks, -1)
        parts = [jnp.einsum("bij,bj->bi", U, each).ravel() for U in jnp.split(self.U, 3)]
        a = self.W @ x + jnp.concatenate(parts)
        centred = a - jnp.mean(a)
        spread = jnp.sqrt(jnp.mean(centred * centred) + self.epsilon)
        r, c, u = jnp.split(self.alpha * centred / spread + self.beta, 3)
        n = jnp.tanh(sigmoid(r) * c)
        u = sigmoid(u - 1)
        return u * n + (1 - u) * h


class TauGRUCell(VectorCell):
    """A GRU with weighted feedback from the state some steps ago.

    ::

        h_d = the state ``delay`` steps before h, 0 before the start
        u  = tanh(U_1 h + W_1 x + b_1)
        z  = tanh(U_2 h_d + W_2 x + b_2)
        g  = sigmoid(U_3 h + W_3 x + b_3)
        a  = sigmoid(U_4 h + W_4 x + b_4)
        h' = (1 - g) * h + g * (u + a * z)

    The second state, ``past``, has the last ``delay`` states before ``h``, the oldest first.

    Args:
        delay: number of steps, the paper's tau divided by the step size.

    Source: Erichson et al. 2022, arXiv 2212.00228, whose letters ``U`` and ``W`` are exchanged
    here. Some code delays the input of ``z`` and ``a`` as well. The layer of torchrecurrent does
    not return ``past``, so two pieces of a sequence differ from the whole.
    """

    delay: int = size(default=10)
    W_1: jax.Array = matrix("hidden", "in")
    U_1: jax.Array = matrix("hidden", "hidden")
    b_1: jax.Array = vector("hidden")
    W_2: jax.Array = matrix("hidden", "in")
    U_2: jax.Array = matrix("hidden", "hidden")
    b_2: jax.Array = vector("hidden")
    W_3: jax.Array = matrix("hidden", "in")
    U_3: jax.Array = matrix("hidden", "hidden")
    b_3: jax.Array = vector("hidden")
    W_4: jax.Array = matrix("hidden", "in")
    U_4: jax.Array = matrix("hidden", "hidden")
    b_4: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    past: jax.Array = state("delay", "hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, past = state
        u = jnp.tanh(self.U_1 @ h + self.W_1 @ x + self.b_1)
        z = jnp.tanh(self.U_2 @ past[0] + self.W_2 @ x + self.b_2)
        g = sigmoid(self.U_3 @ h + self.W_3 @ x + self.b_3)
        a = sigmoid(self.U_4 @ h + self.W_4 @ x + self.b_4)
        past = jnp.concatenate([past[1:], h[None]])
        return self.State((1 - g) * h + g * (u + a * z), past)


class MIRNNCell(VectorCell):
    """The simple recurrent network with multiplicative integration of input and state.

    ::

        h' = tanh(alpha * (W x) * (U h) + beta_1 * (U h) + beta_2 * (W x) + b)

    ``alpha``, ``beta_1`` and ``beta_2`` are vectors; they start at 1. With ``alpha`` of 0 and both
    ``beta`` of 1 it is the usual network.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form. RecurrentLayers.jl has the product
    alone, the paper's simple form.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    alpha: jax.Array = vector("hidden", 1)
    beta_1: jax.Array = vector("hidden", 1)
    beta_2: jax.Array = vector("hidden", 1)
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        w, u = self.W @ x, self.U @ h
        return jnp.tanh(self.alpha * w * u + self.beta_1 * u + self.beta_2 * w + self.b)


class MIGRUCell(VectorCell):
    """The GRU with multiplicative integration of input and state.

    ::

        z  = sigmoid(M(W_z x, U_z h))
        r  = sigmoid(M(W_r x, U_r h))
        n  = tanh(M(W_n x, U_n (r * h)))
        h' = (1 - z) * h + z * n

        M(w, u) = alpha * w * u + beta_1 * u + beta_2 * w + b

    Each ``M`` has its own ``alpha``, ``beta_1``, ``beta_2`` and ``b``: the rows of these matrices,
    in the order z, r, n. They start at 1, and ``b`` at 0.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form. RecurrentLayers.jl has the product
    alone, the paper's simple form.
    """

    W_z: jax.Array = matrix("hidden", "in")
    W_r: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_z: jax.Array = matrix("hidden", "hidden")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    alpha: jax.Array = matrix(3, "hidden", 1)
    beta_1: jax.Array = matrix(3, "hidden", 1)
    beta_2: jax.Array = matrix(3, "hidden", 1)
    b: jax.Array = matrix(3, "hidden", 0)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self._integrated(0, self.W_z @ x, self.U_z @ h))
        r = sigmoid(self._integrated(1, self.W_r @ x, self.U_r @ h))
        n = jnp.tanh(self._integrated(2, self.W_n @ x, self.U_n @ (r * h)))
        return (1 - z) * h + z * n

    def _integrated(self, gate: int, w: jax.Array, u: jax.Array) -> jax.Array:
        alpha, beta_1, beta_2 = self.alpha[gate], self.beta_1[gate], self.beta_2[gate]
        return alpha * w * u + beta_1 * u + beta_2 * w + self.b[gate]


def _over_columns(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n^2) for n columns."""
    return jax.random.normal(key, shape, dtype) / shape[-1]


class NoisyRNNCell(VectorCell):
    """A step of a stochastic differential equation: a Lipschitz RNN whose state has noise.

    ::

        A  = (1 - beta) (M_A + M_A^T) + beta (M_A - M_A^T) - gamma I
        W  = (1 - beta) (M_W + M_W^T) + beta (M_W - M_W^T) - gamma I
        f  = A h + tanh(W h + U x + b)
        h' = h + delta f + sqrt(delta) (sigma_1 + sigma_2 f) * xi,    xi ~ N(0, 1)

    There is noise if the step gets a key, as ``layer(xs, key=key)``, and not in inference mode.
    Without a key ``xi`` is 0.

    Args:
        beta: the weight of the skew-symmetric part, from 0.5 to 1.
        gamma: what is taken from the diagonal of both matrices.
        delta: the size of a step.
        sigma_1: deviation of the additive noise.
        sigma_2: deviation of the multiplicative noise.
        inference: whether a key is ignored. `noria.inference` and `noria.training` set it for a
            whole model.

    Source: Lim et al. 2021, arXiv 2102.04877, discretised by the method of Euler and Maruyama. The
    authors' code trains ``delta``, as a vector, and multiplies ``f`` by uniform noise.
    """

    beta: float = 0.8
    gamma: float = 0.01
    delta: float = 0.01
    sigma_1: float = 0.02
    sigma_2: float = 0.02
    inference: bool = False
    M_A: jax.Array = matrix("hidden", "hidden", _over_columns)
    M_W: jax.Array = matrix("hidden", "hidden", _over_columns)
    U: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        A, W = self._bounded(self.M_A), self._bounded(self.M_W)
        f = A @ h + jnp.tanh(W @ h + self.U @ x + self.b)
        if key is None or self.inference:
            return h + self.delta * f
        xi = jax.random.normal(key, h.shape, h.dtype)
        return h + self.delta * f + self.delta**0.5 * (self.sigma_1 + self.sigma_2 * f) * xi

    def _bounded(self, M: jax.Array) -> jax.Array:
        symmetric, skew_part = M + M.T, M - M.T
        one = jnp.eye(self.hidden_size, dtype=M.dtype)
        return (1 - self.beta) * symmetric + self.beta * skew_part - self.gamma * one
