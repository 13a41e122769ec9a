"""Flax nnx: time-major, the LSTM with its gates in one product."""

from typing import Any

import jax.tree_util as jtu
from flax import nnx

from noria.bench.grid import Work
from noria.bench.peers import Task, Unsupported
from noria.bench.peers.ours import call

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}


def make(work: Work) -> Task:
    if work.cell not in CELLS or work.mode == "step":
        raise Unsupported("no such layer")
    cell = CELLS[work.cell](work.shape.inputs, work.shape.hidden, rngs=nnx.Rngs(0))
    layer = nnx.RNN(cell, time_major=True, return_carry=True)
    structure, parameters, rest = nnx.split(layer, nnx.Param, ...)
    start = cell.initialize_carry(
        (work.shape.batch, work.shape.inputs), nnx.Rngs(0)
    )  # zeros; it may not draw when compiled

    def run(parameters: Any, xs: Any) -> Any:
        state, ys = nnx.merge(structure, parameters, rest)(xs, initial_carry=start)
        return ys, state

    weights = sum(leaf.size for leaf in jtu.tree_leaves(parameters) if leaf.ndim == 2)
    return Task(call(work, run, parameters), weights)
