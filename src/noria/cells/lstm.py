"""The long short-term memory."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from noria._types import Initializer, Key
from noria.cells.base import GatedCell


class LSTMState(NamedTuple):
    """State of an LSTM: a pair whose first array is the output.

    Attributes:
        h: ``(hidden,)`` or ``(batch, hidden)``, the output.
        c: ``(hidden,)`` or ``(batch, hidden)``, the memory, of the same dtype.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> h, c = nr.LSTMState(jnp.zeros(3), jnp.ones(3))
        >>> float(c.sum())
        3.0
    """

    h: jax.Array
    c: jax.Array


class LSTMCell(GatedCell):
    """The long short-term memory with a forget gate.

    ::

        i, f, g, o = blocks of  W x + b + U h + b_h
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``h`` and of ``c``.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the stacked matrix by default.
        recurrent_init: initialiser of each block of ``U``; Glorot-uniform of the stacked matrix by
            default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        forget_bias: added to the forget block of ``b`` at construction, and never again. Gers et
            al. 2000 and Jozefowicz et al. 2015 recommend 1; Keras has 1, Flux and PyTorch have 0.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(4 * hidden, in)``, the input weights.
        U: ``(4 * hidden, hidden)``, the recurrent weights.
        b: ``(4 * hidden,)``, the bias, or ``None``.
        b_h: ``(4 * hidden,)``, the bias of the recurrent side, or ``None``.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``; the state is ``LSTMState(h, c)``, each ``(hidden,)``
        or ``(batch, hidden)``. The result is the next state, and its ``h`` is the output. All have
        the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, a step or state of the wrong size, or a forget bias without a
            bias.
        TypeError: for a missing key, a state that is not a pair, or a step or state of another
            dtype.

    Source: Hochreiter and Schmidhuber 1997; forget gate by Gers, Schmidhuber and Cummins 2000. The
    block order is ``i f g o``, as in Flux, PyTorch and Keras, which calls them i, f, c, o. ONNX has
    i, o, f, c.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.LSTMCell(2, 3, key=jax.random.key(0), forget_bias=1.0)
        >>> state = cell(cell.initial_state(), jnp.ones(2))
        >>> state.h.shape, state.c.shape
        ((3,), (3,))
    """

    GATES: ClassVar = ("i", "f", "g", "o")

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        init: Initializer | None = None,
        recurrent_init: Initializer | None = None,
        bias: bool | Initializer = True,
        recurrent_bias: bool | Initializer = False,
        forget_bias: float = 0.0,
        dtype: Any = None,
    ):
        super().__init__(
            in_size,
            hidden_size,
            key=key,
            init=init,
            recurrent_init=recurrent_init,
            bias=bias,
            recurrent_bias=recurrent_bias,
            dtype=dtype,
        )
        if forget_bias:
            if self.b is None:
                raise ValueError(
                    f"LSTMCell: forget_bias={forget_bias} needs a bias to be added to; "
                    "drop bias=False."
                )
            self.b = self.b.at[hidden_size : 2 * hidden_size].add(forget_bias)

    def __call__(self, state: LSTMState, x: jax.Array) -> LSTMState:
        """The next state.

        Args:
            state: ``LSTMState(h, c)``, each ``(hidden,)`` or ``(batch, hidden)``.
            x: ``(in,)`` or ``(batch, in)``, the input of the step.

        Returns:
            The state after the step, ``LSTMState(h, c)``.

        Raises:
            ValueError: if a size does not fit.
            TypeError: if the state is not a pair, or a dtype does not fit.
        """
        if not isinstance(state, tuple) or len(state) != 2:
            raise TypeError(
                f"LSTMCell: the state is a {type(state).__name__}; "
                "expected LSTMState(h, c), state first: cell(state, x). "
                "cell.initial_state() is the zero state."
            )
        h, c = state
        if jnp.shape(c) != jnp.shape(h) or jnp.result_type(c) != jnp.result_type(h):
            raise ValueError(
                f"LSTMCell: c is {jnp.result_type(c)}{list(jnp.shape(c))}, "
                f"h {jnp.result_type(h)}{list(jnp.shape(h))}; expected two arrays alike, "
                "LSTMState(h, c)."
            )
        wx, uh = self._projections(h, x)
        i, f, g, o = jnp.split(wx + uh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMState(h, c)

    def initial_state(self) -> LSTMState:
        """The zero state of one example.

        Returns:
            ``LSTMState(h, c)`` of ``(hidden,)`` zeros.
        """
        return LSTMState(self._zeros(), self._zeros())
