"""Wrong calls, each with its message: the call, what came, what was expected, what to do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import noria as nr

KEY = jax.random.key(0)
F32 = {"dtype": jnp.float32}


def gru():
    return nr.GRU(3, 4, key=KEY)


def lstm_cell():
    return nr.LSTMCell(3, 4, key=KEY)


def chain():
    return nr.Chain(gru(), nr.Dropout(0.1), nr.Dense(4, 1, key=KEY))


XS = jnp.ones((2, 5, 3))

WRONG_CALLS = {
    # making
    "no key": (
        lambda: nr.GRUCell(3, 4, key=None),
        TypeError,
        r"GRUCell\(in_size=3, hidden_size=4\): key is None; expected",
    ),
    "a seed": (
        lambda: nr.Dense(3, 4, key=0),
        TypeError,
        r"key is a int; expected one JAX random key, such as key=jax.random",
    ),
    "no size": (
        lambda: nr.RNN(0, 4, key=KEY),
        ValueError,
        r"in_size is 0; expected a whole number of at least 1",
    ),
    "half a size": (
        lambda: nr.LSTM(3, 4.5, key=KEY),
        ValueError,
        r"hidden_size is 4.5; expected a whole number",
    ),
    "an integer dtype": (
        lambda: nr.GRU(3, 4, key=KEY, dtype=jnp.int32),
        TypeError,
        r"dtype is int32; expected a floating",
    ),
    "unknown option": (
        lambda: nr.GRU(3, 4, key=KEY, layers=2),
        TypeError,
        r"unexpected keyword argument 'layers'",
    ),
    "forget bias without bias": (
        lambda: nr.LSTMCell(3, 4, key=KEY, bias=False, forget_bias=1.0),
        ValueError,
        r"forget_bias=1.0 needs a bias to be added to; drop bias=False",
    ),
    "arrays that do not fit": (
        lambda: nr.GRUCell.from_arrays(jnp.ones((12, 3)), jnp.ones((12, 5))),
        ValueError,
        r"GRUCell.from_arrays: U has shape \(12, 5\); expected \(3 \* hidden, hidden\)",
    ),
    "bias that does not fit": (
        lambda: nr.GRUCell.from_arrays(jnp.ones((12, 3)), jnp.ones((12, 4)), jnp.ones(4)),
        ValueError,
        r"b has shape \(4,\); expected \(12,\) to go with U",
    ),
    "arrays of two dtypes": (
        lambda: nr.RNNCell.from_arrays(jnp.ones((4, 3), jnp.float32), jnp.ones((4, 4))),
        TypeError,
        r"W is float32; expected float64 as U is",
    ),
    "a cell class": (
        lambda: nr.Recurrence(nr.GRUCell),
        TypeError,
        r"cell is the class GRUCell; expected an instance",
    ),
    "a layer as a cell": (
        lambda: nr.Recurrence(gru()),
        TypeError,
        r"cell is already a layer, GRU\(in_size=3\)",
    ),
    "an Equinox cell": (
        lambda: nr.Recurrence(eqx.nn.GRUCell(3, 4, key=KEY)),
        TypeError,
        r"equinox.nn.GRUCell takes \(x, state\); expected \(state, x\). Use noria.GRUCell",
    ),
    "a function without a state": (
        lambda: nr.Recurrence(lambda h, x: h),
        ValueError,
        r"a plain function has no initial state; pass initial_state=",
    ),
    "a batch of initial states": (
        lambda: nr.GRU(3, 4, key=KEY, initial_state=jnp.zeros((2, 4))),
        ValueError,
        r"initial_state is float64\[2, 4\]; expected float64\[4\], the state of one example",
    ),
    "a memory unlike the output": (
        lambda: lstm_cell()((jnp.zeros(4), jnp.zeros(1)), jnp.ones(3)),
        ValueError,
        r"LSTMCell: c is float64\[1\], h float64\[4\]; expected two arrays alike",
    ),
    "a vector of input weights": (
        lambda: nr.GRUCell.from_arrays(jnp.ones(12), jnp.ones((12, 4))),
        ValueError,
        r"W has shape \(12,\); expected \(3 \* hidden, in\)",
    ),
    "a batch of keys": (
        lambda: nr.GRU(3, 4, key=jax.random.split(KEY, 2)),
        TypeError,
        r"key is key<fry>\[2\]; expected one JAX random key",
    ),
    "a seed for a chain": (
        lambda: chain()(XS, key=0),
        TypeError,
        r"Chain: key is a int; expected one JAX random key",
    ),
    "a seed for both directions": (
        lambda: nr.Bidirectional(gru())(XS, key=0),
        TypeError,
        r"Bidirectional\(GRU\(in_size=3\)\): key is a int; expected one JAX random key",
    ),
    "a pair into a dense layer": (
        lambda: nr.Chain(nr.Bidirectional(gru(), gru(), merge="pair"), nr.Dense(4, 1, key=KEY))(XS),
        TypeError,
        r"Dense\(in_size=4\): xs is a tuple; expected one array",
    ),
    "a pair around a residual": (
        lambda: nr.Residual(nr.Bidirectional(gru(), gru(), merge="pair"))(XS),
        ValueError,
        r"it turns \(2, 5, 3\) into a tuple, which cannot be added",
    ),
    "a metric called loss": (
        lambda: nr.fit(
            gru(),
            lambda m, x: (0.0 * m(x).sum(), {"loss": 1.0}),
            (XS,),
            optimiser=optax.sgd(1.0),
            epochs=1,
            key=KEY,
        ),
        ValueError,
        r"the loss reports 'loss', a name that the history keeps for itself",
    ),
    "an array as data": (
        lambda: nr.fit(gru(), lambda m, x: 0.0, XS, optimiser=optax.sgd(1.0), epochs=1, key=KEY),
        TypeError,
        r"fit: data is a .*; expected noria.data.batches\(...\), a list of batches, "
        r"or a tuple of arrays",
    ),
    "folds with the future": (
        lambda: nr.data.folds(6, k=2, gap=-1),
        ValueError,
        r"folds: gap is -1; expected a whole number of at least 0",
    ),
    "folds without training": (
        lambda: nr.data.folds(6, k=2, train_size=0),
        ValueError,
        r"train_size is 0; expected",
    ),
    "unknown backend": (
        lambda: nr.GRU(3, 4, key=KEY, backend="fast"),
        ValueError,
        r"backend is 'fast'; expected one of 'auto', 'reference', 'plain', 'scan'",
    ),
    "a way of saving that the backend lacks": (
        lambda: nr.GRU(3, 4, key=KEY, backend="plain", save="states"),
        ValueError,
        r"with backend='plain' JAX decides what is stored for the gradient; "
        r"save= needs another backend",
    ),
    "checkpoints that the backend lacks": (
        lambda: nr.GRU(3, 4, key=KEY, backend="reference", checkpoint=2),
        ValueError,
        r"checkpoint= needs another backend",
    ),
    "unknown way of saving": (
        lambda: nr.GRU(3, 4, key=KEY, save="everything"),
        ValueError,
        r"save is 'everything'; expected one of 'gates', 'states'",
    ),
    "checkpoints at no distance": (
        lambda: nr.GRU(3, 4, key=KEY, checkpoint=0),
        ValueError,
        r'checkpoint is 0; expected None, "sqrt", or a whole number of steps of at least 1',
    ),
    "unknown merge": (
        lambda: nr.Bidirectional(gru(), gru(), merge="add"),
        ValueError,
        r"merge is 'add'; expected one of 'concat'",
    ),
    "forward reversed": (
        lambda: nr.Bidirectional(nr.GRU(3, 4, key=KEY, reverse=True), gru()),
        ValueError,
        r"forward is reversed; give both unreversed",
    ),
    "layers of two strides side by side": (
        lambda: nr.Parallel("sum", nr.MaxPool1d(2), nr.MaxPool1d(3)),
        ValueError,
        r"Parallel: its layers have the strides \[2, 3\]; expected equal ones",
    ),
    "an unknown join": (
        lambda: nr.Parallel("add", gru()),
        ValueError,
        r"join is 'add'; expected one of 'concat', 'sum'",
    ),
    "nothing side by side": (lambda: nr.Parallel("sum"), ValueError, r"it holds no layers"),
    "a sum of two sizes": (
        lambda: nr.Parallel("sum", gru(), nr.Dense(3, 1, key=KEY))(XS),
        ValueError,
        r"the outputs are GRU\(in_size=3\) float64\[2, 5, 4\], .*expected equal shapes",
    ),
    "a wrong state side by side": (
        lambda: nr.Parallel("sum", gru(), gru())(jnp.ones(4), XS),
        ValueError,
        r"the state is float64\[4\]; expected a tuple of 2",
    ),
    "a stride with a partner": (
        lambda: nr.Concat(nr.MaxPool1d(2)),
        ValueError,
        r"Concat\(MaxPool1d\(kernel_size=2\)\): it gives one step for 2",
    ),
    "fewer steps beside all": (
        lambda: nr.Concat(nr.Conv1d(3, 3, 2, padding="valid", key=KEY))(XS),
        ValueError,
        r"it turns \(2, 5, 3\) into \(2, 4, 3\), which cannot stand beside it",
    ),
    "an unknown padding": (
        lambda: nr.Conv1d(3, 3, 2, padding="full", key=KEY),
        ValueError,
        r"padding is 'full'; expected 'causal', 'same', 'valid', or a pair",
    ),
    "too many groups": (
        lambda: nr.Conv1d(3, 3, 2, groups=2, key=KEY),
        ValueError,
        r"groups is 2; expected a divisor of both sizes",
    ),
    "weights of two axes": (
        lambda: nr.Conv1d.from_arrays(jnp.ones((2, 3))),
        ValueError,
        r"W has shape \(2, 3\); expected \(out, in // groups, kernel_size\)",
    ),
    "a bias of another size": (
        lambda: nr.Conv1d.from_arrays(jnp.ones((2, 3, 1)), jnp.ones(3)),
        ValueError,
        r"b has shape \(3,\); expected \(2,\) as W has",
    ),
    "padding beyond a pool": (
        lambda: nr.MaxPool1d(2, padding=(2, 0)),
        ValueError,
        r"padding is \(2, 0\); expected less than the window on either side",
    ),
    "a pool of integers": (
        lambda: nr.MeanPool1d(2)(jnp.ones((4, 3), int)),
        TypeError,
        r"xs is int64; expected floating numbers",
    ),
    "a part of a block that goes on": (
        lambda: nr.Conv1d(3, 3, 4, stride=2, key=KEY)(jnp.zeros((2, 3)), XS),
        ValueError,
        r"xs has 5 steps and continues other ones; expected a multiple of its stride, 2",
    ),
    "resets without padding": (
        lambda: nr.Conv1d(3, 3, 2, padding="valid", key=KEY)(XS, resets=jnp.ones((2, 5), bool)),
        ValueError,
        r'another number of outputs than its share; expected padding="causal" or "same"',
    ),
    "a step for a block": (
        lambda: nr.MaxPool1d(2).step(None, jnp.ones((2, 3, 3))),
        ValueError,
        r"x has shape \(2, 3, 3\); expected \(2, in\) or \(batch, 2, in\)",
    ),
    "no batch": (
        lambda: chain().initial_state(batch=0),
        ValueError,
        r"Chain.initial_state: batch is 0; expected a whole number of at least 1",
    ),
    "an empty chain": (lambda: nr.Chain(), ValueError, r"Chain\(\): it holds no layers"),
    "a cell in a chain": (
        lambda: nr.Chain(lstm_cell()),
        TypeError,
        r"LSTMCell is a cell; expected a layer: Recurrence\(",
    ),
    "a number in a chain": (
        lambda: nr.Chain(gru(), 3),
        TypeError,
        r"Chain, position 1: 3 is no layer and not callable",
    ),
    "dropout of 1": (
        lambda: nr.Dropout(1.0),
        ValueError,
        r"Dropout\(p=1.0\): p is a probability; expected at least 0 and",
    ),
    "dropout axis": (
        lambda: nr.Dropout(0.5, axis=1),
        ValueError,
        r"axis is 1; expected one of None, 'time'",
    ),
    "trainable string": (
        lambda: type("M", (nr.Module,), {"__annotations__": {"a": int}}, trainable="a"),
        TypeError,
        r"class M\(trainable='a'\): expected a tuple of field names",
    ),
    "trainable typo": (
        lambda: type("M", (nr.Module,), {"__annotations__": {"cell": int}}, trainable=("cel",)),
        TypeError,
        r"'cel' is not a field of this class; its fields are cell",
    ),
    # calling a cell
    "cell arguments swapped": (
        lambda: nr.GRUCell(3, 4, key=KEY)(jnp.ones(3), jnp.ones(4)),
        ValueError,
        r"GRUCell\(in_size=3, hidden_size=4\): x has shape \(4,\); "
        r"expected \(3,\) or \(batch, 3\); the state comes first",
    ),
    "cell input size": (
        lambda: lstm_cell()(lstm_cell().initial_state(), jnp.ones(7)),
        ValueError,
        r"x has shape \(7,\); expected \(3,\)",
    ),
    "cell state size": (
        lambda: nr.RNNCell(3, 4, key=KEY)(jnp.ones(5), jnp.ones(3)),
        ValueError,
        r"the state has shape \(5,\)",
    ),
    "lstm state is an array": (
        lambda: lstm_cell()(jnp.ones(4), jnp.ones(3)),
        TypeError,
        r"LSTMCell: the state is a .*; expected LSTMState\(h, c\)",
    ),
    "cell input is a list": (
        lambda: nr.RNNCell(3, 4, key=KEY)(jnp.ones(4), [1.0, 2.0, 3.0]),
        TypeError,
        r"x is a list",
    ),
    "cell input dtype": (
        lambda: nr.RNNCell(3, 4, key=KEY, **F32)(jnp.ones(4, jnp.float32), jnp.ones(3)),
        TypeError,
        r"x is float64, but the parameters are float32; nothing is promoted silently. "
        r"Convert x with .astype\('float32'\)",
    ),
    # calling a layer
    "feature size": (
        lambda: gru()(jnp.ones((20, 4))),
        ValueError,
        r"GRU\(in_size=3\): xs has shape \(20, 4\); expected \(time, 3\) or \(batch, time, 3\)",
    ),
    "one step as a sequence": (
        lambda: gru()(jnp.ones(3)),
        ValueError,
        r"xs has shape \(3,\); expected \(time, 3\) or \(batch, time, 3\)",
    ),
    "four axes": (
        lambda: gru()(jnp.ones((1, 2, 5, 3))),
        ValueError,
        r"xs has shape \(1, 2, 5, 3\)",
    ),
    "a list of steps": (
        lambda: gru()([jnp.ones(3)] * 5),
        TypeError,
        r"xs is a list; expected one array, \(time, 3\).*stack equal steps with jnp.stack, "
        r"pad unequal .* noria.data.pad",
    ),
    "an input of text": (
        lambda: gru()("abc"),
        TypeError,
        r"GRU\(in_size=3\): xs has a str; expected numbers: convert it with np.asarray",
    ),
    "an input of objects": (
        lambda: gru()(np.full((5, 3), None)),
        TypeError,
        r"xs has a ndarray of dtype object; expected numbers",
    ),
    "layer arguments swapped": (
        lambda: gru()(XS, jnp.zeros(4)),
        ValueError,
        r"xs has shape \(4,\).*the state comes first: layer\(state, xs\)",
    ),
    "three arguments": (
        lambda: gru()(None, XS, XS),
        TypeError,
        r"called with 3 positional arguments; expected layer\(xs\)",
    ),
    "state of another size": (
        lambda: gru()(jnp.zeros(5), XS),
        ValueError,
        r"GRU\(in_size=3\): the state has shape \(5,\); expected \(4,\) or \(2, 4\)",
    ),
    "state of another batch": (
        lambda: gru()(jnp.zeros((3, 4)), XS),
        ValueError,
        r"the state has shape \(3, 4\)",
    ),
    "state of another kind": (
        lambda: nr.LSTM(3, 4, key=KEY)(jnp.zeros(4), XS),
        ValueError,
        r"the state is float64\[4\]; expected LSTMState\(h=float64\[4\], c=float64\[4\]\), "
        r"as initial_state\(\) gives it",
    ),
    "state of another dtype": (
        lambda: gru()(jnp.zeros(4, jnp.float32), XS),
        TypeError,
        r"state is float32; expected float64",
    ),
    "sequence of another dtype": (
        lambda: gru()(XS.astype(jnp.float32)),
        TypeError,
        r"xs is float32, but the parameters",
    ),
    "whole numbers as features": (
        lambda: gru()(jnp.ones((5, 3), int)),
        TypeError,
        r"xs is int64, but the parameters are",
    ),
    "lengths too long": (
        lambda: gru()(XS, lengths=jnp.array([5, 6])),
        ValueError,
        r"GRU\(in_size=3\): lengths holds 6; expected 0 to 5, the steps of the padded sequences",
    ),
    "lengths negative": (
        lambda: gru()(XS, lengths=[-1, 5]),
        ValueError,
        r"lengths holds -1; expected 0 to 5",
    ),
    "lengths of another batch": (
        lambda: gru()(XS, lengths=[1, 2, 3]),
        ValueError,
        r"lengths has shape \(3,\); expected \(2,\), one for each sequence",
    ),
    "lengths beyond 32 bits": (
        lambda: gru()(XS, lengths=[2**70, 5]),
        TypeError,
        r"lengths is object; expected whole numbers",
    ),
    "lengths of booleans": (
        lambda: gru()(XS, lengths=[True, True]),
        TypeError,
        r"lengths is bool; expected whole numbers",
    ),
    "lengths of floats": (
        lambda: gru()(XS, lengths=jnp.ones(2)),
        TypeError,
        r"lengths is float64; expected whole numbers",
    ),
    "one length for a batch": (
        lambda: chain()[2](jnp.ones((2, 5, 4)), lengths=3),
        ValueError,
        r"lengths has shape \(\)",
    ),
    "resets of numbers": (
        lambda: gru()(XS, resets=jnp.zeros((2, 5))),
        TypeError,
        r"resets is float64; expected booleans, such as resets.astype\(bool\)",
    ),
    "resets of another shape": (
        lambda: gru()(XS, resets=jnp.zeros(5, bool)),
        ValueError,
        r"resets has shape \(5,\); expected \(2, 5\), one for each step",
    ),
    "dropout without a key": (
        lambda: chain()(XS),
        TypeError,
        r"Dropout\(0.1\): in training mode it needs a key: layer\(xs, key=key\); "
        r"for use without dropout, noria.inference",
    ),
    "a state for a layer without": (
        lambda: nr.Dropout(0.1)(jnp.ones(3), XS),
        ValueError,
        r"it has no state, but was called",
    ),
    "a chain's state": (
        lambda: nr.inference(chain())(jnp.zeros(4), XS),
        ValueError,
        r"Chain of 3 layers: the state is a .*; expected one state a layer",
    ),
    "a shorter chain's state": (
        lambda: chain()((None,), XS),
        ValueError,
        r"Chain of 3 layers: the state is a tuple of 1",
    ),
    "a reversed step": (
        lambda: nr.GRU(3, 4, key=KEY, reverse=True).step(None, jnp.ones(3)),
        ValueError,
        r"GRU\(in_size=3\).step: a reversed layer starts at the end; "
        r"call scan with the whole sequence",
    ),
    "a bidirectional step": (
        lambda: nr.Bidirectional(gru(), gru()).step(None, jnp.ones(3)),
        ValueError,
        r"step: its backward direction needs the end first",
    ),
    "merging unequal sizes": (
        lambda: nr.Bidirectional(gru(), nr.GRU(3, 2, key=KEY), merge="sum")(XS),
        ValueError,
        r"the directions give \(2, 5, 4\) and \(2, 5, 2\); merge='sum' needs equal sizes",
    ),
    "a residual that changes the size": (
        lambda: nr.Residual(gru())(XS),
        ValueError,
        r"Residual\(GRU\(in_size=3\)\): it turns \(2, 5, 3\) into \(2, 5, 4\), "
        r"which cannot be added",
    ),
    "dense feature size": (
        lambda: nr.Dense(3, 2, key=KEY)(jnp.ones(4)),
        ValueError,
        r"Dense\(in_size=3\): x has shape \(4,\)",
    ),
    "embedding of floats": (
        lambda: nr.Embedding(5, 2, key=KEY)(jnp.ones(3)),
        TypeError,
        r"numbers are float64; expected whole",
    ),
    "embedding out of range": (
        lambda: nr.Embedding(5, 2, key=KEY)(jnp.array([0, 5])),
        ValueError,
        r"Embedding\(count=5\): the numbers go from 0 to 5; expected 0 to 4",
    ),
    "text for a layer": (
        lambda: nr.Embedding(5, 2, key=KEY)(np.array(["a"])),
        TypeError,
        r"Embedding\(count=5\): xs is an array of <U1; expected numbers",
    ),
    "a cell that changes its state": (
        lambda: nr.Recurrence(lambda h, x: jnp.concatenate([h, x]), initial_state=jnp.zeros(3))(XS),
        TypeError,
        r"one step turns a state of float64\[3\] into float64\[6\]; "
        r"expected the same structure, shapes and dtypes",
    ),
    "a cell that changes its state in a step": (
        lambda: nr.Recurrence(
            lambda h, x: jnp.concatenate([h, x]), initial_state=jnp.zeros(3)
        ).step(None, jnp.ones(3)),
        TypeError,
        r"one step turns a state of float64\[3\] into float64\[6\]; "
        r"expected the same structure, shapes and dtypes",
    ),
    "a cell that changes the dtype": (
        lambda: nr.Recurrence(lambda h, x: (h + x).astype(jnp.float32), initial_state=jnp.zeros(3))(
            XS
        ),
        TypeError,
        r"one step turns a state of float64\[3\] into float32\[3\]; expected the same",
    ),
    "a state that cannot be emitted": (
        lambda: nr.Recurrence(lambda h, x: h, initial_state={"h": jnp.zeros(3)})(XS),
        TypeError,
        r"its state is a dict, and its output is not defined; use an array or a NamedTuple",
    ),
    "last of one step": (
        lambda: nr.last(jnp.ones(3)),
        ValueError,
        r"last\(ys, lengths\): ys has shape \(3,\)",
    ),
    # training
    "setup swapped": (
        lambda: nr.setup(gru(), optax.adam(1e-3)),
        TypeError,
        r"setup\(optimiser, model\): optimiser is a Recurrence; expected an Optax transformation",
    ),
    "setup of a constructor": (
        lambda: nr.setup(optax.adam, gru()),
        TypeError,
        r"optimiser is a function; expected an Optax",
    ),
    "update with an optimiser": (
        lambda: nr.update(optax.adam(1e-3), gru(), gru()),
        TypeError,
        r"expected what setup returned; call setup\(optimiser, model\) first",
    ),
    "update after freezing": (
        lambda: nr.update(
            nr.setup(optax.adam(1e-3), gru()), nr.freeze(gru(), lambda m: m.cell.U), gru()
        ),
        ValueError,
        r"model and opt_state differ in their trained arrays, first in cell.U; "
        r"after freezing, thawing or rebuilding",
    ),
    "nothing to train": (
        lambda: nr.grad(lambda m: m(XS).sum())(nr.freeze(gru())),
        ValueError,
        r"its first argument, a Recurrence, holds nothing trainable; pass the model first",
    ),
    "grad of the data": (
        lambda: nr.grad(lambda x: 0.0)(3),
        ValueError,
        r"a int, holds nothing trainable",
    ),
    "freeze nothing": (
        lambda: nr.freeze(gru(), lambda m: m.reverse),
        ValueError,
        r"where chose nothing that could be trained",
    ),
    "freeze a typo": (
        lambda: nr.freeze(gru(), lambda m: m.sell),
        ValueError,
        r"where\(model\) failed with AttributeError",
    ),
    "fit without validation": (
        lambda: nr.fit(
            gru(), lambda m, x: 0.0, (XS,), optimiser=optax.sgd(1.0), epochs=1, key=KEY, patience=2
        ),
        ValueError,
        r"fit\(patience=...\): there is no validation loss to wait for; pass valid=",
    ),
    "fit on nothing": (
        lambda: nr.fit(gru(), lambda m, x: 0.0, [], optimiser=optax.sgd(1.0), epochs=1, key=KEY),
        ValueError,
        r"fit: epoch 0 found no batch in data",
    ),
    "fit on an iterator": (
        lambda: nr.fit(
            gru(), lambda m, x: m(x).sum(), iter([XS]), optimiser=optax.sgd(1e-9), epochs=2, key=KEY
        ),
        ValueError,
        r"fit: data is a list_iterator, which can be gone through once, and epochs is 2; "
        r"expected a list of batches, or",
    ),
    "fit with an iterator for validation": (
        lambda: nr.fit(
            gru(),
            lambda m, x: 0.0,
            [XS],
            valid=zip([XS], strict=True),
            optimiser=optax.sgd(1.0),
            epochs=2,
            key=KEY,
        ),
        ValueError,
        r"fit: valid is a zip, which can be gone through once",
    ),
    "fit on None": (
        lambda: nr.fit(gru(), lambda m, x: 0.0, None, optimiser=optax.sgd(1.0), epochs=1, key=KEY),
        TypeError,
        r"fit: data is a NoneType; expected something to iterate over",
    ),
    "fit on a batch of nothing": (
        lambda: nr.fit(
            gru(), lambda m, x: 0.0, [XS[:0]], optimiser=optax.sgd(1.0), epochs=1, key=KEY
        ),
        ValueError,
        r"fit: a batch has no examples, its arrays have shapes \[\(0, 5, 3\)\]; leave it out",
    ),
    "fit on a list of generators": (
        lambda: nr.fit(
            gru(), lambda m, x: 0.0, [(x for x in XS)], optimiser=optax.sgd(1.0), epochs=1, key=KEY
        ),
        TypeError,
        r"fit: a batch is a generator; expected a tuple of arrays, such as \(xs, ys\)",
    ),
    "fit on text": (
        lambda: nr.fit(
            gru(), lambda m, x: 0.0, (np.array(["a"]),), optimiser=optax.sgd(1.0), epochs=1, key=KEY
        ),
        TypeError,
        r"fit: a batch is an array of <U1; expected numbers. "
        r"Leave out text and dates, or convert with .astype\(float\)",
    ),
    "a schedule-free optimiser": (
        lambda: nr.fit(
            gru(),
            lambda m, x: 0.0,
            (XS,),
            optimiser=optax.contrib.schedule_free_sgd(1.0),
            epochs=1,
            key=KEY,
        ),
        TypeError,
        r"fit: the optimiser is schedule-free.*train with noria.setup and noria.update, "
        r"and evaluate with optax.contrib",
    ),
    "lookahead": (
        lambda: nr.setup(optax.lookahead(optax.sgd(1.0), 5, 0.5), {"fast": gru(), "slow": gru()}),
        TypeError,
        r"setup\(optimiser, model\): optax.lookahead keeps two sets of parameters, "
        r"but a model is one",
    ),
    "fit to a sequence": (
        lambda: nr.fit(
            gru(), lambda m, x: m(x), (XS,), optimiser=optax.sgd(1.0), epochs=1, key=KEY
        ),
        TypeError,
        r"fit: loss returned float\d+\[2, 5, 4\]; expected a number as JAX computes it",
    ),
    "fit on a list of two arrays": (
        lambda: nr.fit(
            gru(), lambda m, x, y: 0.0, [XS, XS], optimiser=optax.sgd(1.0), epochs=1, key=KEY
        ),
        TypeError,
        r"fit: a batch is tuple\(float\d+\[2, 5, 3\]\), and loss takes \(m, x, y\); expected the "
        r"columns that loss takes. A list is a list of batches; a tuple of arrays, \(xs, ys\), is",
    ),
    "fit on nested lists": (
        lambda: nr.fit(
            gru(),
            lambda m, x, y: 0.0,
            (np.ones((5, 3)).tolist(), np.ones((5, 3)).tolist()),
            optimiser=optax.sgd(1.0),
            epochs=1,
            key=KEY,
        ),
        TypeError,
        r"fit: a batch is 5 columns, and loss takes \(m, x, y\)",
    ),
    # losses
    "loss shapes": (
        lambda: nr.mae(XS, XS[0]),
        ValueError,
        r"mae: the prediction has shape \(2, 5, 3\), the target \(5, 3\)",
    ),
    "loss dtypes": (
        lambda: nr.mse(XS, XS.astype(jnp.float32)),
        TypeError,
        r"prediction is float64, the target float32",
    ),
    "lengths and mask": (
        lambda: nr.mse(XS, XS, lengths=[1, 2], mask=XS > 0),
        ValueError,
        r"both lengths and mask are given",
    ),
    "mask of numbers": (
        lambda: nr.mse(XS, XS, mask=XS),
        TypeError,
        r"mask is float64; expected booleans",
    ),
    "mask of another shape": (
        lambda: nr.mse(XS, XS, mask=XS[:, :, 0].T > 0),
        ValueError,
        r"mask has shape \(5, 2\)",
    ),
    "a class out of range": (
        lambda: nr.cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 3])),
        ValueError,
        r"cross_entropy: the targets go from 0 to 3; expected 0 to 2, "
        r"since the logits have 3 classes",
    ),
    "targets of text": (
        lambda: nr.cross_entropy(jnp.zeros((2, 3)), np.array(["a", "b"])),
        TypeError,
        r"cross_entropy: target is an array of <U1; expected numbers",
    ),
    "targets of another shape": (
        lambda: nr.cross_entropy(jnp.zeros((2, 5, 3)), jnp.zeros(2, int)),
        ValueError,
        r"logits have shape \(2, 5, 3\), the targets \(2,\); "
        r"expected \(2, 5\) whole numbers or \(2, 5, 3\) prob",
    ),
    "delta of zero": (
        lambda: nr.huber(XS, XS, delta=0.0),
        ValueError,
        r"huber\(delta=0.0\): expected a delta above 0",
    ),
    # data
    "no sequences": (lambda: nr.data.pad([]), ValueError, r"pad: there are no sequences"),
    "different features": (
        lambda: nr.data.pad([np.ones((2, 3)), np.ones((2, 4))]),
        ValueError,
        r"pad: sequence 1 has shape \(2, 4\), sequence 0 \(2, 3\)",
    ),
    "too short to pad to": (
        lambda: nr.data.pad([np.ones(3)], time=2),
        ValueError,
        r"sequence 0 has 3 steps; expected at most 2",
    ),
    "a value that is no whole number": (
        lambda: nr.data.pad([np.ones(3, int)], value=0.5),
        TypeError,
        r"pad\(value=0.5\): the sequences are int64, which cannot hold it; "
        r"expected another value, or sequences of another",
    ),
    "a list of numbers as a column": (
        lambda: nr.data.batches([1, 2], batch_size=2),
        ValueError,
        r"column 0: sequence 0 is the number 1; expected \(time, "
        r"...\).*is an array: np.array\(column\)",
    ),
    "a column of text": (
        lambda: nr.data.batches(np.array(["a", None]), batch_size=2),
        TypeError,
        r"batches, column 0: column is an array of object; expected numbers",
    ),
    "a column that is none": (
        lambda: nr.data.batches(3, batch_size=2),
        ValueError,
        r"batches, column 0: it is a int; expected an array or a list of sequences",
    ),
    "a series of dates": (
        lambda: nr.data.windows(np.array(["2001-01"] * 5, "M8[M]"), 2),
        TypeError,
        r"windows: series is an array of datetime64\[M\]; expected numbers",
    ),
    "a split of a tuple": (
        lambda: nr.data.split((np.ones(5), np.ones(5)), test=0.4),
        TypeError,
        r"split: series is a tuple of arrays; expected one series: split each of them",
    ),
    "an infinite horizon": (
        lambda: nr.data.windows(range(9), 3, horizon=float("inf")),
        ValueError,
        r"windows: horizon is inf; expected a whole number of at least 0",
    ),
    "an infinite validation part": (
        lambda: nr.data.split(range(9), valid=float("inf")),
        ValueError,
        r"split: valid is inf; expected a share below 1 or a whole number of steps",
    ),
    "a split with the future": (
        lambda: nr.data.split(np.ones(5), gap=-1),
        ValueError,
        r"split: gap is -1; expected a whole number of at least 0",
    ),
    "columns of different sizes": (
        lambda: nr.data.batches(np.ones((3, 2)), np.ones(4), batch_size=2),
        ValueError,
        r"the columns have \[3, 4\] examples; expected the same number",
    ),
    "lists of different lengths": (
        lambda: nr.data.batches([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)], batch_size=2),
        ValueError,
        r"example 1 has 3 steps in one list and 2 in another",
    ),
    "a series too short": (
        lambda: nr.data.windows(np.ones(5), 4, 2),
        ValueError,
        r"expected at least 6 steps, size \+ horizon",
    ),
    "a split that leaves nothing": (
        lambda: nr.data.split(np.ones(5), valid=2, test=3),
        ValueError,
        r"5 steps less 2 and 3 and the gaps leave none for training",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_says_what_is_wrong(name):
    call, kind, text = WRONG_CALLS[name]
    with pytest.raises(kind, match=text):
        call()


def test_an_error_inside_a_cell_says_which_layer_and_what_it_was_given():
    def cell(h, x):
        return jnp.ones((2, 2)) @ h + x

    with pytest.raises(TypeError) as caught:
        nr.Recurrence(cell, initial_state=jnp.zeros(3))(jnp.ones((5, 3)))
    text = (
        "Recurrence(cell): this came from one step of the cell, "
        "called with a state of float64[3] and an x of float64[3]."
    )
    assert text in caught.value.__notes__


def test_values_are_not_looked_at_under_jit():
    """A length past the end acts as the end, a negative one as 0."""
    layer = gru()
    run = jax.jit(lambda n: layer.scan(None, XS, lengths=n))
    for given, meant in ((jnp.array([9, -3]), jnp.array([5, 0])),):
        for a, b in zip(jax.tree.leaves(run(given)), jax.tree.leaves(run(meant)), strict=True):
            np.testing.assert_array_equal(a, b)
