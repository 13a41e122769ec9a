"""A step that is one kernel, called without JAX: NumPy arrays in and out, the state in between.

A call of JAX takes 6 to 10 microseconds with two arrays in and out. A small step takes less. Here
the handler of the kernel gets a frame as XLA would make it, for buffers that stay where they are.
"""

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria.backends.native.kernel_call import call_kernel
from noria.backends.native.loop import NativeLoop
from noria.backends.native.plan.panels import ALIGN
from noria.backends.native.runtime import kernels
from noria.backends.native.runtime.handler import DTYPES, SIZES
from noria.backends.native.runtime.helpers import SOON
from noria.backends.native.runtime.kernels import aligned
from noria.backends.native.runtime.xla_abi import Arrays, Buffer, CallFrame
from noria.ir.build import Unsupported, graph_of
from noria.ir.graph import Equation, is_literal

#: Operations that leave the numbers of an array where they are, if none is added.
_MOVES = {"broadcast_in_dim", "squeeze", "expand_dims", "reshape", "transpose", "copy"}


class _NotOneKernel(Exception):
    """The step is more than one kernel."""


@dataclass(frozen=True)
class _Array:
    """An array of a step.

    Attributes:
        role: ``"state"``, ``"x"``, ``"result"`` of the kernel, ``"constant"``, or ``"pair"`` of two
            arrays as a complex one.
        number: which one of this role.
        shape: its shape.
        dtype: its dtype.
        value: that of a constant; the parts of a pair.
    """

    role: str
    number: int
    shape: tuple[int, ...]
    dtype: Any
    value: Any = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def swapaxes(self, one: int, two: int) -> "_Array":
        order = [*range(self.ndim)]
        order[one], order[two] = two, one
        return self.moved([self.shape[n] for n in order], order)

    def moved(self, shape: Sequence[int], order: Sequence[int] | None = None) -> "_Array":
        """The same numbers in another shape, and with the axes in another order."""
        long = [n for n in order or () if self.shape[n] > 1]
        if math.prod(shape) != math.prod(self.shape) or long != sorted(long):
            raise _NotOneKernel
        value = self.value
        if self.role == "pair":
            value = tuple(part.moved(shape, order) for part in value)
        return replace(self, shape=tuple(shape), value=value)


def _constant(value: Any) -> _Array:
    found = np.asarray(value)
    return _Array("constant", 0, found.shape, found.dtype, found)


class _Call(NamedTuple):
    """A kernel and its arguments; see `noria.backends.native.kernel_call.Run`."""

    kernel: kernels.Kernel
    sizes: np.ndarray
    arrays: list[_Array]
    results: list[Any]
    scratch: Any


class _Form(NamedTuple):
    """How a tree becomes a list of real arrays: a complex one becomes two."""

    structure: Any
    is_complex: list[bool]

    @staticmethod
    def of(tree: Any) -> "_Form":
        leaves, structure = jtu.tree_flatten(tree)
        return _Form(structure, [jnp.issubdtype(a.dtype, jnp.complexfloating) for a in leaves])

    def parts(self, tree: Any) -> list[Any]:
        found = zip(jtu.tree_leaves(tree), self.is_complex, strict=True)
        return [part for a, pair in found for part in ((a.real, a.imag) if pair else (a,))]

    def whole(
        self, parts: Sequence[Any], joined: Callable[[Any, Any], Any] = jax.lax.complex
    ) -> Any:
        rest = iter(parts)
        leaves = [
            joined(next(rest), next(rest)) if pair else next(rest) for pair in self.is_complex
        ]
        return jtu.tree_unflatten(self.structure, leaves)


_ARRAY = _Form.of(np.zeros(()))


class DirectStep:
    """A compiled step with its state in buffers of its own; made by `direct_step`.

    Attributes:
        shape: that of an input.
        dtype: that of an input.
    """

    def __init__(
        self,
        call: _Call,
        x: Any,
        states: Sequence[_Array],
        ys: Sequence[_Array],
        forms: tuple[_Form, _Form],
        table: Any,
    ):
        self._form, self._of_y, self._kernel = *forms, call.kernel
        self._y_is_array = forms[1] == _ARRAY
        self._shares, self._ended = int(call.sizes[SIZES.index("shares")]), 0.0
        self._took = 0.0
        if self._shares > 1:
            kernels.helpers().start()
        self.shape, self.dtype = x.shape, x.dtype
        self._table = None if table is None else _with_nan(np.asarray(table))
        row = _row(x, table)
        self._x = aligned(row.shape, row.dtype)
        # A kernel reads one set of states and writes the other one. A single step is the same in
        # reverse, but for the order of its weights: it begins with those that are still in cache.
        now, after = ([aligned(s.shape, s.dtype) for s in states] for _ in range(2))
        after = [a if s.role == "result" else b for s, a, b in zip(states, after, now, strict=True)]
        self._now, self._after = self._turns(call, states, ys, now, after)

    def _turns(
        self, call: _Call, states: Sequence[_Array], ys: Sequence[_Array], *sets: list[np.ndarray]
    ) -> list["_Turn"]:
        scratch = aligned(call.scratch.shape, call.scratch.dtype)
        fixed = {id(a): _placed(a.value) for a in call.arrays if a.role == "constant"}
        others = [aligned(s.shape, s.dtype) for s in call.results]
        handler, found = kernels.handler_of(call.kernel), []
        for in_reverse, (before, after) in enumerate((sets, sets[::-1])):
            given = {"x": lambda n: self._x, "state": before.__getitem__}
            sizes = _placed(call.sizes.copy())
            sizes[SIZES.index("reverse")] = in_reverse
            arguments = [sizes]
            arguments += [
                fixed[id(a)] if a.role == "constant" else given[a.role](a.number)
                for a in call.arrays
            ]
            results = list(others)
            for state, array in zip(states, after, strict=True):
                if state.role == "result":
                    results[state.number] = array
            frame = _Frame(arguments, [*results, scratch])
            outputs = [results[y.number].reshape(y.shape) for y in ys]
            shares = sizes[SIZES.index("shares") :][:1]
            address = ctypes.addressof(frame.frame)
            found.append(_Turn(frame, handler, address, shares, before, outputs))
        return found

    def __call__(self, x: Any) -> Any:
        """The output of the next step, of an array of NumPy of the right shape and dtype."""
        turn = self._now
        if self._table is not None:
            last = len(self._table) - 1
            x = self._table[np.where((x < 0) | (x > last), last, x)]
        self._x[...] = x
        if self._shares > 1:
            began = time.perf_counter()
            # Helpers sleep after a pause. To wake them pays for a step that takes longer than it.
            is_soon = began - self._ended < max(SOON, self._took)
            turn.shares[...] = self._shares if is_soon else 1
        if turn.handler(turn.address) is not None:
            raise RuntimeError("Out of memory: there is no room for the threads of a step.")
        if self._shares > 1:
            self._ended = time.perf_counter()
            self._took = self._ended - began
        self._now, self._after = self._after, turn
        if self._y_is_array:
            return turn.outputs[0].copy()
        return self._of_y.whole([output.copy() for output in turn.outputs], _complex)

    def load(self, state: Any) -> None:
        """Set the state."""
        for array, part in zip(self._now.state, self._form.parts(state), strict=True):
            array[...] = part

    def read(self) -> Any:
        """A copy of the state."""
        return self._form.whole([jnp.array(array) for array in self._now.state])


class _Turn(NamedTuple):
    """One of the two calls that take turns."""

    frame: "_Frame"
    handler: Callable[[int], int | None]
    address: int
    shares: np.ndarray
    state: list[np.ndarray]
    outputs: list[np.ndarray]


class _Frame:
    """The frame of a call, as XLA passes it, and all that it points to."""

    def __init__(self, arguments: Sequence[np.ndarray], results: Sequence[np.ndarray]):
        self.arrays, self.kept = [*arguments, *results], list[Any]()
        helpers = kernels.helpers()
        self.frame = CallFrame(
            api=ctypes.addressof(helpers.api),
            context=ctypes.addressof(helpers.boxes),
            args=self._arrays(arguments),
            rets=self._arrays(results),
        )

    def _arrays(self, arrays: Sequence[np.ndarray]) -> Arrays:
        buffers, dims = (Buffer * len(arrays))(), (ctypes.c_int64 * len(arrays))()
        items = (ctypes.c_void_p * len(arrays))()
        for n, array in enumerate(arrays):
            dims[n] = array.size
            buffers[n] = Buffer(
                dtype=DTYPES[array.dtype.name],
                data=array.ctypes.data,
                rank=1,
                dims=ctypes.addressof(dims) + ctypes.sizeof(ctypes.c_int64) * n,
            )
            items[n] = ctypes.addressof(buffers) + ctypes.sizeof(Buffer) * n
        self.kept += [buffers, dims, items]
        return Arrays(count=len(arrays), items=ctypes.addressof(items))


def direct_step(
    step: Callable[..., Any], state: Any, x: Any, table: Any = None
) -> DirectStep | None:
    """``step(state, x) -> (state, y)`` as a `DirectStep`.

    With a ``table``, ``x`` is the numbers of rows, and the step gets the rows; NaN for a number of
    no row. ``None`` if it is anything but one kernel, or its input is of a dtype that JAX
    converts.
    """
    row = _row(x, table)
    if jax.dtypes.canonicalize_dtype(row.dtype) != row.dtype:
        return None
    form = _Form.of(state)

    of_y = list[_Form]()

    def of_parts(parts: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
        state, y = step(form.whole(parts), x)
        of_y.append(_Form.of(y))
        return form.parts(state), of_y[-1].parts(y)

    parts, calls = form.parts(state), list[_Call]()
    given = [_Array("state", n, a.shape, a.dtype) for n, a in enumerate(parts)]
    given.append(_Array("x", 0, row.shape, row.dtype))
    try:
        graph, closed, _ = graph_of(of_parts, parts, row)
        known: dict[Any, _Array] = dict(
            zip(graph.inputs, [*map(_constant, closed), *given], strict=True)
        )
        for equation in graph.equations:
            arrays = [_constant(a.val) if is_literal(a) else known[a] for a in equation.inputs]
            known.update(zip(equation.outputs, _results(equation, arrays, calls), strict=True))
        if any(map(is_literal, graph.outputs)) or not calls:
            return None
        results = [known[atom] for atom in graph.outputs]
        states, ys = results[: len(parts)], results[len(parts) :]
        made = [s for n, s in enumerate(states) if (s.role, s.number) != ("state", n)]
        if any(a.role != "result" for a in (*made, *ys)):
            return None
        if len({state.number for state in made}) < len(made):
            return None
        return DirectStep(calls[0], x, states, ys, (form, of_y[-1]), table)
    except (_NotOneKernel, Unsupported):
        return None


def _results(equation: Equation, arrays: list[_Array], calls: list[_Call]) -> list[_Array]:
    """The results of an equation, none of which is computed unless it is constant."""
    if all(array.role == "constant" for array in arrays):
        return [_constant(a) for a in equation.bind(*(array.value for array in arrays))]
    if equation.name == "noria_aligned":
        return arrays[: len(equation.outputs)]
    if equation.name == "complex":
        return [replace(arrays[0], role="pair", value=tuple(arrays))]
    if equation.name in ("real", "imag") and arrays[0].role == "pair":
        return [arrays[0].value[equation.name == "imag"]]
    if equation.name in _MOVES:
        return [arrays[0].moved(equation.outputs[0].aval.shape, equation.params.get("permutation"))]
    if equation.name != "noria_native_loop":
        raise _NotOneKernel

    def record(*call: Any) -> list[Any]:
        kernel, sizes, given, results, scratch = call
        panels = [_constant(a) if isinstance(a, np.ndarray) else a for a in given]
        calls.append(_Call(kernel, sizes, panels, results, scratch))
        if len(calls) > 1:
            raise _NotOneKernel
        return [_Array("result", n, s.shape, s.dtype) for n, s in enumerate(calls[-1].results)]

    loop: NativeLoop = equation.params["call"]
    limits = replace(loop.tuning, thread_flops=loop.tuning.direct_flops)
    return call_kernel(loop.with_tuning(limits), arrays, equation.params["time"], record)


def _placed(value: np.ndarray) -> np.ndarray:
    """An array at an address that suits a kernel."""
    if value.flags.c_contiguous and value.ctypes.data % ALIGN == 0:
        return value
    found = aligned(value.shape, value.dtype)
    found[...] = value
    return found


def _row(x: Any, table: Any) -> Any:
    """The shape and dtype of the input of a step: those of ``x``, or of the rows that it counts."""
    if table is None:
        return x
    return jax.ShapeDtypeStruct((*x.shape, *table.shape[1:]), table.dtype)


def _with_nan(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, np.full_like(table[:1], np.nan)])


def _complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    found = np.empty(real.shape, np.result_type(real, np.complex64))
    found.real, found.imag = real, imaginary
    return found
