"""Cells with no or nearly no gates: plain, leaky, residual, multiplicative."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.cells.starts import between
from noria.initializers import identity, lecun_normal, normal


class IRNNCell(VectorCell):
    """An RNN with ReLU whose recurrent matrix starts as the identity.

    ::

        h' = relu(W x + U h + b)

    ``W`` starts with a standard deviation of 0.001. For short memories the paper scales the
    identity: ``init={"U": nr.initializers.identity(0.01)}``.

    Source: Le, Jaitly and Hinton 2015, arXiv 1504.00941.
    """

    W: jax.Array = matrix("hidden", "in", normal(0.001))
    U: jax.Array = matrix("hidden", "hidden", identity())
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.W @ x + self.U @ h + self.b)


class LeakyRNNCell(VectorCell):
    """An RNN whose units keep a part of their old values.

    ::

        h' = (1 - rate) * h + rate * activation(W x + U h + b)

    Args:
        rate: the step divided by the time constant, in (0, 1]; 1 is a plain RNN.
        activation: the function inside the leak.

    Source: Jaeger et al. 2007, doi 10.1016/j.neunet.2007.04.016. reservoirpy calls this equation
    ``"internal"``. Its ``"external"`` one has the activation outside of the leak.
    """

    rate: float = 0.3
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"LeakyRNNCell(rate={self.rate}): expected a number in (0, 1].")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = self.activation(self.W @ x + self.U @ h + self.b)
        return (1 - self.rate) * h + self.rate * n


class IndRNNCell(VectorCell):
    """The independently recurrent network: each unit sees its own old value alone.

    ::

        h' = activation(W x + u * h + b)

    ``u`` starts at U(0, 1). For ``T`` steps the paper keeps ``abs(u)`` below ``2 ** (1 / T)``
    during training; the cell itself does not.

    Args:
        activation: the function of a unit; the paper's experiments have ReLU.

    Source: Li et al. 2018, arXiv 1803.04831. torchrecurrent has tanh and a normal ``u``;
    RecurrentLayers.jl has ReLU, but documents tanh.
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    W: jax.Array = matrix("hidden", "in")
    u: jax.Array = vector("hidden", between(0, 1))
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.activation(self.W @ x + self.u * h + self.b)


class TRNNCell(VectorCell):
    """The strongly typed RNN, T-RNN: gate and content depend on the input alone.

    ::

        z  = W x
        f  = sigmoid(V x + b)
        h' = f * h + (1 - f) * z

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218. RecurrentLayers.jl has tanh in the gate.
    """

    W: jax.Array = matrix("hidden", "in")
    V: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = self.W @ x
        f = sigmoid(self.V @ x + self.b)
        return f * h + (1 - f) * z


class FastRNNCell(VectorCell):
    """An RNN with a weighted residual connection: two numbers are trained in addition.

    ::

        n  = activation(W x + U h + b)
        h' = sigmoid(alpha) * n + sigmoid(beta) * h

    ``alpha`` starts at -3 and ``beta`` at 3, as in the authors' EdgeML.

    Args:
        activation: the function of the candidate.

    Source: Kusupati et al. 2018, arXiv 1901.02358. RecurrentLayers.jl exchanges the two start
    values.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    alpha: jax.Array = array(initializer=-3)
    beta: jax.Array = array(initializer=3)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = self.activation(self.W @ x + self.U @ h + self.b)
        return sigmoid(self.alpha) * n + sigmoid(self.beta) * h


class JordanRNNCell(VectorCell):
    """Jordan's network: the output is fed back, not the hidden layer.

    ::

        n  = sigmoid(W x + U y + b)
        y' = activation(V n + c)

    The output ``y`` is the state, with ``hidden`` features. The hidden layer ``n`` has ``inner``
    features. Jordan's context units have connections to themselves in addition; here they do not.

    Args:
        inner_size: features of the hidden layer.
        activation: the function of the output.

    Source: Jordan 1986, "Serial order: a parallel distributed processing approach", ICS report
    8604, University of California, San Diego.
    """

    inner_size: int = size(default=32)
    activation: Callable[[jax.Array], jax.Array] = sigmoid
    W: jax.Array = matrix("inner", "in")
    U: jax.Array = matrix("inner", "hidden")
    b: jax.Array = vector("inner")
    V: jax.Array = matrix("hidden", "inner")
    c: jax.Array = vector("hidden")
    y: jax.Array = state("hidden")

    def __call__(self, y: jax.Array, x: jax.Array) -> jax.Array:
        n = sigmoid(self.W @ x + self.U @ y + self.b)
        return self.activation(self.V @ n + self.c)


class MRNNCell(VectorCell):
    """The multiplicative RNN: the input chooses the recurrent matrix, in factors.

    ::

        m  = (W_m x) * (U_m h)
        h' = tanh(W_h x + U_h m + b)

    Args:
        factors: features of ``m``; as many as the state has are usual.

    Source: Sutskever, Martens and Hinton 2011, "Generating text with recurrent neural networks",
    ICML. RecurrentLayers.jl has it as a wrapper of other cells.
    """

    factors: int = size(default=32)
    W_m: jax.Array = matrix("factors", "in")
    U_m: jax.Array = matrix("factors", "hidden")
    W_h: jax.Array = matrix("hidden", "in")
    U_h: jax.Array = matrix("hidden", "factors")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        m = (self.W_m @ x) * (self.U_m @ h)
        return jnp.tanh(self.W_h @ x + self.U_h @ m + self.b)


class AntisymmetricRNNCell(VectorCell):
    """Euler steps of a differential equation whose matrix has imaginary eigenvalues.

    ::

        a  = (W - W^T) h - gamma h
        h' = h + epsilon * tanh(a + V x + b)

        gated: h' = h + epsilon * sigmoid(a + V_z x + b_z) * tanh(a + V x + b)

    Args:
        epsilon: the step size.
        gamma: the diffusion, which makes the steps stable.
        gated: whether a gate scales the steps; it shares the matrix.

    Source: Chang et al. 2019, arXiv 1902.09689. RecurrentLayers.jl starts from ``epsilon`` 1 and
    ``gamma`` 0, outside the paper's stable range.
    """

    epsilon: float = 0.01
    gamma: float = 0.01
    gated: bool = False
    W: jax.Array = matrix("hidden", "hidden", lecun_normal())
    V: jax.Array = matrix("hidden", "in", lecun_normal())
    b: jax.Array = vector("hidden")
    V_z: jax.Array | None = matrix("hidden", "in", lecun_normal(), when=lambda cell: cell.gated)
    b_z: jax.Array | None = vector("hidden", when=lambda cell: cell.gated)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = (self.W - self.W.T) @ h - self.gamma * h
        n = jnp.tanh(a + self.V @ x + self.b)
        if self.gated:
            n = sigmoid(total(a, times(self.V_z, x), self.b_z)) * n
        return h + self.epsilon * n


class SCRNCell(VectorCell):
    """The structurally constrained network: a hidden layer and slow context units.

    ::

        s' = (1 - alpha) * B x + alpha * s
        h' = sigmoid(P s' + A x + R h)

    The output is ``h'`` and ``s'`` side by side. A `Dense` layer behind it is the paper's output
    layer ``f(U h' + V s')``.

    Args:
        context_size: features of ``s``.
        alpha: how much of the context a step keeps, in [0, 1).
        adaptive: whether each context unit learns an ``alpha`` of its own instead, the sigmoid of
            ``beta``; it starts at 0.95.

    Source: Mikolov et al. 2014, arXiv 1412.7753. RecurrentLayers.jl starts from ``alpha`` 0,
    torchrecurrent from 0.5. RecurrentLayers.jl feeds the output back, not the hidden layer.
    """

    context_size: int = size(default=10)
    alpha: float = 0.95
    adaptive: bool = False
    B: jax.Array = matrix("context", "in")
    P: jax.Array = matrix("hidden", "context")
    A: jax.Array = matrix("hidden", "in")
    R: jax.Array = matrix("hidden", "hidden")
    beta: jax.Array | None = vector(
        "context", math.log(0.95 / 0.05), when=lambda cell: cell.adaptive
    )
    h: jax.Array = state("hidden")
    s: jax.Array = state("context")

    def __check_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"SCRNCell(alpha={self.alpha}): expected a number in [0, 1).")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, s = state
        alpha = self.alpha if self.beta is None else sigmoid(self.beta)
        s = (1 - alpha) * (self.B @ x) + alpha * s
        h = sigmoid(self.P @ s + self.A @ x + self.R @ h)
        return self.State(h, s)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        return jnp.concatenate(state)
