"""Complex numbers as pairs of real ones: a step over complex values becomes one over real values.

A value that differs from step to step, or depends on the state, becomes a pair::

    h' = lam h + B x      re' = lam_re re - lam_im im + B_re x
                          im' = lam_re im + lam_im re + B_im x

Parameters and the values that depend on them alone stay complex, but in a step that runs once only.
Their parts are computed once, outside of the loop. The layer, its parameters and their gradients
therefore stay complex too. Arrays of all steps are divided into parts before a call, and joined
after it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from noria._jax import Literal, ShapedArray
from noria.compiler.canonicalize import canonicalize
from noria.compiler.complex_rules import MOVES, RULES, Operand, Pair, real_dtype
from noria.compiler.levels import CONSTANT, INPUT, NUMBER, STATE
from noria.compiler.trace import Traced, own_outputs
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal
from noria.ir.passes import dce, dependence, substitute
from noria.ir.reasons import Reason
from noria.ir.source import where

Arrays = list[jax.Array]


@dataclass(frozen=True, eq=False)
class PairedStep(Traced):
    """A step over pairs of real arrays, and the step over complex ones that it was made from."""

    original: Traced

    @property
    def kept(self) -> tuple[Value, ...]:
        rest = iter(self.emitted)
        places = [[next(rest) for _ in range(1 + _is_complex(v))] for v in self.original.emitted]
        kept = () if self.peeled is None else self.peeled.outputs.values()
        return tuple(v for n in kept for v in places[n])

    def outside(self, run: Callable[..., tuple[Arrays, Arrays]]) -> Callable[..., Any]:
        """``run``, which takes and returns pairs, as a function of complex arrays."""
        before = self.original

        def call(state: Arrays, steps: Arrays, *rest: Any) -> tuple[Arrays, Arrays]:
            final, emitted = run(_apart(state), _apart(steps), *rest)
            return _joined(final, before.next_state), _joined(emitted, before.emitted)

        return call


def _apart(arrays: Iterable[jax.Array]) -> Arrays:
    """The arrays, with two in the place of a complex one."""
    return [
        part
        for a in arrays
        for part in ((jax.lax.real(a), jax.lax.imag(a)) if _is_complex_dtype(a.dtype) else (a,))
    ]


def _joined(arrays: Iterable[jax.Array], like: Sequence[Atom]) -> Arrays:
    """The inverse of `_apart`."""
    rest = iter(arrays)
    return [jax.lax.complex(next(rest), next(rest)) if _is_complex(v) else next(rest) for v in like]


def _is_complex_dtype(dtype: Any) -> bool:
    return getattr(dtype, "kind", "") == "c"  # a random key has no kind


def _is_complex(atom: Atom) -> bool:
    return _is_complex_dtype(atom.aval.dtype)


def in_pairs(traced: Traced) -> tuple[Traced, tuple[str, ...]]:
    """The step over pairs; or the step as it is, and the operations for which there is no rule."""
    made = (v for equation in traced.graph.equations for v in equation.outputs)
    found = [v for v in (*traced.state, *traced.steps, *made) if _is_complex(v)]
    if not found:
        return traced, ()
    levels = dependence(traced.graph.equations, traced.levels)
    if all(levels.get(v, NUMBER) <= CONSTANT for v in found):
        return traced, ()
    writer = _Writer(levels, traced.once)
    state, steps = (writer.inputs(values) for values in (traced.state, traced.steps))
    for equation in traced.graph.equations:
        writer.rewrite(equation)
    if writer.obstacles:
        return traced, tuple(writer.obstacles)
    next_state, emitted = (writer.outputs(atoms) for atoms in (traced.next_state, traced.emitted))
    inputs = (*traced.parameter_values, *state, *steps)
    graph = Graph(inputs, (*next_state, *emitted), tuple(writer.equations))
    graph = dce(substitute(graph, writer.instead))
    sources = dict.fromkeys(traced.parameter_values, CONSTANT) | dict.fromkeys(state, STATE)
    sources |= dict.fromkeys(steps, INPUT)
    graph = own_outputs(graph, dependence(graph.equations, sources), state)
    graph = canonicalize(graph, sources, len(state), once=traced.once)
    tree, peeled = traced.emission_tree, traced.peeled
    arrays, once = traced.parameters, traced.once
    given = steps, sources, tree, peeled, None, once, traced
    paired = PairedStep(graph, arrays, state, *given, fixed=traced.fixed)
    return paired, ()


class _Writer:
    """Writes the equations of a step over pairs.

    Attributes:
        levels: of the values of the step.
        once: whether the step runs once only. What depends on parameters alone then becomes a pair
            too, if there is a rule, and may be a part of the loop.
        equations: those written.
        pairs: the atoms of each complex value.
        instead: the atoms that replace real values.
        obstacles: the messages on equations for which there is no rule; these stay as they are.
    """

    def __init__(self, levels: dict[Value, int], once: bool):
        self.levels, self.once = levels, once
        self.equations: list[Equation] = []
        self.pairs: dict[Value, Pair] = {}
        self.instead: dict[Value, Atom] = {}
        self.obstacles: list[str] = []

    def inputs(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """The inputs that replace ``values``."""
        found: list[Value] = []
        for value in values:
            if _is_complex(value):
                aval = ShapedArray(value.aval.shape, real_dtype(value.aval.dtype))
                self.pairs[value] = Pair(Value(aval), Value(aval))
                found += self.pairs[value]
            else:
                found.append(value)
        return tuple(found)

    def outputs(self, atoms: Sequence[Atom]) -> list[Atom]:
        """The atoms that replace outputs; both parts of a complex one."""
        found: list[Atom] = []
        for atom in atoms:
            if _is_complex(atom):
                re, im = self._parts(atom)
                found += [re, self._zeros(re) if im is None else im]
            else:
                found.append(atom)
        return found

    def rewrite(self, equation: Equation) -> None:
        """Write an equation, or its replacement."""
        if not any(map(_is_complex, (*equation.inputs, *equation.outputs))):
            self.equations.append(equation)
            return
        if all(self.levels.get(v, NUMBER) <= CONSTANT for v in equation.outputs):
            self.equations.append(equation)
            moves = equation.name in MOVES and all(map(_is_complex, equation.outputs))
            if moves or self.once:
                self._apply(equation)
        elif not self._apply(equation):
            line = where(equation.source)
            self.obstacles.append(Reason.COMPLEX(name=equation.name, where=line))
            self.equations.append(equation)

    def _apply(self, equation: Equation) -> bool:
        """Write the equations of the rule of an equation; false if there is no rule."""
        rule = RULES.get(equation.name)
        if rule is None:
            return False
        operands = [self._parts(a) if _is_complex(a) else Pair(a) for a in equation.inputs]
        given = [part for pair in operands for part in pair if part is not None]
        has_result, has_imaginary = True, [False for _ in equation.outputs]

        def function(*arrays: jax.Array) -> list[jax.Array]:
            nonlocal has_result
            rest = iter(arrays)
            values: list[Operand] = []
            for atom, pair in zip(equation.inputs, operands, strict=True):
                re = next(rest)
                im = None if pair.im is None else next(rest)
                values.append(Pair(re, im) if _is_complex(atom) else re)
            results = rule(equation, values)
            has_result = results is not None
            found: list[jax.Array] = []
            for i, result in enumerate(results or ()):
                parts = result if isinstance(result, Pair) else Pair(result)
                has_imaginary[i] = parts.im is not None
                found += [part for part in parts if part is not None]
            return found

        made, outputs = build(function, given, equation.source)
        if not has_result:
            return False
        self.equations += made
        rest = iter(outputs)
        for value, is_pair in zip(equation.outputs, has_imaginary, strict=True):
            pair = Pair(next(rest), next(rest) if is_pair else None)
            if _is_complex(value):
                self.pairs[value] = pair
            else:
                self.instead[value] = pair.re
        return True

    def _parts(self, atom: Atom) -> Pair:
        """The atoms of a complex value; a parameter is divided at its first use."""
        if is_literal(atom):
            aval = ShapedArray(atom.aval.shape, real_dtype(atom.aval.dtype))
            re, im = (
                Literal(aval.dtype.type(part), aval) for part in (atom.val.real, atom.val.imag)
            )
            return Pair(re, im if atom.val.imag else None)
        if atom not in self.pairs:
            made, parts = build(lambda a: [jax.lax.real(a), jax.lax.imag(a)], [atom], None)
            self.equations += made
            self.pairs[atom] = Pair(*parts)
        return self.pairs[atom]

    def _zeros(self, like: Atom) -> Atom:
        made, (zeros,) = build(lambda: [jnp.zeros(like.aval.shape, like.aval.dtype)], [], None)
        self.equations += made
        return zeros
