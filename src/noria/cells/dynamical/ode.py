"""Cells whose state follows a differential equation between inputs, or along them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class _SolverCell(VectorCell):
    """A cell that solves an equation in a fixed number of steps."""

    steps: int = 4
    solver: str = "euler"

    def __check_init__(self) -> None:
        check_choice(self._call, "solver", self.solver, ("euler", "midpoint"))
        if self.steps < 1:
            raise ValueError(f"{self._call}: steps is {self.steps}; expected at least 1.")

    def _solved(
        self, f: Callable[[jax.Array], jax.Array], h: jax.Array, dt: jax.Array
    ) -> jax.Array:
        step = dt / self.steps
        for _ in range(self.steps):
            h = h + step * f(h + step / 2 * f(h) if self.solver == "midpoint" else h)
        return h


class _FieldCell(_SolverCell):
    """A cell with a network of one hidden layer as its equation."""

    units: int = size(default=100)
    F_1: jax.Array = matrix("units", "hidden")
    c_1: jax.Array = vector("units")
    F_2: jax.Array = matrix("hidden", "units")
    c_2: jax.Array = vector("hidden")

    def field(self, h: jax.Array) -> jax.Array:
        """The slope of the state."""
        return self.F_2 @ jnp.tanh(self.F_1 @ h + self.c_1) + self.c_2


class ODERNNCell(_FieldCell):
    """The ODE-RNN: a differential equation between inputs, a gated recurrent unit at them.

    ::

        F(h) = F_2 tanh(F_1 h + c_1) + c_2
        k  = h after a time dt of dh/dt = F(h)
        r  = sigmoid(W_r x + U_r k + b_r)
        z  = sigmoid(W_z x + U_z k + b_z)
        n  = tanh(W_n x + U_n (r * k) + b_n)
        h' = z * k + (1 - z) * n

    The layer gets the time since the last input as ``dt=``.

    Args:
        units: units of the network ``F``.
        steps: number of steps of the solver.
        solver: ``"euler"`` or ``"midpoint"``.

    Source: Rubanova, Chen and Duvenaud 2019, arXiv 1907.03907, algorithm 1, where any solver and
    any recurrent cell will do. A fixed number of steps compiles; adaptive solvers do not.
    """

    W_r: jax.Array = matrix("hidden", "in")
    W_z: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_z: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    b_z: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        h = self._solved(self.field, h, dt)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.b_r)
        z = sigmoid(self.W_z @ x + self.U_z @ h + self.b_z)
        n = jnp.tanh(self.W_n @ x + self.U_n @ (r * h) + self.b_n)
        return z * h + (1 - z) * n


class GRUODECell(_SolverCell):
    """The GRU-ODE: a gated recurrent unit as a differential equation.

    ::

        r  = sigmoid(W_r x + U_r h + b_r)
        z  = sigmoid(W_z x + U_z h + b_z)
        n  = tanh(W_n x + U_n (r * h) + b_n)
        h' = h after a time dt of dh/dt = (1 - z) * (n - h)

    The layer gets the duration of each input as ``dt=``. Each state stays between -1 and 1 if it
    starts there and the steps are short.

    Args:
        steps: number of steps of the solver.
        solver: ``"euler"`` or ``"midpoint"``.

    Source: De Brouwer, Simm, Arany and Moreau 2019, arXiv 1905.12374, eq. 3. The update by Bayes'
    rule at observations is no part of the cell.
    """

    W_r: jax.Array = matrix("hidden", "in")
    W_z: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_z: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    b_z: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        a_r, a_z = self.W_r @ x + self.b_r, self.W_z @ x + self.b_z
        a_n = self.W_n @ x + self.b_n

        def slope(h: jax.Array) -> jax.Array:
            r, z = sigmoid(a_r + self.U_r @ h), sigmoid(a_z + self.U_z @ h)
            return (1 - z) * (jnp.tanh(a_n + self.U_n @ (r * h)) - h)

        return self._solved(slope, h, dt)


class ODELSTMCell(_FieldCell):
    """The ODE-LSTM: a long short-term memory whose output follows a differential equation.

    ::

        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        F(h) = F_2 tanh(F_1 h + c_1) + c_2
        h' = o * tanh(c') after a time dt of dh/dt = F(h)

    The layer gets the time until the next output as ``dt=``. The memory does not follow the
    equation, so that gradients pass through it. ``b_f`` starts at 1.

    Args:
        units: units of the network ``F``.
        steps: number of steps of the solver.
        solver: ``"euler"`` or ``"midpoint"``.

    Source: Lechner and Hasani 2020, arXiv 2006.04418, algorithm 1.
    """

    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_g: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_g: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden", 1)
    b_g: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(  # type: ignore[override]
        self, state: Any, x: jax.Array, *, dt: jax.Array
    ) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = f * c + i * jnp.tanh(self.W_g @ x + self.U_g @ h + self.b_g)
        return self.State(self._solved(self.field, o * jnp.tanh(c), dt), c)


class NeuralCDECell(VectorCell):
    """The neural controlled differential equation, one step of Euler for each input.

    ::

        F(z) = tanh(F_2 relu(F_1 z + c_1) + c_2)     a matrix, hidden x in
        z' = z + F(z) (x - x_before)
        x_before' = x

    The inputs are points of a path of straight lines. Time may be one of their features. The first
    one starts at 0, which takes the place of the network for the first state.

    Args:
        units: units of the network ``F``.

    Source: Kidger, Morrill, Foster and Lyons 2020, arXiv 2005.08926, eq. 3. The paper has a path of
    cubic splines, and adaptive solvers.
    """

    units: int = size(default=128)
    F_1: jax.Array = matrix("units", "hidden")
    c_1: jax.Array = vector("units")
    F_2: jax.Array = matrix("hidden * in", "units")
    c_2: jax.Array = vector("hidden * in")
    z: jax.Array = state("hidden")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        z, x_before = state
        F = jnp.tanh(self.F_2 @ relu(self.F_1 @ z + self.c_1) + self.c_2)
        return self.State(z + F.reshape(len(z), -1) @ (x - x_before), x)
