"""Cells with the rare attributes of ONNX's LSTM and GRU; without these, Noria's own cells serve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria.cells.base import Cell, add_bias
from noria.cells.lstm import LSTMState
from noria.interop.onnx.activations import Activation


class _OnnxCell(Cell):
    W: jax.Array
    U: jax.Array
    b: jax.Array | None
    b_h: jax.Array | None

    @property
    def in_size(self) -> int:
        """Features of the input of a step."""
        return self.W.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Features of the state."""
        return self.U.shape[-1]

    @property
    def dtype(self) -> Any:
        """Dtype of the parameters."""
        return self.U.dtype

    def _zeros(self) -> jax.Array:
        return jnp.zeros(self.hidden_size, self.dtype)


class OnnxLSTMCell(_OnnxCell):
    """An LSTM with any activations, peepholes, and coupled gates.

    ::

        i  = gate(W_i x + b_i + U_i h + b_hi + p_i * c)
        f  = gate(W_f x + b_f + U_f h + b_hf + p_f * c),    or 1 - i if coupled
        c' = f * c + i * candidate(W_g x + b_g + U_g h + b_hg)
        o  = gate(W_o x + b_o + U_o h + b_ho + p_o * c')
        h' = o * activation(c')

    Args:
        W: ``(4 * hidden, in)``, in the order i f g o.
        U: ``(4 * hidden, hidden)``.
        b: ``(4 * hidden,)``, or ``None``.
        b_h: ``(4 * hidden,)``, or ``None``.
        p: ``(3 * hidden,)``, the peepholes in the order i f o, or ``None``.
        gate: the function of the gates.
        candidate: the function of the new content.
        activation: the function of the memory.
        coupled: whether the forget gate is ``1 - i``.

    Source: the operator LSTM of ONNX, versions 7 to 22.
    """

    p: jax.Array | None
    gate: Activation
    candidate: Activation
    activation: Activation
    coupled: bool = eqx.field(static=True, default=False)

    def __call__(self, state: LSTMState, x: jax.Array) -> LSTMState:
        h, c = state
        gates = add_bias(self.W @ x, self.b) + add_bias(self.U @ h, self.b_h)
        i, f, g, o = jnp.split(gates, 4)
        p_i, p_f, p_o = (None,) * 3 if self.p is None else jnp.split(self.p, 3)
        i = self.gate(_seen(i, p_i, c))
        f = 1 - i if self.coupled else self.gate(_seen(f, p_f, c))
        c = f * c + i * self.candidate(g)
        return LSTMState(self.gate(_seen(o, p_o, c)) * self.activation(c), c)

    def initial_state(self) -> LSTMState:
        return LSTMState(self._zeros(), self._zeros())


def _seen(gate: jax.Array, p: jax.Array | None, c: jax.Array) -> jax.Array:
    return gate if p is None else gate + p * c


class OnnxGRUCell(_OnnxCell):
    """A GRU with any activations.

    ::

        r  = gate(W_r x + b_r + U_r h + b_hr)
        z  = gate(W_z x + b_z + U_z h + b_hz)
        n  = candidate(W_n x + b_n + r * (U_n h + b_hn)),   reset after the product
             candidate(W_n x + b_n + U_n (r * h) + b_hn),   or before
        h' = (1 - z) * n + z * h

    Args:
        W: ``(3 * hidden, in)``, in the order r z n.
        U: ``(3 * hidden, hidden)``.
        b: ``(3 * hidden,)``, or ``None``.
        b_h: ``(3 * hidden,)``, or ``None``.
        gate: the function of the gates.
        candidate: the function of the new content.
        reset_after: whether the reset gate is applied after the product.

    Source: the operator GRU of ONNX, versions 7 to 22.
    """

    gate: Activation
    candidate: Activation
    reset_after: bool = eqx.field(static=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        H = self.hidden_size
        w = add_bias(self.W @ x, self.b)
        u = add_bias(self.U[: 2 * H] @ h, None if self.b_h is None else self.b_h[: 2 * H])
        r, z = jnp.split(self.gate(w[: 2 * H] + u), 2)
        U_n, b_n = self.U[2 * H :], None if self.b_h is None else self.b_h[2 * H :]
        if self.reset_after:
            n = self.candidate(w[2 * H :] + r * add_bias(U_n @ h, b_n))
        else:
            n = self.candidate(w[2 * H :] + add_bias(U_n @ (r * h), b_n))
        return (1 - z) * n + z * h

    def initial_state(self) -> jax.Array:
        return self._zeros()
