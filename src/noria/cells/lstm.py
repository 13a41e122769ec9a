"""The long short-term memory."""

from collections.abc import Mapping
from dataclasses import InitVar
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from noria._errors import check_sizes
from noria._types import Initializer
from noria.cells.declare import matrix, state, vector
from noria.cells.stacked import Activation, GatedCell, clipped, stacked_glorot
from noria.initializers import uniform


class LSTMState(NamedTuple):
    """State of an LSTM: a pair whose first array is the output.

    Attributes:
        h: ``(hidden,)`` or ``(batch, hidden)``, the output.
        c: ``(hidden,)`` or ``(batch, hidden)``, the memory, of the same dtype.

    With a projection ``h`` has ``proj_size`` features.

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

    Options add one term each. ``s`` is ``gate_activation``::

        activation, output_activation    c' = s(f) * c + s(i) * activation(g)
                                         h' = s(o) * output_activation(c')
        peepholes                        s(i + p_i * c), s(f + p_f * c), s(o + p_o * c')
        coupled_gates                    c' = (1 - s(i)) * c + s(i) * activation(g)
        proj_size                        h' = W_r (s(o) * output_activation(c'))
        clip                             i, f, g, o between -clip and clip, after all additions

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``c``, and of ``h`` without a projection.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the stacked matrix by default.
        recurrent_init: initialiser of each block of ``U``; Glorot-uniform of the stacked matrix by
            default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        forget_bias: added to the forget block of ``b`` at construction, and never again. Gers et
            al. 2000 and Jozefowicz et al. 2015 recommend 1; Keras has 1, Flux and PyTorch have 0.
        peepholes: ``True`` for U(-0.1, 0.1), ``False`` for none, or an initialiser of the whole
            vector ``p``.
        activation: function of ``g``, and of ``c'``; ``jnp.tanh`` by default.
        gate_activation: function of the gates; `jax.nn.sigmoid` by default.
        output_activation: function of ``c'``, if it is another than ``activation``.
        coupled_gates: whether the forget gate is one minus the input gate. Then there is no block
            ``f``, and the blocks are ``i g o``.
        proj_size: features of ``h``, if it is projected.
        clip: bound of what the activations of ``i f g o`` get; ``c'`` has none.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(4 * hidden, in)``, the input weights.
        U: ``(4 * hidden, hidden)``, the recurrent weights; ``(4 * hidden, proj)`` with a
            projection.
        b: ``(4 * hidden,)``, the bias, or ``None``.
        b_h: ``(4 * hidden,)``, the bias of the recurrent side, or ``None``.
        p: ``(3 * hidden,)``, the peepholes in the order ``i f o``, or ``None``.
        W_r: ``(proj, hidden)``, the projection, or ``None``.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``; the state is ``LSTMState(h, c)``, each ``(hidden,)``
        or ``(batch, hidden)``. The result is the next state, and its ``h`` is the output. All have
        the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, a step or state of the wrong size, or a forget bias without a
            bias or a forget gate.
        TypeError: for a missing key, a state that is not a pair, or a step or state of another
            dtype.

    Source: Hochreiter and Schmidhuber 1997; forget gate by Gers, Schmidhuber and Cummins 2000;
    peepholes by Gers, Schraudolph and Schmidhuber 2002; projection by Sak, Senior and Beaufays
    2014; coupled gates in Greff et al. 2015; clipping and the three functions as in ONNX. The block
    order is ``i f g o``, as in Flux, PyTorch and Keras, which calls them i, f, c, o. ONNX has i, o,
    f, c, and peepholes i, o, f.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.LSTMCell(2, 3, key=jax.random.key(0), forget_bias=1.0)
        >>> state = cell(cell.initial_state(), jnp.ones(2))
        >>> state.h.shape, state.c.shape
        ((3,), (3,))
    """

    forget_bias: InitVar[float] = 0.0
    peepholes: InitVar[bool | Initializer] = False

    U: jax.Array = matrix(
        "blocks * hidden", "out", stacked_glorot, argument="recurrent_init", blocks="blocks"
    )
    p: jax.Array | None = vector("(blocks - 1) * hidden", uniform(0.1), argument="peepholes")
    W_r: jax.Array | None = matrix("proj", "hidden", when=lambda cell: cell.proj_size is not None)
    h: jax.Array = state("out")
    c: jax.Array = state("hidden")
    activation: Activation = jnp.tanh
    gate_activation: Activation = jax.nn.sigmoid
    output_activation: Activation | None = None
    coupled_gates: bool = False
    proj_size: int | None = None

    GATES: ClassVar = ("i", "f", "g", "o")
    State: ClassVar[Any] = LSTMState

    def __check_init__(self) -> None:
        if self.proj_size is not None:
            check_sizes(self._call, proj_size=self.proj_size)

    def _adjust(self, given: Mapping[str, Any]) -> None:
        if not (forget_bias := given["forget_bias"]):
            return
        if self.b is None or self.coupled_gates:
            what, drop = (
                ("a forget gate", "coupled_gates=True")
                if self.coupled_gates
                else ("a bias", "bias=False")
            )
            raise ValueError(
                f"LSTMCell: forget_bias={forget_bias} needs {what} to be added to; drop {drop}."
            )
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        self.b = self.b.at[forget].add(forget_bias)

    @property
    def blocks(self) -> int:
        return len(self.GATES) - self.coupled_gates

    @property
    def out_size(self) -> int:
        return self.hidden_size if self.proj_size is None else self.proj_size

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
        h, c = state
        wx, uh = self._projections(h, x)
        i, *forget, g, o = jnp.split(wx + uh, self.blocks, axis=-1)
        p_i, *p_f, p_o = self._peepholes()
        i = self._gate(i, p_i, c)
        f = 1 - i if self.coupled_gates else self._gate(forget[0], p_f[0], c)
        c = f * c + i * self.activation(clipped(self.clip, g))
        o = self._gate(o, p_o, c)
        h = o * (self.output_activation or self.activation)(c)
        return LSTMState(h if self.W_r is None else h @ self.W_r.T, c)

    def _peepholes(self) -> list[Any]:
        """The blocks of ``p``, or as often ``None``."""
        count = self.blocks - 1
        return [None] * count if self.p is None else jnp.split(self.p, count)

    def _gate(self, a: jax.Array, p: jax.Array | None, c: jax.Array) -> jax.Array:
        return self.gate_activation(clipped(self.clip, a if p is None else a + p * c))

    def _check(self, state: Any, x: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 2:
            raise TypeError(
                f"LSTMCell: the state is a {type(state).__name__}; "
                "expected LSTMState(h, c), state first: cell(state, x). "
                "cell.initial_state() is the zero state."
            )
        h, c = state
        expected = (*jnp.shape(h)[:-1], self.hidden_size) if self.proj_size else jnp.shape(h)
        if jnp.shape(c) != expected or jnp.result_type(c) != jnp.result_type(h):
            alike = (
                f"h of {self.proj_size} features and c of {self.hidden_size}"
                if self.proj_size
                else "two arrays alike"
            )
            raise ValueError(
                f"LSTMCell: c is {jnp.result_type(c)}{list(jnp.shape(c))}, "
                f"h {jnp.result_type(h)}{list(jnp.shape(h))}; expected {alike}, "
                "LSTMState(h, c)."
            )
        super()._check(h, x)
