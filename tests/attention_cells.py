"""A cell that attends to a memory of each example, which is its context."""

import jax
import jax.numpy as jnp

import noria as nr


class DotAttention(nr.Cell):
    """The state after attention to a memory, which is the context."""

    K: jax.Array
    U: jax.Array

    def __call__(self, h, x, *, context):  # type: ignore[override]
        weights = jax.nn.softmax((context @ self.K) @ h)
        return jnp.tanh(weights @ context + self.U @ h + x)

    def output(self, h, x, *, context):  # type: ignore[override]
        return h

    def initial_state(self):
        return jnp.zeros(len(self.K), self.K.dtype)
