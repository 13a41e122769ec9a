"""The long short-term memory of 1997, peepholes, projections, ablations and other gates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.initializers import normal, ones, uniform


def _squash_input(a: jax.Array) -> jax.Array:
    """The logistic function between -2 and 2."""
    return 4 * sigmoid(a) - 2


def _squash_output(a: jax.Array) -> jax.Array:
    """The logistic function between -1 and 1."""
    return 2 * sigmoid(a) - 1


class LSTM1997Cell(VectorCell):
    """The first long short-term memory, which cannot forget.

    ::

        i  = sigmoid(W_i x + U_i h + b_i)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = c + i * g(W_c x + U_c h + b_c)        g(a) = 4 sigmoid(a) - 2
        h' = o * k(c')                             k(a) = 2 sigmoid(a) - 1

    Args:
        squash_input: the function ``g``; ``jnp.tanh`` in most libraries.
        squash_output: the function ``k``; ``jnp.tanh`` in most libraries.

    Source: Hochreiter and Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735. The paper writes ``y``
    for ``h``, ``s`` for ``c`` and ``h`` for ``k``. Its experiments start from negative biases of
    the gates, such as ``init={"b_o": -1.0}``. RecurrentLayers.jl and torchrecurrent take tanh for
    both functions; torchrecurrent added ``i`` and ``g`` until 2025.
    """

    squash_input: Callable[[jax.Array], jax.Array] = _squash_input
    squash_output: Callable[[jax.Array], jax.Array] = _squash_output
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = c + i * self.squash_input(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * self.squash_output(c), c)


class PeepholeLSTMCell(VectorCell):
    """The long short-term memory whose gates see the memory.

    ::

        i  = sigmoid(W_i x + U_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f h + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c h + b_c)
        o  = sigmoid(W_o x + U_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    Source: Gers, Schraudolph and Schmidhuber 2002, JMLR 3:115; with both tanh as in Graves 2013,
    arXiv 1308.0850, eqs. 7 to 11. The output gate sees the new memory. LuxRecurrentLayers.jl and
    old versions of RecurrentLayers.jl give it the old one.
    """

    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    p_i: jax.Array = vector("hidden", uniform(0.1))
    p_f: jax.Array = vector("hidden", uniform(0.1))
    p_o: jax.Array = vector("hidden", uniform(0.1))
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.p_i * c + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.p_f * c + self.b_f)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.p_o * c + self.b_o)
        return self.State(o * jnp.tanh(c), c)


class ProjectedLSTMCell(VectorCell):
    """The long short-term memory with a projection of its output (LSTMP).

    ::

        i  = sigmoid(W_i x + U_i r + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f r + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c r + b_c)
        o  = sigmoid(W_o x + U_o r + p_o * c' + b_o)
        r' = W_r (o * tanh(c'))

    Args:
        projection_size: features of the output ``r``; ``hidden_size`` are those of ``c``. The paper
            has 512 for 2048.
        peepholes: whether the gates see the memory; PyTorch's ``proj_size`` has none.

    Source: Sak, Senior and Beaufays 2014, arXiv 1402.1128. The second projection of the paper,
    which does not recur, is left out.
    """

    projection_size: int = size(default=32)
    peepholes: bool = True
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "projection")
    U_f: jax.Array = matrix("hidden", "projection")
    U_c: jax.Array = matrix("hidden", "projection")
    U_o: jax.Array = matrix("hidden", "projection")
    p_i: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    p_f: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    p_o: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("projection", "hidden")
    r: jax.Array = state("projection")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        r, c = state
        i = sigmoid(total(self.W_i @ x, self.U_i @ r, _scaled(self.p_i, c), self.b_i))
        f = sigmoid(total(self.W_f @ x, self.U_f @ r, _scaled(self.p_f, c), self.b_f))
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ r + self.b_c)
        o = sigmoid(total(self.W_o @ x, self.U_o @ r, _scaled(self.p_o, c), self.b_o))
        return self.State(self.W_r @ (o * jnp.tanh(c)), c)


def _scaled(p: jax.Array | None, c: jax.Array) -> jax.Array | None:
    """``p * c``, or ``None`` for peepholes that a cell does not have."""
    return None if p is None else p * c


#: The variants of Greff et al.
_VARIANTS = ("none", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "np", "fgr")


def _unless(*variants: str) -> Callable[[Any], bool]:
    """Whether a cell has a parameter that some variants lack."""
    return lambda cell: cell.variant not in variants


class LSTMVariantCell(VectorCell):
    """The peephole long short-term memory with one part changed, to study what the part does.

    ::

        z  = tanh(W_z x + R_z y + b_z)
        i  = sigmoid(W_i x + R_i y + p_i * c + b_i)
        f  = sigmoid(W_f x + R_f y + p_f * c + b_f)
        c' = f * c + i * z
        o  = sigmoid(W_o x + R_o y + p_o * c' + b_o)
        y' = o * tanh(c')

    Args:
        variant: ``"none"`` for the equations above. No input, forget or output gate (``i``, ``f``
            or ``o`` is 1): ``"nig"``, ``"nfg"`` or ``"nog"``. No tanh in ``z`` or in ``y'``:
            ``"niaf"`` or ``"noaf"``. Coupled gates, ``f = 1 - i``: ``"cifg"``. No peepholes:
            ``"np"``. All gates see all gates of the step before, ``R_g (i, f, o)``: ``"fgr"``.

    Source: Greff et al. 2015, arXiv 1503.04069, sections 2 and 3. The array ``g`` of the state
    holds the gates ``i``, ``f``, ``o`` of the step before for ``"fgr"``; else it stays zero.
    """

    variant: str = "none"
    W_z: jax.Array = matrix("hidden", "in")
    W_i: jax.Array | None = matrix("hidden", "in", when=_unless("nig"))
    W_f: jax.Array | None = matrix("hidden", "in", when=_unless("nfg", "cifg"))
    W_o: jax.Array | None = matrix("hidden", "in", when=_unless("nog"))
    R_z: jax.Array = matrix("hidden", "hidden")
    R_i: jax.Array | None = matrix("hidden", "hidden", when=_unless("nig"))
    R_f: jax.Array | None = matrix("hidden", "hidden", when=_unless("nfg", "cifg"))
    R_o: jax.Array | None = matrix("hidden", "hidden", when=_unless("nog"))
    p_i: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nig", "np"))
    p_f: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nfg", "cifg", "np"))
    p_o: jax.Array | None = vector("hidden", normal(0.1), when=_unless("nog", "np"))
    b_z: jax.Array = vector("hidden")
    b_i: jax.Array | None = vector("hidden", when=_unless("nig"))
    b_f: jax.Array | None = vector("hidden", when=_unless("nfg", "cifg"))
    b_o: jax.Array | None = vector("hidden", when=_unless("nog"))
    R_g: jax.Array | None = matrix(
        "3 * hidden", "3 * hidden", when=lambda cell: cell.variant == "fgr"
    )
    y: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    g: jax.Array = state("3 * hidden")

    def __check_init__(self) -> None:
        check_choice("LSTMVariantCell", "variant", self.variant, _VARIANTS)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        (y, c, g), variant = state, self.variant
        fed = times(self.R_g, g)
        g_i, g_f, g_o = (None, None, None) if fed is None else jnp.split(fed, 3)

        def gate(name: str, c: jax.Array, seen: jax.Array | None) -> Any:
            W, R, p, b = (getattr(self, f"{kind}_{name}") for kind in "WRpb")
            if W is None:
                return 1.0
            return sigmoid(total(W @ x, R @ y, _scaled(p, c), b, seen))

        z = self.W_z @ x + self.R_z @ y + self.b_z
        z = z if variant == "niaf" else jnp.tanh(z)
        i = gate("i", c, g_i)
        f = 1 - i if variant == "cifg" else gate("f", c, g_f)
        c = f * c + i * z
        o = gate("o", c, g_o)
        y = o * (c if variant == "noaf" else jnp.tanh(c))
        return self.State(y, c, jnp.concatenate([i, f, o]) if variant == "fgr" else g)


class LayerNormLSTMCell(VectorCell):
    """The long short-term memory with normalised sums and a normalised memory.

    ::

        f, i, o, g = four parts of  LN(W x; alpha_x, beta_x) + LN(U h; alpha_h, beta_h) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'; alpha_c, beta_c))

        LN(a; alpha, beta) = alpha * (a - mean(a)) / sqrt(var(a) + epsilon) + beta

    Args:
        epsilon: added to the variances.

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450. One normalisation runs over all four parts
    together, as in TensorFlow Addons. Other libraries normalise each part, or the sum of both
    products.
    """

    epsilon: float = 1e-5
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden")
    alpha_x: jax.Array = vector("4 * hidden", ones)
    alpha_h: jax.Array = vector("4 * hidden", ones)
    alpha_c: jax.Array = vector("hidden", ones)
    beta_x: jax.Array = vector("4 * hidden")
    beta_h: jax.Array = vector("4 * hidden")
    beta_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def _norm(self, a: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
        centred = a - jnp.mean(a)
        return alpha * centred / jnp.sqrt(jnp.mean(centred**2) + self.epsilon) + beta

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        wx = self._norm(self.W @ x, self.alpha_x, self.beta_x)
        uh = self._norm(self.U @ h, self.alpha_h, self.beta_h)
        f, i, o, g = jnp.split(wx + uh + self.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(self._norm(c, self.alpha_c, self.beta_c)), c)


def _uniform_gates(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases whose gates are U(1 / hidden, 1 - 1 / hidden)."""
    low = 1 / max(shape[0], 2)
    return jax.scipy.special.logit(jax.random.uniform(key, shape, dtype, low, 1 - low))


class URLSTMCell(VectorCell):
    """The long short-term memory with a uniform and refined forget gate.

    ::

        f  = sigmoid(W_f x + U_f h + b_f)
        r  = sigmoid(W_r x + U_r h - b_f)
        g  = 2 r * f + (1 - 2 r) * f^2
        u  = tanh(W_u x + U_u h + b_u)
        c' = g * c + (1 - g) * u
        o  = sigmoid(W_o x + U_o h + b_o)
        h' = o * tanh(c')

    At the start ``sigmoid(b_f)`` is uniform between ``1 / hidden`` and ``1 - 1 / hidden``.

    Source: Gu et al. 2019, arXiv 1910.09890. Both gates share the bias ``b_f``. Some ports add
    biases of their own to ``f`` and ``r``.
    """

    W_f: jax.Array = matrix("hidden", "in")
    W_r: jax.Array = matrix("hidden", "in")
    W_u: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_u: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden", _uniform_gates)
    b_u: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        r = sigmoid(self.W_r @ x + self.U_r @ h - self.b_f)
        g = 2 * r * f + (1 - 2 * r) * f**2
        u = jnp.tanh(self.W_u @ x + self.U_u @ h + self.b_u)
        c = g * c + (1 - g) * u
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        return self.State(o * jnp.tanh(c), c)
