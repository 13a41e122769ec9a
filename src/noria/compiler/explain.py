"""The decisions of the compiler about a layer: a page to read, and numbers to test."""

import linecache
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from noria._jax import inner_jaxprs
from noria.compiler.chunkwise import ChunkwiseExecutor
from noria.compiler.complex_pairs import PairedStep
from noria.compiler.constant_matrix import has_constant_matrix
from noria.compiler.executors import LoopExecutor
from noria.compiler.linear import LinearExecutor, is_linear
from noria.compiler.matrix_analysis import obstacle_to_chunks
from noria.compiler.param_use import pull_back_of_a_step
from noria.compiler.program import Executor, Program
from noria.compiler.save_policies import Stored
from noria.compiler.select import Decision, listening
from noria.compiler.split import split
from noria.compiler.tangents import planned
from noria.display import amount, explanation_html, explanations_html, parts_of, sentences, stored
from noria.ir.build import Unsupported
from noria.ir.graph import (
    EMPTY,
    Atom,
    Equation,
    Graph,
    is_inexact,
    is_literal,
    size_in_bytes,
    values_of,
)
from noria.ir.passes import extract
from noria.ir.primitives import LIGHT, MOVES
from noria.ir.reasons import Reason
from noria.ir.source import origin


@dataclass(frozen=True)
class Line:
    """One equation, its line in the cell, and its cost for a whole call.

    Attributes:
        name: the primitive, such as ``dot_general``.
        shapes: its operands and its result for one example and one step, as in
            ``f32[4] f32[4,16] -> f32[16]``.
        where: file and line of the cell, ``lstm.py:96``; empty if the compiler made it.
        code: the text of that line.
        flops: floating-point operations, for all examples and all steps.
    """

    name: str
    shapes: str
    where: str
    code: str
    flops: int


@dataclass(frozen=True)
class Explanation:
    """The decisions about one recurrent layer; ``print`` it for a page.

    Attributes:
        label: the layer in messages.
        batch: examples, or ``None`` if there is no batch axis.
        time: steps.
        backend: the backend that runs.
        reason: the reason for the backend, for loops on another backend, and for a missing
            gradient.
        constant: equations that depend on parameters only; they run once.
        context: equations that depend on the context only; they run once per example.
        before: equations that run for all steps at once, before the loop.
        loop: equations of the forward loop.
        after: equations that run for all steps at once, after the loop.
        reverse: equations of the reverse loop.
        gradients: equations of the loop that read parameters. Their gradients are contracted after
            the reverse loop, for all steps at once, or summed in it on the native backend.
        linear: whether the next state is affine and element-wise in the state.
        states: the kind of each array of the state, in the order of `jax.tree.leaves`. ``"loop"``
            is computed in the loop, ``"delay"`` is a value of the step before, and ``"counter"`` is
            a multiple of the number of steps. ``"output"`` is emitted, and no next state reads it.
            The last three need no loop, and ``linear`` is about the others.
        saved: the values stored for the gradient at each step, as shapes of one example.
        saved_segments: the same before each segment of ``segment`` steps, whose other values are
            computed again; empty without segments.
        segment: steps of a segment, at most the whole sequence; 0 without segments.
        saved_bytes: bytes stored for the gradient, for all examples and steps, besides inputs and
            outputs of the layer. The associative backend counts scales and states; JAX may store
            more.
        flops: floating-point operations of each part, by its name.
        bytes: bytes that a part passes on, for all examples and steps: the hoisted values of
            ``before``, and the emitted values of ``loop``.
        obstacles: all that keeps loops from a better backend, with lines of the cell; ``reason``
            has the first ones.
        chunkwise: ``"yes"`` if the matrices of the state have a chunkwise form, else the reason;
            empty for a state without matrices.
        devices: devices on which parameters and input are.
        sharing: the work of each device, and what they send to each other; empty for one device.

    All but the first five are empty or zero for a backend that runs the cell as it is.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> found = nr.explain(nr.GRU(3, 4, key=jax.random.key(0)), jnp.zeros((2, 5, 3)))
        >>> found.label, found.batch, found.time
        ('GRU(in_size=3)', 2, 5)
    """

    label: str
    batch: int | None
    time: int
    backend: str
    reason: str
    constant: tuple[Line, ...] = ()
    before: tuple[Line, ...] = ()
    loop: tuple[Line, ...] = ()
    after: tuple[Line, ...] = ()
    reverse: tuple[Line, ...] = ()
    gradients: tuple[Line, ...] = ()
    linear: bool = False
    states: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    saved_bytes: int = 0
    flops: dict[str, int] | None = None
    bytes: dict[str, int] | None = None
    context: tuple[Line, ...] = ()
    obstacles: tuple[str, ...] = ()
    chunkwise: str = ""
    saved_segments: tuple[str, ...] = ()
    segment: int = 0
    devices: int = 1
    sharing: str = ""

    _repr_html_ = explanation_html

    def __str__(self) -> str:
        batch = "" if self.batch is None else f"{self.batch} examples, "
        lines = [f"{self.label}: {batch}{self.time} steps, backend {self.backend}: {self.reason}."]
        if self.sharing:
            lines.append(f"On {self.devices} devices: {self.sharing}.")
        if len(self.obstacles) > 1:
            lines += ["All obstacles:", *(f"  {obstacle}" for obstacle in self.obstacles)]
        if self.flops is None:
            return "\n".join(lines)
        lines += sentences(self)
        for name, title, _ in chain(*parts_of(self.backend)):
            found: tuple[Line, ...] = getattr(self, name)
            if name == "context" and not found:
                continue
            flops = f", {amount(self.flops[name])}flop" if found else ""
            bytes_ = (self.bytes or {}).get(name)
            passed = f", gives {amount(bytes_)}B" if bytes_ else ""
            lines += ["", f"{title}{flops}{passed}" + ("" if found else ": nothing"), *_rows(found)]
        lines += ["", f"stored for the gradient, {amount(self.saved_bytes)}B: {stored(self)}"]
        return "\n".join(lines)


class Explanations(tuple[Explanation, ...]):
    """The explanations of all recurrent layers of a model, in the order in which they run.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> net = nr.Chain(nr.GRU(3, 4, key=k1), nr.LSTM(4, 5, key=k2))
        >>> [found.label for found in nr.explain(net, jnp.zeros((2, 5, 3)))]
        ['GRU(in_size=3)', 'LSTM(in_size=4)']
    """

    _repr_html_ = explanations_html

    def __str__(self) -> str:
        return "\n\n\n".join(map(str, self))


def _rows(lines: tuple[Line, ...]) -> list[str]:
    """Two rows for each line of the cell: its place and text, then its equations."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.where, line.code), []).append(line)
    rows = []
    for (where, code), found in groups.items():
        counts = Counter(
            line.name if line.name in LIGHT else f"{line.name}({line.shapes})" for line in found
        )
        names = ", ".join(
            name if count == 1 else f"{count} {name}" for name, count in counts.items()
        )
        rows += [f"  {where or '(the layer)':<16}  {code}".rstrip(), f"{'':20}{names}"]
    return rows


@contextmanager
def explaining() -> Iterator[list[Explanation]]:
    """Collect the explanations of recurrent layers that are traced in this block."""
    found: list[Explanation] = []

    with listening(lambda decision: found.append(explanation_of(decision))):
        yield found


# --- from decisions to explanations -------------------------------------------------------------


def explanation_of(decision: Decision) -> Explanation:
    """A decision as an explanation, with the graphs and the reasons of the run."""
    sizes, program, reason = decision.sizes, decision.program, decision.reason
    if program is None:
        where = decision.label, sizes.batch, sizes.time, decision.backend
        return Explanation(*where, reason, obstacles=decision.obstacles)
    parts, times = program.split, math.prod(sizes.axes)
    peeled, (prologue, loop) = program.traced.peeled, program.executor.as_run
    stages = [] if peeled is None else [stage.graph for stage in peeled.stages]
    early = [e for graph in (*stages, prologue) for e in graph.equations]
    reverse, gradients, notes, obstacles = _gradient(program.executor, stages)
    if has_constant_matrix(parts):
        notes = [Reason.CONSTANT_MATRIX(), *notes]
    batch = math.prod(sizes.state_axes)
    graphs = {
        "constant": (parts.invariant, 1),
        "context": (EMPTY if program.frontier is None else program.frontier.graph, batch),
        "before": (Graph((), (), tuple(early)), times),
        "loop": (loop, times),
        "after": (parts.epilogue, times),
        "reverse": (reverse or EMPTY, times),
        "gradients": (gradients, times),
    }
    lines: dict[str, Any] = {
        name: tuple(_line(e, count) for e in graph.equations)
        for name, (graph, count) in graphs.items()
    }
    kept = Stored(()) if reverse is None else program.stored(sizes)
    return Explanation(
        decision.label,
        sizes.batch,
        sizes.time,
        decision.backend,
        "; ".join((reason, *notes)),
        **lines,
        linear=_is_linear(program),
        states=("loop",) * program.state_count if peeled is None else peeled.kinds,
        chunkwise=obstacle_to_chunks(program.traced),
        saved=tuple(map(_shape, kept.of_steps)),
        saved_segments=tuple(map(_shape, kept.of_segments)),
        segment=kept.segment,
        saved_bytes=kept.bytes(sizes),
        flops={name: sum(line.flops for line in found) for name, found in lines.items()},
        bytes={
            name: times * sum(map(size_in_bytes, values))
            for name, values in (("before", prologue.outputs), ("loop", parts.emitted))
        },
        obstacles=tuple(dict.fromkeys((*decision.obstacles, *obstacles))),
    )


def _is_linear(program: Program) -> bool:
    """Whether the step is a linear recurrence, a complex one in its complex form."""
    traced, executor = program.traced, program.executor
    # The parts of a step in chunks hoist what coefficients read, and not all that a loop reads.
    parts = split(traced) if isinstance(executor, ChunkwiseExecutor) else executor.split
    if isinstance(executor, LinearExecutor) or is_linear(parts):
        return True
    return isinstance(traced, PairedStep) and is_linear(split(traced.original))


def _gradient(
    executor: Executor, stages: Iterable[Graph]
) -> tuple[Graph | None, Graph, list[str], list[str]]:
    """The reverse loop, the equations that read parameters, notes for the reason, and obstacles.

    ``stages`` run before the prologue. The reverse loop is ``None`` for a step without a gradient;
    a note gives the reason.
    """
    try:
        for graph in (*stages, executor.split.prologue):
            _check_derivative(graph)
        if not isinstance(executor, LoopExecutor):  # JAX differentiates all but the recurrence
            return EMPTY, EMPTY, [], []
        gradient = executor.for_gradient(executor.sizes).gradient
        tangents = _tangents(executor)
    except Exception as error:  # a derivative rule may be the user's and raise any error
        return None, EMPTY, [Reason.NO_GRADIENT(error=_first_line(error))], []
    uses = Graph((), (), gradient.uses)
    notes = [*gradient.notes, *tangents[:1]]
    return gradient.reverse.call.graph, uses, notes, [*gradient.obstacles, *tangents[1:]]


def _tangents(executor: LoopExecutor) -> list[str]:
    """The reason why forward mode is not machine code, and all obstacles; empty if it is."""
    try:
        loop = planned(executor)
    except Unsupported as error:
        return [Reason.OTHER_LOOP(loop="loop of tangents", obstacle=str(error)), str(error)]
    if any(e.name == "custom_lin" for e in loop.call.graph.equations):
        return []  # a rule of `jax.custom_vjp` has no forward mode
    return [] if loop.note is None else [loop.note, *loop.obstacles]


def _check_derivative(graph: Graph) -> None:
    """Raise the error of an equation without a derivative, as JAX does in a gradient."""
    outputs = tuple(filter(is_inexact, values_of(graph.outputs)))
    inputs = tuple(filter(is_inexact, graph.inputs))
    pull_back_of_a_step(extract(graph.equations, outputs, graph.inputs), inputs)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def _line(equation: Equation, count: int) -> Line:
    path, number = origin(equation)
    where = f"{Path(path).name}:{number}" if path else ""
    code = linecache.getline(path, number).strip()
    operands = " ".join(_shape(v) for v in equation.inputs if not is_literal(v))
    results = " ".join(map(_shape, equation.outputs))
    return Line(
        equation.name, f"{operands} -> {results}".strip(), where, code, count * flops_of(equation)
    )


def _shape(atom: Atom) -> str:
    return atom.aval.str_short(short_dtypes=True)


def flops_of(equation: Equation) -> int:
    """Floating-point operations: two per multiplication of a product, else one per number."""
    return _flops(
        equation.name,
        equation.params,
        [v.aval for v in equation.inputs],
        [v.aval for v in equation.outputs],
    )


def _flops(name: str, params: dict[str, Any], inputs: list[Any], outputs: list[Any]) -> int:
    results = sum(math.prod(aval.shape) for aval in outputs)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * results * math.prod(inputs[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = inputs[1].shape, params["dimension_numbers"]
        return 2 * results * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    inner = [*inner_jaxprs(params)]
    if inner:
        once = sum(
            _flops(
                e.primitive.name, e.params, [v.aval for v in e.invars], [v.aval for v in e.outvars]
            )
            for jaxpr in inner
            for e in jaxpr.eqns
        )
        return once * params.get("length", 1)
    if name in MOVES:
        return 0
    return (
        max(results, *(math.prod(aval.shape) for aval in inputs))
        if name.startswith("reduce")
        else results
    )
