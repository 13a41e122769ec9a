"""``to_onnx``: a model as a file of ONNX."""

import os
import re
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._atomic import replace_file
from noria.interop.onnx.compare import largest_difference
from noria.interop.onnx.emit import Emitter, emit_block
from noria.interop.onnx.files import need_onnx
from noria.interop.onnx.writer import IR_VERSION, OPSET, Value, Writer, described
from noria.layers.base import Layer
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding
from noria.layers.dropout import Dropout
from noria.layers.parallel import Parallel
from noria.layers.per_step import PerStep
from noria.layers.pool import PoolLayer
from noria.layers.recurrence import Recurrence
from noria.layers.skip import Concat, Residual
from noria.module import inference, is_inexact, named_leaves


def to_onnx(
    path: "str | os.PathLike[str]",
    model: Layer,
    *,
    example: Any = None,
    lengths: bool = False,
    state: bool = False,
    step: bool = False,
    check: bool = True,
) -> None:
    """Write a model as an ONNX file, whose batch and time are free.

    Cells that compute what LSTM, GRU or RNN of ONNX compute become these nodes, also hand-written
    ones. Any other cell becomes a Scan over its traced step. The file is for inference: dropout
    does nothing. If onnxruntime is installed, the file is compared with the model at several sizes,
    and the largest difference is printed.

    Args:
        path: path of the file; an existing one is replaced.
        model: a layer with float32 parameters.
        example: an input of the model, for one whose first layer does not know its features.
        lengths: whether the file gets an input ``lengths``, ``(batch,)`` of int32.
        state: whether states are inputs and outputs, one array for each array of
            ``initial_state()``, in its order and after a ``batch`` axis.
        step: whether the file is one step for streaming: ``(batch, in)`` and the states to
            ``(batch, out)`` and the next states. With a `Layer.stride` above 1 it takes so many
            steps, ``(batch, stride, in)``.
        check: whether to compare with onnxruntime.

    The input is ``x``, ``(batch, time, in)``, the first output ``y``, ``(batch, time, out)``.
    States are called ``state_1_h`` and ``next_state_1_h``, by their paths in the state. Without
    ``state``, sequences begin with the initial state of the model.

    Raises:
        ImportError: if onnx is not installed.
        TypeError: if the model is no layer, or a parameter is not float32.
        ValueError: for a layer or an operation that has no form in ONNX. The message gives the
            operation and its line in the cell.
        RuntimeError: if onnxruntime gives other results than the model. Nothing is written then.
        OSError: if the file cannot be written.

    PyTorch's exporter fixes the batch of a recurrent model, and drops lengths and states.

    Examples:
        >>> import jax, noria as nr, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> model = nr.Chain(nr.LSTM(2, 3, key=jax.random.key(0)), jax.nn.relu)
        >>> nr.to_onnx(path, model, lengths=True, check=False)
    """
    call = f"to_onnx({os.fspath(path)!r})"
    need_onnx(call)
    import onnx

    model = _checked(call, model)
    if step and lengths:
        raise ValueError(f"{call}: step=True has no lengths; expected lengths=False.")
    x = _example(call, model, example, step and model.stride == 1)
    proto = build(call, model, x, lengths, state or step, step)
    onnx.checker.check_model(proto, full_check=True)
    found = (
        largest_difference(call, proto, model, x, lengths, state or step, step) if check else None
    )
    replace_file(call, os.fspath(path), proto.SerializeToString())
    if found is not None:
        print(f"{call}: onnxruntime differs from the model by at most {found:.1e}")


def _checked(call: str, model: Any) -> Layer:
    """The model in inference mode, if it has a form in ONNX."""
    if not isinstance(model, Layer):
        raise TypeError(
            f"{call}: the model is a {type(model).__name__}; expected a layer: "
            "Recurrence(cell), Chain(...), or another one."
        )
    for name, leaf in named_leaves(model):
        if is_inexact(leaf) and leaf.dtype != jnp.float32:
            raise TypeError(
                f"{call}: {name} is {leaf.dtype}; expected float32: noria.cast(model, jnp.float32)."
            )
    return inference(model)


def _example(call: str, model: Layer, example: Any, step: bool) -> Value:
    """Shape and dtype of the input of one step of one example."""
    found = input_of(model)
    if example is not None:
        array = np.asarray(example)
        axes = 0 if step else 1
        integers = np.issubdtype(array.dtype, np.integer)
        batched = array.ndim - axes - (0 if integers else 1)
        if batched not in (0, 1):
            raise ValueError(
                f"{call}: example has shape {array.shape}; expected the input of the model, "
                f"{'(in,) or (batch, in)' if step else '(time, in) or (batch, time, in)'}."
            )
        found = array.shape[axes + batched :], np.dtype(np.int64 if integers else np.float32)
    if found is None:
        raise ValueError(
            f"{call}: the number of features of the input is not known; pass an input as example=."
        )
    return Value("x", *found)


def input_of(layer: Any) -> tuple[tuple[int, ...], Any] | None:
    """Shape and dtype of the input of one step, if the layer says so."""
    float32 = np.dtype(np.float32)
    if isinstance(layer, Recurrence):
        shape = getattr(layer.cell, "in_shape", None)
        size = getattr(layer.cell, "in_size", None)
        if type(shape) is tuple:
            return shape, float32
        return None if size is None else ((int(size),), float32)
    if isinstance(layer, Bidirectional):
        return input_of(layer.forward)
    if isinstance(layer, Residual | Concat):
        return input_of(layer.layer)
    if isinstance(layer, Parallel):
        return next((found for one in layer.layers if (found := input_of(one))), None)
    if isinstance(layer, Conv1d):
        return (layer.in_size,), float32
    if isinstance(layer, Dense):
        return (layer.W.shape[1],), float32
    if isinstance(layer, Embedding):
        return (), np.dtype(np.int64)
    if isinstance(layer, PerStep) and isinstance(layer.function, eqx.nn.LayerNorm | eqx.nn.RMSNorm):
        return layer.function.shape, float32
    if isinstance(layer, PoolLayer) and layer.past is not None:
        return layer.past.shape[1:], float32
    if isinstance(layer, Chain):  # a layer that keeps the features may not know them
        keep = Dropout | PoolLayer
        later = (part for part in layer if input_of(part) or not isinstance(part, keep))
        return input_of(next(later, None))
    return None


def build(call: str, model: Layer, x: Value, lengths: bool, states: bool, step: bool) -> Any:
    """The file as a ``ModelProto``."""
    from onnx import helper

    writer = Writer()
    lead = ["batch"] if step else ["batch", "time"]
    is_block = step and model.stride > 1  # a step takes several
    of_input: list[str | int] = ["batch", model.stride] if is_block else [*lead]
    for name in ("x", "y", "lengths"):
        writer.fresh(name)
    inputs = [described("x", x.dtype, [*of_input, *x.shape])]
    inputs += [described("lengths", np.int32, ["batch"])] if lengths else []
    given, own = None, model.initial_state()
    if states:
        names, structure = _names("state", own)
        for name, leaf in zip(names, jtu.tree_leaves(own), strict=True):
            inputs.append(described(writer.fresh(name), leaf.dtype, ["batch", *leaf.shape]))
        given = jtu.tree_unflatten(structure, names)
    first = x.name if step and not is_block else _turned(writer, x.name, len(x.shape))
    emitter = Emitter(call, writer, "lengths" if lengths else None, step, step, states, first)
    value = Value(first, x.shape, x.dtype)
    emit = partial(emit_block, emitter) if is_block else emitter.layer
    ys, after = emit(model, value, given)
    if lengths and not isinstance(model, Recurrence | Bidirectional):
        axes = writer.ints(*range(2, 2 + len(ys.shape)))
        valid = writer.add("Unsqueeze", emitter.valid, axes)
        zero = writer.constant(np.zeros((), ys.dtype))
        ys = Value(writer.add("Where", valid, ys.name, zero), ys.shape, ys.dtype)
    order = list(range(2 + len(ys.shape)))
    if step:
        writer.nodes_of("Identity", [ys.name], ["y"])
    else:
        writer.nodes_of("Transpose", [ys.name], ["y"], perm=[1, 0, *order[2:]])
    outputs = [described("y", ys.dtype, [*lead, *ys.shape])]
    if states:
        names, _ = _names("next_state", own)
        pairs = zip(names, jtu.tree_leaves(own), jtu.tree_leaves(after), strict=True)
        for name, leaf, result in pairs:
            writer.nodes_of("Identity", [result], [name])
            outputs.append(described(name, leaf.dtype, ["batch", *leaf.shape]))
    graph = writer.graph("noria", inputs, outputs)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="noria"
    )


def _turned(writer: Writer, x: str, axes: int) -> str:
    return writer.add("Transpose", x, perm=[1, 0, *range(2, 2 + axes)])


def _names(start: str, tree: Any) -> tuple[list[str], Any]:
    """A name for each array of a state: ``state_1_h`` for the ``h`` of the second layer."""
    paths = [jtu.keystr(path) for path, _ in jtu.tree_leaves_with_path(tree)]
    names = [re.sub(r"\W+", "_", f"{start}_{path}").strip("_") for path in paths]
    return [re.sub("_+", "_", name) for name in names], jtu.tree_structure(tree)
