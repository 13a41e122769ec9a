"""Neural Turing machine, with a feedforward controller and with an LSTM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax, softplus

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.heads import unit
from noria.cells.starts import forget_one


def _at_first_slot(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Weights of heads that are all at the first slot."""
    del key
    return jnp.zeros(shape, dtype).at[:, 0].set(1)


class _MachineCell(VectorCell):
    """A memory of slots with heads that a controller moves."""

    slots: int = size(default=128)
    width: int = size(default=20)
    read_heads: int = size(default=1)
    write_heads: int = size(default=1)
    shift: int = size(default=1)
    W_k: jax.Array = matrix("(read_heads + write_heads) * width", "hidden")
    b_k: jax.Array = vector("(read_heads + write_heads) * width")
    W_beta: jax.Array = matrix("read_heads + write_heads", "hidden")
    b_beta: jax.Array = vector("read_heads + write_heads")
    W_g: jax.Array = matrix("read_heads + write_heads", "hidden")
    b_g: jax.Array = vector("read_heads + write_heads")
    W_s: jax.Array = matrix("(read_heads + write_heads) * (2 * shift + 1)", "hidden")
    b_s: jax.Array = vector("(read_heads + write_heads) * (2 * shift + 1)")
    W_gamma: jax.Array = matrix("read_heads + write_heads", "hidden")
    b_gamma: jax.Array = vector("read_heads + write_heads")
    W_e: jax.Array = matrix("write_heads * width", "hidden")
    b_e: jax.Array = vector("write_heads * width")
    W_a: jax.Array = matrix("write_heads * width", "hidden")
    b_a: jax.Array = vector("write_heads * width")

    def _read(self, M: jax.Array, w: jax.Array) -> jax.Array:
        """What the read heads have before them, one behind the other."""
        return (w[: self.read_heads] @ M).ravel()

    def _moved(self, h: jax.Array, M: jax.Array, w: jax.Array) -> jax.Array:
        """The weights of all heads after their move: content, interpolation, shift, sharpening."""
        k = unit((self.W_k @ h + self.b_k).reshape(-1, self.width))
        beta = softplus(self.W_beta @ h + self.b_beta)[:, None]
        g = sigmoid(self.W_g @ h + self.b_g)[:, None]
        s = softmax((self.W_s @ h + self.b_s).reshape(-1, 2 * self.shift + 1), axis=-1)
        gamma = 1 + softplus(self.W_gamma @ h + self.b_gamma)[:, None]
        content = softmax(beta * (k @ unit(M).T), axis=-1)
        w = g * content + (1 - g) * w
        offsets = range(-self.shift, self.shift + 1)
        rolled = [jnp.roll(w, offset, axis=1) for offset in offsets]
        w = jnp.einsum("hs,shn->hn", s, jnp.stack(rolled)) ** gamma
        return w / w.sum(-1, keepdims=True)

    def _written(self, h: jax.Array, M: jax.Array, w: jax.Array) -> jax.Array:
        """The memory after the write heads have erased and added."""
        w = w[self.read_heads :]
        e = sigmoid(self.W_e @ h + self.b_e).reshape(-1, self.width)
        a = (self.W_a @ h + self.b_a).reshape(-1, self.width)
        for n in range(self.write_heads):
            M = M * (1 - w[n][:, None] * e[n])
        return M + w.T @ a


class NTMCell(_MachineCell):
    """The neural Turing machine with a feedforward controller.

    ::

        r  = w_r M                                            for each read head
        h  = tanh(W x + R r + b)                              the output

        k  = W_k h + b_k                                      for each head, to read or to write:
        w_c[i] = softmax(beta k . M[i] / (|k| |M[i]|))        beta = softplus(W_beta h + b_beta)
        w_g = g w_c + (1 - g) w                               g = sigmoid(W_g h + b_g)
        w_s[i] = sum over j of s[j] w_g[i - j]                s = softmax(W_s h + b_s)
        w'[i] = w_s[i]^gamma / sum of w_s^gamma               gamma = 1 + softplus(W_gamma h + ..)

        M~ = M * (1 - w' e^T)                                 e = sigmoid(W_e h + b_e)
        M' = M~ + w' a^T                                      a = W_a h + b_a

    ``M[i]`` is a slot. ``w`` has a row of weights for each head, the read heads first; ``w'`` in
    the last two lines are those of the write heads. Indices of slots are modulo ``slots``, and j
    goes from ``-shift`` to ``shift``. ``|a|`` is ``sqrt(a . a + 1e-6)``. The memory starts at 0
    and all heads at its first slot.

    Args:
        slots: rows of the memory, the paper's N.
        width: numbers in a slot, the paper's M.
        read_heads: number of heads that read.
        write_heads: number of heads that write. All erase before one of them adds.
        shift: how many slots a head can move in a step, in either direction.

    Source: Graves, Wayne and Danihelka 2014, arXiv 1410.5401, eqs. 2 to 9. The paper leaves the
    functions behind k, a, beta and gamma and the initial state open. What a step reads is the
    memory that the step before has written. Collier and Beel 2018, arXiv 1807.08518, read before
    they write, and join what a step reads to its output.
    """

    W: jax.Array = matrix("hidden", "in")
    R: jax.Array = matrix("hidden", "read_heads * width")
    b: jax.Array = vector("hidden")
    M: jax.Array = state("slots", "width")
    w: jax.Array = state("read_heads + write_heads", "slots", initializer=_at_first_slot)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        M, w = state
        h = jnp.tanh(self.W @ x + self.R @ self._read(M, w) + self.b)
        w = self._moved(h, M, w)
        return self.State(self._written(h, M, w), w), h


class NTMLSTMCell(_MachineCell):
    """The neural Turing machine with a controller that is an LSTM.

    ::

        r  = w_r M                                            for each read head
        i, f, g, o = W x + R r + U h + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')
        M', w' = as in `NTMCell`, for h'

    Args:
        slots: rows of the memory, the paper's N.
        width: numbers in a slot, the paper's M.
        read_heads: number of heads that read.
        write_heads: number of heads that write. All erase before one of them adds.
        shift: how many slots a head can move in a step, in either direction.

    Source: Graves, Wayne and Danihelka 2014, arXiv 1410.5401, section 3.4. ``b`` of f starts at 1,
    as in the code of Collier and Beel 2018, arXiv 1807.08518.
    """

    W: jax.Array = matrix("4 * hidden", "in")
    R: jax.Array = matrix("4 * hidden", "read_heads * width")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    M: jax.Array = state("slots", "width")
    w: jax.Array = state("read_heads + write_heads", "slots", initializer=_at_first_slot)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, M, w = state
        a = self.W @ x + self.R @ self._read(M, w) + self.U @ h + self.b
        i, f, g, o = jnp.split(a, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        w = self._moved(h, M, w)
        return self.State(h, c, self._written(h, M, w), w)
