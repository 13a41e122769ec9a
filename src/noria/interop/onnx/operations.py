"""Operators of ONNX as functions of arrays, for the bodies of loops, constants and single steps.

Each function takes the node and its arrays; a missing array is ``None``. Constants are NumPy arrays
and stay such, since shapes have 64 bits in ONNX. Arrays that JAX traces go through `jax.numpy`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.shape_operations import SHAPES, axes_of, bounded

Operation = Callable[..., Any]


def module_of(arrays: Sequence[Any]) -> Any:
    """NumPy if all arrays are constants, else `jax.numpy`."""
    return np if all(a is None or isinstance(a, np.ndarray | np.generic) for a in arrays) else jnp


def run(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a node.

    Raises:
        Unreadable: if the operator is not known, or an argument is of a kind that is not.
    """
    function = OPERATIONS.get(node.op) if node.domain in ("", "ai.onnx") else None
    if function is None:
        raise Unreadable(f"the operator {node.op} ({node.label}) has no translation")
    if module_of(inputs) is np:
        _check_size(node, function, inputs)
    outputs = function(node, *inputs)
    outputs = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    if module_of(inputs) is np:
        return [np.asarray(output) for output in outputs]
    return outputs


#: Constants below this size cannot make an array out of proportion in one operator.
SMALL = 4096


def _check_size(node: Node, function: Operation, inputs: Sequence[Any]) -> None:
    """Find the size of the results of large constants before they are computed."""
    large = {n: a for n, a in enumerate(inputs) if a is not None and a.size > SMALL}
    if node.op == "Einsum":
        large = dict(enumerate(inputs))
    if not large:
        return

    def call(large: dict[int, Any]) -> Any:
        return function(node, *(large.get(n, a) for n, a in enumerate(inputs)))

    structs = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in large.items()}
    for result in jax.tree.leaves(jax.eval_shape(call, structs)):
        bounded(node, result.shape)


def _unary(name: str) -> Operation:
    return lambda node, x: getattr(module_of([x]), name)(x)


def _binary(name: str) -> Operation:
    return lambda node, a, b: getattr(module_of([a, b]), name)(a, b)


def _nary(name: str) -> Operation:
    def run(node: Node, first: Any, *rest: Any) -> Any:
        for other in rest:
            first = getattr(module_of([first, other]), name)(first, other)
        return first

    return run


def _jax(function: Callable[..., Any], **defaults: float) -> Operation:
    """A function of JAX with numbers of the node as further arguments."""
    return lambda node, x: function(
        jnp.asarray(x), **{name: node.get(name, default) for name, default in defaults.items()}
    )


def _divide(node: Node, a: Any, b: Any) -> Any:
    if np.issubdtype(a.dtype, np.floating):
        return a / b
    xp = module_of([a, b])
    quotient = xp.abs(a) // xp.abs(b)  # towards zero, as in C
    return xp.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _modulo(node: Node, a: Any, b: Any) -> Any:
    return getattr(module_of([a, b]), "fmod" if node.get("fmod", 0) else "mod")(a, b)


def _power(node: Node, a: Any, b: Any) -> Any:
    return module_of([a, b]).power(a, b.astype(a.dtype))


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = node.get("min", low), node.get("max", high)
    xp = module_of([x])
    x = x if low is None else xp.maximum(x, xp.asarray(low, x.dtype))
    return x if high is None else xp.minimum(x, xp.asarray(high, x.dtype))


def _where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    return module_of([condition, a, b]).where(condition, a, b)


def _softmax(function: Callable[..., Any]) -> Operation:
    def run(node: Node, x: Any) -> Any:
        if node.opset < 13 and node.get("axis", 1) not in (-1, x.ndim - 1):
            raise Unreadable(f"{node.label} normalises several axes at once, as before opset 13")
        return function(jnp.asarray(x), axis=node.get("axis", -1 if node.opset >= 13 else 1))

    return run


def _gelu(node: Node, x: Any) -> Any:
    return jax.nn.gelu(jnp.asarray(x), approximate=node.get("approximate", "none") == "tanh")


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = a @ b if alpha == 1 else alpha * (a @ b)
    return y if c is None else y + (c if beta == 1 else beta * c)


def _einsum(node: Node, *arrays: Any) -> Any:
    return module_of(arrays).einsum(node["equation"], *arrays)


def _reduction(
    name: str, of: Callable[..., Any] = lambda xp, x: x, then: str = "asarray"
) -> Operation:
    def run(node: Node, x: Any, axes: Any = None) -> Any:
        chosen = axes_of(node, axes)
        if not chosen and node.get("noop_with_empty_axes", 0):
            return x
        xp, keep = module_of([x]), bool(node.get("keepdims", 1))
        found = getattr(xp, name)(of(xp, x), tuple(chosen) or None, keepdims=keep)
        return getattr(xp, then)(found)

    return run


def _place_of(name: str) -> Operation:
    def run(node: Node, x: Any) -> Any:
        keep = bool(node.get("keepdims", 1))
        if node.get("select_last_index", 0):
            raise Unreadable(f"{node.label} selects the last of equal numbers")
        return getattr(module_of([x]), name)(x, node.get("axis", 0), keepdims=keep)

    return run


def _mean_of_all(node: Node, *arrays: Any) -> Any:
    return _nary("add")(node, *arrays) / len(arrays)


def _layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    axis = node.get("axis", -1)
    axes = tuple(range(axis if axis < 0 else axis - x.ndim, 0))
    centred = x - x.mean(axes, keepdims=True)
    inverse = jax.lax.rsqrt(
        (centred * centred).mean(axes, keepdims=True) + node.get("epsilon", 1e-5)
    )
    y = centred * inverse * scale
    return y if bias is None else y + bias


def _cumsum(node: Node, x: Any, axis: Any) -> Any:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise Unreadable(f"{node.label} is exclusive or reversed")
    return module_of([x]).cumsum(x, int(axis))


def _prelu(node: Node, x: Any, slope: Any) -> Any:
    return jnp.where(x >= 0, x, slope * x)


def _is_infinite(node: Node, x: Any) -> Any:
    xp = module_of([x])
    return (bool(node.get("detect_positive", 1)) & (x == xp.inf)) | (
        bool(node.get("detect_negative", 1)) & (x == -xp.inf)
    )


def _named(make: Callable[[str], Operation], pairs: str) -> dict[str, Operation]:
    """Operators by the names of NumPy's functions of the same meaning."""
    return {op: make(name) for op, name in (pair.split(":") for pair in pairs.split())}


OPERATIONS: dict[str, Operation] = {
    **SHAPES,
    **_named(
        _unary,
        "Abs:abs Neg:negative Exp:exp Log:log Sqrt:sqrt Floor:floor Ceil:ceil Sign:sign "
        "Round:round Sin:sin Cos:cos Tan:tan Sinh:sinh Cosh:cosh Asin:arcsin Acos:arccos "
        "Atan:arctan Asinh:arcsinh Acosh:arccosh Atanh:arctanh Tanh:tanh "
        "Not:logical_not IsNaN:isnan Reciprocal:reciprocal BitwiseNot:bitwise_not",
    ),
    **_named(
        _binary,
        "Add:add Sub:subtract Mul:multiply Equal:equal Less:less LessOrEqual:less_equal "
        "Greater:greater GreaterOrEqual:greater_equal And:logical_and Or:logical_or "
        "Xor:logical_xor MatMul:matmul BitwiseAnd:bitwise_and BitwiseOr:bitwise_or "
        "BitwiseXor:bitwise_xor",
    ),
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Min": _nary("minimum"),
    "Max": _nary("maximum"),
    "Sum": _nary("add"),
    "Mean": _mean_of_all,
    "Clip": _clip,
    "Where": _where,
    "IsInf": _is_infinite,
    "Sigmoid": _jax(jax.nn.sigmoid),
    "Relu": _jax(jax.nn.relu),
    "Softplus": _jax(jax.nn.softplus),
    "Softsign": _jax(jax.nn.soft_sign),
    "Erf": _jax(jax.scipy.special.erf),
    "Mish": _jax(jax.nn.mish),
    "HardSwish": _jax(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "Elu": _jax(jax.nn.elu, alpha=1.0),
    "Celu": _jax(jax.nn.celu, alpha=1.0),
    "Selu": _jax(
        lambda x, alpha, gamma: gamma * jnp.where(x > 0, x, alpha * jnp.expm1(x)),
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    ),
    "LeakyRelu": _jax(lambda x, alpha: jnp.where(x >= 0, x, alpha * x), alpha=0.01),
    "ThresholdedRelu": _jax(lambda x, alpha: jnp.where(x > alpha, x, jnp.zeros_like(x)), alpha=1.0),
    "HardSigmoid": _jax(
        lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5
    ),
    "PRelu": _prelu,
    "Gelu": _gelu,
    "Softmax": _softmax(jax.nn.softmax),
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "CumSum": _cumsum,
    "LayerNormalization": _layer_norm,
    "ReduceSum": _reduction("sum"),
    "ReduceMean": _reduction("mean"),
    "ReduceMax": _reduction("max"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("prod"),
    "ReduceSumSquare": _reduction("sum", of=lambda xp, x: x * x),
    "ReduceL1": _reduction("sum", of=lambda xp, x: xp.abs(x)),
    "ReduceL2": _reduction("sum", of=lambda xp, x: x * x, then="sqrt"),
    "ArgMax": _place_of("argmax"),
    "ArgMin": _place_of("argmin"),
}
