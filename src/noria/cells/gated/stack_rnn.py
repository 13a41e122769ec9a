"""Stack-augmented recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import matrix, size, state
from noria.cells.declared import VectorCell


class StackRNNCell(VectorCell):
    """A recurrent network with stacks of numbers, which it pushes and pops softly.

    ::

        h' = sigmoid(U x + R h + P top)                 top: the first numbers of each stack s
        for each stack:
            push, pop = softmax(A h')
            s'[0] = push * sigmoid(D h') + pop * s[1]
            s'[i] = push * s[i - 1]      + pop * s[i + 1]

        no_op: push, pop, stay = softmax(A h'),  and  stay * s[i]  is added to  s'[i]

    A stack has a fixed depth. What is pushed out of it is lost, and -1, the number of an empty
    stack, comes in from below.

    Args:
        stacks: number of stacks.
        depth: numbers in each stack.
        top_size: how many numbers of each stack the next state sees.
        no_op: whether a step may leave a stack as it is.
        recurrent: whether there is an ``R``; without it the stacks are the only memory.

    Raises:
        ValueError: if ``top_size`` is larger than ``depth``.

    Source: Joulin and Mikolov 2015, arXiv 1503.01007. In the paper a stack has no limit.
    """

    stacks: int = size(default=10)
    depth: int = size(default=20)
    top_size: int = size(default=2)
    no_op: bool = False
    recurrent: bool = True
    U: jax.Array = matrix("hidden", "in")
    R: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.recurrent)
    P: jax.Array = matrix("hidden", "stacks * top")
    A_push: jax.Array = matrix("stacks", "hidden")
    A_pop: jax.Array = matrix("stacks", "hidden")
    A_stay: jax.Array | None = matrix("stacks", "hidden", when=lambda cell: cell.no_op)
    D: jax.Array = matrix("stacks", "hidden")
    h: jax.Array = state("hidden")
    s: jax.Array = state("stacks", "depth", initializer=-1)

    def __check_init__(self) -> None:
        if self.top_size > self.depth:
            raise ValueError(
                f"{self._call}: top_size is {self.top_size}; expected at most depth={self.depth}."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, s = state
        a = self.U @ x + self.P @ s[:, : self.top_size].ravel()
        h = sigmoid(a if self.R is None else a + self.R @ h)
        scores = [A @ h for A in (self.A_push, self.A_pop, self.A_stay) if A is not None]
        actions = softmax(jnp.stack(scores), axis=0)[:, :, None]
        pushed = jnp.concatenate([sigmoid(self.D @ h)[:, None], s[:, :-1]], axis=1)
        popped = jnp.concatenate([s[:, 1:], jnp.full_like(s[:, :1], -1)], axis=1)
        after = actions[0] * pushed + actions[1] * popped
        return self.State(h, after + actions[2] * s if self.no_op else after)
