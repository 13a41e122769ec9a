"""Cells like a GRU whose candidate has an inner step: a reset, a second gate, a projection."""

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softplus

from noria._errors import check_choice
from noria.cells.declare import array, matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total


def _projected(W: jax.Array | None, x: jax.Array) -> jax.Array:
    """``W x``, or ``x`` itself for a matrix that a cell does not have."""
    return x if W is None else W @ x


def _check_projected(cell: VectorCell, project: bool) -> None:
    """Reject an input that goes into the state without a matrix, but has another size."""
    if not project and cell.in_size != cell.hidden_size:
        raise ValueError(
            f"{type(cell).__name__}(in_size={cell.in_size}, hidden_size={cell.hidden_size}, "
            "project=False): expected equal sizes, or project=True."
        )


class MiRUCell(VectorCell):
    """The minion recurrent unit: a GRU with numbers in the place of gates.

    ::

        n  = tanh(W_n x + U_n (r * h) + b_n)
        h' = update * h + (1 - update) * n

        variant 1: r = sigmoid(W_r x + U_r h + b_r)
        variant 2: r = reset

    Args:
        variant: 1 keeps the reset gate, 2 has two numbers and no gate.
        update: how much of the old state a step keeps, the paper's lambda.
        reset: how much of the old state a candidate sees, the paper's beta; for variant 2.

    Source: Zyarah and Kudithipudi 2025, arXiv 2503.06175. RecurrentLayers.jl has tanh in the reset
    gate.
    """

    variant: int = 2
    update: float = 0.5
    reset: float = 0.5
    W_r: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.variant == 1)
    U_r: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant == 1)
    b_r: jax.Array | None = vector("hidden", when=lambda cell: cell.variant == 1)
    W_n: jax.Array = matrix("hidden", "in")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MiRUCell", "variant", self.variant, (1, 2))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        seen = self.reset * h
        if self.variant == 1:
            seen = sigmoid(total(times(self.W_r, x), times(self.U_r, h), self.b_r)) * h
        n = jnp.tanh(self.W_n @ x + self.U_n @ seen + self.b_n)
        return self.update * h + (1 - self.update) * n


class FastGRNNCell(VectorCell):
    """A gated FastRNN: gate and candidate share their matrices, which may be of low rank.

    ::

        p  = W x + U h
        z  = sigmoid(p + b_z)
        n  = tanh(p + b_n)
        h' = (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * n + z * h

    The numbers ``zeta`` and ``nu`` are trained; they start at 1 and -4. The paper's sparse and
    quantised weights are no part of the cell.

    Args:
        w_rank: rank of ``W``, which is then ``W_1 W_2``; 0 for a full matrix.
        u_rank: the same for ``U``.

    Source: Kusupati et al. 2018, arXiv 1901.02358. RecurrentLayers.jl and torchrecurrent have tanh
    in the gate.
    """

    w_rank: int = 0
    u_rank: int = 0
    W: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.w_rank < 1)
    W_1: jax.Array | None = matrix("hidden", "w_rank", when=lambda cell: cell.w_rank > 0)
    W_2: jax.Array | None = matrix("w_rank", "in", when=lambda cell: cell.w_rank > 0)
    U: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.u_rank < 1)
    U_1: jax.Array | None = matrix("hidden", "u_rank", when=lambda cell: cell.u_rank > 0)
    U_2: jax.Array | None = matrix("u_rank", "hidden", when=lambda cell: cell.u_rank > 0)
    b_z: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    zeta: jax.Array = array(initializer=1)
    nu: jax.Array = array(initializer=-4)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        for name in ("w_rank", "u_rank"):
            if (rank := getattr(self, name)) < 0:
                raise ValueError(
                    f"FastGRNNCell({name}={rank}): expected 0 or a rank of at least 1."
                )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        low_x = times(self.W_1, _projected(self.W_2, x))
        low_h = times(self.U_1, _projected(self.U_2, h))
        p = total(times(self.W, x), low_x, times(self.U, h), low_h)
        z = sigmoid(p + self.b_z)
        n = jnp.tanh(p + self.b_n)
        return (sigmoid(self.zeta) * (1 - z) + sigmoid(self.nu)) * n + z * h


class SGUCell(VectorCell):
    """The simple gated unit: a product of input and state gates the state before it is written.

    ::

        g  = tanh(W_g ((W_x x + b_x) * h))
        o  = softplus(g * h)
        z  = hard_sigmoid(W_z x + U_z h + b_z)
        h' = (1 - z) * h + z * o

        deep: o = sigmoid(W_o (g * h))

    ``hard_sigmoid(a)`` is ``0.2 * a + 0.5``, clipped to the range from 0 to 1, as in Theano.

    Args:
        deep: whether the cell is the deep simple gated unit, DSGU.

    Source: Gao and Glowacka 2016, arXiv 1604.02910 and PMLR 63. PyTorch's hard sigmoid, which
    torchrecurrent uses, has a slope of 1/6.
    """

    deep: bool = False
    W_x: jax.Array = matrix("hidden", "in")
    b_x: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "hidden")
    W_o: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.deep)
    W_z: jax.Array = matrix("hidden", "in")
    U_z: jax.Array = matrix("hidden", "hidden")
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        g = jnp.tanh(self.W_g @ ((self.W_x @ x + self.b_x) * h))
        o = softplus(g * h) if self.W_o is None else sigmoid(self.W_o @ (g * h))
        a = self.W_z @ x + self.U_z @ h + self.b_z
        z = jnp.minimum(jnp.maximum(0.2 * a + 0.5, 0), 1)
        return (1 - z) * h + z * o


class MUTCell(VectorCell):
    """Three cells that a search among ten thousand found, MUT1 to MUT3.

    ::

        n  = tanh(U_n (r * h) + a + b_n)
        h' = z * n + (1 - z) * h

        variant 1: z = sigmoid(W_z x + b_z)
                   r = sigmoid(W_r x + U_r h + b_r)
                   a = tanh(x)
        variant 2: z = sigmoid(W_z x + U_z h + b_z)
                   r = sigmoid(x + U_r h + b_r)
                   a = W_n x
        variant 3: z = sigmoid(W_z x + U_z tanh(h) + b_z)
                   r = sigmoid(W_r x + U_r h + b_r)
                   a = W_n x

    Args:
        variant: 1, 2 or 3.
        project: whether ``W_n x`` stands for ``x`` in variant 1, and ``W_r x`` in variant 2.
            ``False`` is the paper, whose input is as large as the state.

    Source: Jozefowicz, Zaremba and Sutskever 2015, PMLR 37, "An empirical exploration of recurrent
    network architectures". The other libraries always project.
    """

    variant: int = 1
    project: bool = True
    W_z: jax.Array = matrix("hidden", "in")
    U_z: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant > 1)
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array | None = matrix(
        "hidden", "in", when=lambda cell: cell.project or cell.variant != 2
    )
    U_r: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    W_n: jax.Array | None = matrix(
        "hidden", "in", when=lambda cell: cell.project or cell.variant > 1
    )
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MUTCell", "variant", self.variant, (1, 2, 3))
        _check_projected(self, self.project or self.variant == 3)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        seen = jnp.tanh(h) if self.variant == 3 else h
        z = sigmoid(total(self.W_z @ x, times(self.U_z, seen), self.b_z))
        r = sigmoid(_projected(self.W_r, x) + self.U_r @ h + self.b_r)
        a = _projected(self.W_n, x)
        a = jnp.tanh(a) if self.variant == 1 else a
        n = jnp.tanh(self.U_n @ (r * h) + a + self.b_n)
        return z * n + (1 - z) * h


class IntersectionRNNCell(VectorCell):
    """The intersection RNN, +RNN: a gate over time for the state, a gate over depth for the output.

    ::

        n   = tanh(W_n x + U_n h + b_n)
        m   = relu(W_m x + U_m h + b_m)
        g   = sigmoid(W_g x + U_g h + b_g)
        d   = sigmoid(W_d x + U_d h + b_d)
        h'  = g * h + (1 - g) * n
        y   = d * x + (1 - d) * m

    The output of a step is ``y``, not the state. The biases ``b_g`` and ``b_d`` start at 1.

    Args:
        project: whether ``P x`` stands for ``x`` everywhere, as in the first layer of the authors'
            stacks. ``False`` needs an input as large as the state.

    Source: Collins, Sohl-Dickstein and Sussillo 2016, arXiv 1611.09913. RecurrentLayers.jl has
    ``1 - g`` instead of ``1 - d`` in the output.
    """

    project: bool = True
    P: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.project)
    W_n: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    W_m: jax.Array = matrix("hidden", "hidden")
    U_m: jax.Array = matrix("hidden", "hidden")
    b_m: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "hidden")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden", 1)
    W_d: jax.Array = matrix("hidden", "hidden")
    U_d: jax.Array = matrix("hidden", "hidden")
    b_d: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        _check_projected(self, self.project)

    def __call__(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = _projected(self.P, x)
        n = jnp.tanh(self.W_n @ x + self.U_n @ h + self.b_n)
        m = relu(self.W_m @ x + self.U_m @ h + self.b_m)
        g = sigmoid(self.W_g @ x + self.U_g @ h + self.b_g)
        d = sigmoid(self.W_d @ x + self.U_d @ h + self.b_d)
        return g * h + (1 - g) * n, d * x + (1 - d) * m
