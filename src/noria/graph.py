"""Equations and graphs of them: what a traced step is. A graph is evaluated by binding its equations in order."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import Literal, ShapedArray, bind, parts_of, user_frames


class Value:
    """What an equation gives; known by identity. JAX's own variables serve too: all that is asked for is ``aval``."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval


#: A value, or a number that stands in the equation itself (`jax.extend.core.Literal`).
Atom: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to values; ``source`` is the traceback of the user's line that asked for it."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Any, ...]
    params: dict[str, Any]
    source: Any

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, *arrays: Any) -> list[Any]:
        """The outputs for these inputs; traced like any JAX code, with the user's line as its origin."""
        return bind(self.primitive, arrays, self.params, self.source)


@dataclass(frozen=True, eq=False)
class Graph:
    """Equations in an order in which they can be evaluated, from ``inputs`` to ``outputs``."""

    inputs: tuple[Any, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    def __call__(
        self,
        arrays: Sequence[Any],
        adjust: Callable[[Equation, list[Any], list[Any]], list[Any]] | None = None,
    ) -> list[Any]:
        """The outputs. ``adjust(equation, its inputs, its outputs)`` may replace what an equation gave."""
        known = dict(zip(self.inputs, arrays, strict=True))
        for equation in self.equations:
            inputs = [read(known, atom) for atom in equation.inputs]
            outputs = equation.bind(*inputs)
            known.update(
                zip(
                    equation.outputs,
                    adjust(equation, inputs, outputs) if adjust else outputs,
                    strict=True,
                )
            )
        return [read(known, atom) for atom in self.outputs]


#: Values and the arrays that stand for them.
Known: TypeAlias = dict[Any, Any]


def named(names: Iterable[Any], arrays: Iterable[Any]) -> Known:
    return dict(zip(names, arrays, strict=True))


class Shifted(NamedTuple):
    """Arrays of all steps, of which a loop reads at each step that of the step which it takes next; at the last, ``first``."""

    array: Any
    first: Any

    def whole(self, reverse: bool) -> Any:
        """What a loop reads, in the order of time; ``reverse`` if it goes from the last step to the first."""
        first = self.first[None]
        return (
            jnp.concatenate([first, self.array])[:-1]
            if reverse
            else jnp.concatenate([self.array, first])[1:]
        )


def grouped(operands: Sequence[Any], totals: Sequence[int]) -> list[tuple[Any, ...]]:
    """The operands of each total: one or two, one after the other."""
    rest = iter(operands)
    return [tuple(next(rest) for _ in range(count)) for count in totals]


def aval_of_total(operands: Sequence[Any]) -> Any:
    """Shape and dtype of a total of values of one step and example."""
    shape = (
        operands[0].aval.shape if len(operands) == 1 else tuple(v.aval.shape[0] for v in operands)
    )
    return ShapedArray(shape, operands[0].aval.dtype)


def total(operands: Sequence[Any], axes: int = 2) -> Any:
    """The sum over the first ``axes`` axes of an array, or of the outer products of the vectors in two."""
    summed = tuple(range(axes))
    first, *others = operands
    if not others:
        return first.sum(summed)
    return jax.lax.dot_general(first, others[0], ((summed, summed), ((), ())), precision="highest")


def is_literal(atom: Atom) -> TypeGuard[Any]:
    return isinstance(atom, Literal)


def read(known: dict[Any, Any], atom: Atom) -> Any:
    return atom.val if is_literal(atom) else known[atom]


def struct(atom: Atom) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value, for tracing."""
    aval = atom.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


_PACKAGE = Path(__file__).parent
#: Files whose lines are not the cell's own: those of the compiler, and of the libraries below it.
_HIDDEN = (
    *(
        str(_PACKAGE / part)
        for part in ("compiler", "backends", "layers", "evaluate.py", "graph.py", "_jax.py")
    ),
    *(f"{Path(inspect.getfile(library)).parent}/" for library in (jax, eqx)),
)


def origin(equation: Equation) -> tuple[str, int]:
    """File and line of the cell that asked for an equation; an empty path if none did."""
    for path, line in user_frames(equation.source):
        if not path.startswith(_HIDDEN):
            return path, line
    return "", 0


def size_in_bytes(atom: Atom) -> int:
    """Bytes of one value; a random key counts as its words."""
    aval = atom.aval
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * int(np.prod(aval.shape))
    return int(np.prod(aval.shape)) * aval.dtype.itemsize


def is_inexact(atom: Atom) -> bool:
    """Whether a value can have a derivative."""
    return bool(jax.dtypes.issubdtype(atom.aval.dtype, np.inexact))


# --- from functions to graphs ---------------------------------------------------------------------------------------

#: Calls that are opened up. Those with a derivative rule of their own are not: the rule must be found when
#: derivatives are taken. Loops and conditionals stay whole.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}


def graph_of(function: Callable[..., Any], *args: Any) -> tuple[Graph, list[Any], Any]:
    """The graph of ``function(*args)``, the arrays that it closes over, and the tree of its outputs.

    The graph's inputs are those arrays, then the leaves of ``args``.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    if closed.effects:
        raise Unsupported(f"a step has the side effect {next(iter(closed.effects))}")
    jaxpr, consts = parts_of(closed)
    inputs = (*jaxpr.constvars, *jaxpr.invars)
    equations: list[Equation] = []
    outputs, hidden = _inline(jaxpr, inputs, equations, None)
    graph = Graph((*hidden, *inputs), tuple(outputs), tuple(equations))
    return live(graph), [*hidden.values(), *consts], jtu.tree_structure(shapes)


class Unsupported(Exception):
    """A step that the compiler leaves to the plain loop; the message is the reason."""


def _inline(
    jaxpr: Any, inputs: Sequence[Atom], equations: list[Equation], source: Any
) -> tuple[list[Atom], dict[Any, Any]]:
    """Append the equations of ``jaxpr`` applied to ``inputs``; its outputs, and arrays found inside of calls."""
    known: dict[Any, Atom] = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))
    hidden: dict[Any, Any] = {}

    def get(atom: Atom) -> Atom:
        return atom if is_literal(atom) else known[atom]

    for equation in jaxpr.eqns:
        arguments = [get(atom) for atom in equation.invars]
        if equation.primitive.name in INLINED:
            inner, consts = parts_of(equation.params[INLINED[equation.primitive.name]])
            values = {Value(jax.typeof(const)): const for const in consts}
            hidden |= values
            arguments = [*values, *arguments]
            outputs, more = _inline(inner, arguments, equations, source)
            hidden |= more
        else:
            outputs = [Value(v.aval) for v in equation.outvars]
            origin = equation.source_info.traceback if source is None else source
            equations.append(
                Equation(
                    equation.primitive, tuple(arguments), tuple(outputs), equation.params, origin
                )
            )
        known.update(zip(equation.outvars, outputs, strict=True))
    return [get(atom) for atom in jaxpr.outvars], hidden


def build(
    function: Callable[..., Any], inputs: Sequence[Atom], source: Any
) -> tuple[list[Equation], list[Any]]:
    """The equations of a short piece of JAX code applied to values of a graph, and what it returns (a list)."""
    jaxpr, consts = parts_of(jax.make_jaxpr(function)(*map(struct, inputs)))
    equations: list[Equation] = []
    outputs, hidden = _inline(jaxpr, [*consts, *inputs], equations, source)
    assert not hidden
    assert not consts
    return equations, outputs


# --- from graphs to graphs ------------------------------------------------------------------------------------------


def values_of(atoms: Iterable[Atom]) -> Iterator[Any]:
    """The atoms that are values, each once, in order."""
    return iter(dict.fromkeys(atom for atom in atoms if not is_literal(atom)))


def live(graph: Graph) -> Graph:
    """Without the equations that no output needs."""
    return cut_out(graph.equations, graph.outputs, graph.inputs, keep_inputs=True)


def cut_out(
    equations: Sequence[Equation],
    outputs: Sequence[Atom],
    inputs: Iterable[Any],
    *,
    keep_inputs: bool = False,
) -> Graph:
    """The part of ``equations`` that leads from ``inputs`` to ``outputs``; of the inputs, those that it uses."""
    available = dict.fromkeys(inputs)
    needed = set(values_of(outputs))
    kept = []
    for equation in reversed(equations):
        wanted = [v for v in equation.outputs if v in needed]
        if wanted and not all(v in available for v in wanted):
            kept.append(equation)
            needed.update(values_of(equation.inputs))
    used = tuple(v for v in available if keep_inputs or v in needed)
    graph = Graph(used, tuple(outputs), tuple(reversed(kept)))
    made = {v for equation in graph.equations for v in equation.outputs} | set(graph.inputs)
    missing = [v for v in needed if v not in made]
    assert not missing, missing
    return graph


def ordered(equations: Sequence[Equation]) -> list[Equation]:
    """The same equations in an order in which each stands after what it uses; otherwise as they were."""
    maker = {v: equation for equation in equations for v in equation.outputs}
    done: dict[Equation, None] = {}
    todo = [*reversed(equations)]
    while todo:
        makers = [maker[v] for v in values_of(todo[-1].inputs) if v in maker]
        waits_for = [equation for equation in makers if equation not in done]
        if todo[-1] in done or not waits_for:
            done.setdefault(todo.pop())
        else:
            todo += reversed(waits_for)
    return list(done)


def substitute(graph: Graph, instead: dict[Any, Atom]) -> Graph:
    """The graph with some values read from elsewhere."""

    def get(atom: Atom) -> Atom:
        while not is_literal(atom) and atom in instead:
            atom = instead[atom]
        return atom

    equations = [
        Equation(e.primitive, tuple(map(get, e.inputs)), e.outputs, e.params, e.source)
        for e in graph.equations
    ]
    return Graph(graph.inputs, tuple(map(get, graph.outputs)), tuple(equations))


def share(graph: Graph, kinds: frozenset[str]) -> Graph:
    """The graph in which equal equations of these kinds are one."""
    seen: dict[Any, Equation] = {}
    instead: dict[Any, Atom] = {}
    equations = []
    for equation in graph.equations:
        inputs = tuple(
            atom if is_literal(atom) else instead.get(atom, atom) for atom in equation.inputs
        )
        equation = Equation(
            equation.primitive, inputs, equation.outputs, equation.params, equation.source
        )
        if equation.name in kinds:
            names = tuple(
                str(atom.val) + str(atom.aval) if is_literal(atom) else atom for atom in inputs
            )
            first = seen.setdefault(
                (equation.name, names, str(sorted(equation.params.items()))), equation
            )
            if first is not equation:
                instead.update(zip(equation.outputs, first.outputs, strict=True))
                continue
        equations.append(equation)
    return substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)


def slices(equation: Equation) -> list[tuple[int, int]] | None:
    """For an equation that takes slices along the last axis, and does nothing else: where each output begins and ends."""
    if equation.name not in ("split", "slice") or not equation.inputs[0].aval.ndim:
        return None
    shape, params = equation.inputs[0].aval.shape, equation.params
    if equation.name == "split":
        ends = [sum(map(int, params["sizes"][: i + 1])) for i in range(len(params["sizes"]))]
        return (
            list(zip([0, *ends], ends, strict=False)) if params["axis"] == len(shape) - 1 else None
        )
    whole = params["strides"] is None and equation.outputs[0].aval.shape[:-1] == shape[:-1]
    return [(params["start_indices"][-1], params["limit_indices"][-1])] if whole else None


def users(
    equations: Sequence[Equation], outputs: Sequence[Atom] = ()
) -> dict[Any, list[Equation | None]]:
    """For each value the equations that use it, and ``None`` if it is an output."""
    found: dict[Any, list[Equation | None]] = {}
    for equation in equations:
        for value in values_of(equation.inputs):
            found.setdefault(value, []).append(equation)
    for value in values_of(outputs):
        found.setdefault(value, []).append(None)
    return found


# --- what depends on what -------------------------------------------------------------------------------------------


def dependence(equations: Sequence[Equation], sources: dict[Any, int]) -> dict[Any, int]:
    """For each value the largest number among those of the sources it depends on; 0 for none. A source may be computed, too."""
    found = dict(sources)
    for equation in equations:
        level = max((found.get(v, 0) for v in values_of(equation.inputs)), default=0)
        found.update((v, level) for v in equation.outputs if v not in sources)
    return found


def leading_to(equations: Sequence[Equation], outputs: Iterable[Atom]) -> set[Equation]:
    """The equations that some of ``outputs`` need."""
    return set(cut_out(equations, tuple(values_of(outputs)), inputs_of(equations)).equations)


def inputs_of(equations: Sequence[Equation], outputs: Iterable[Atom] = ()) -> list[Any]:
    """The values that equations, and what reads ``outputs``, need from elsewhere, each once."""
    made = {v for equation in equations for v in equation.outputs}
    used = values_of([*(v for equation in equations for v in equation.inputs), *outputs])
    return [v for v in used if v not in made]
