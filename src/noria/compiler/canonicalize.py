"""Rewrite rules that move more of a step out of the loop, and change values only by rounding.

==================== ================================ ==============================================
`unroll`             an inner loop of a few rounds    one round after the other
`operand_first`      ``W @ h``                        ``h @ W^T``, one form for all products
`split_products`     ``W @ concat([x, h])``           ``W[:, :n] @ x + W[:, n:] @ h``
`regroup_sums`       ``(U h + W x) + b``              ``U h + (W x + b)``
`merge_products`     ``U1 h``, ``U2 h``               two slices of ``[U1; U2] h``
`slices_first`       ``split(W x + U h)``             ``split(W x) + split(U h)``
==================== ================================ ==============================================

`contractions` brings all spellings of a product into one form, `solves` systems of equations.

The level of a value is the highest level among the values that it depends on: `CONSTANT`
(parameters), `INPUT` (of the step), `STATE`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp

from noria._jax import call, parts_of
from noria.compiler.contractions import canonical_contractions
from noria.compiler.levels import CONSTANT, STATE, level_of
from noria.compiler.solves import single_solves
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal
from noria.ir.passes import (
    Replacement,
    backward_slice,
    dce,
    dependence,
    producers,
    rewrite,
    slices,
    substitute,
    toposort,
    users,
)

#: The largest number of equations that an inner loop is unrolled to. A step without an inner loop
#: is three times as fast at each measured size, but compile time grows with its size
#: (``python benchmarks/tuning.py MOST_EQUATIONS``).
MOST_EQUATIONS = 256


def canonicalize(
    graph: Graph,
    sources: dict[Value, int],
    width: int,
    *,
    contractions: bool = True,
    once: bool = False,
) -> Graph:
    """Apply every rule; the rules for contractions may be left out.

    ``sources`` gives the level of each input; the first ``width`` outputs are the next state.
    If the step runs only ``once``, weights are not copied in order to split or merge products.
    """
    graph = unroll(graph)
    graph = single_solves(graph, sources)
    if contractions:
        graph = canonical_contractions(graph, sources, once=once)
    for rule in (operand_first, *([] if once else [split_products]), regroup_sums):
        graph = rule(graph, dependence(graph.equations, sources))
    if not once:
        fed_back = backward_slice(graph.equations, graph.outputs[:width])
        graph = merge_products(graph, dependence(graph.equations, sources), fed_back)
    return dce(slices_first(graph, dependence(graph.equations, sources)))


def without_transposes(graph: Graph) -> Graph:
    """``h @ W.T`` becomes a product over the other axis of ``W``, for backends that pack it."""
    maker = producers(graph.equations)

    def unturn(equation: Equation) -> Replacement | None:
        if equation.name != "dot_general" or any(equation.params["dimension_numbers"][1]):
            return None
        inputs, axes = list(equation.inputs), list(equation.params["dimension_numbers"][0])
        for n, atom in enumerate(inputs):
            turn = None if is_literal(atom) else maker.get(atom)
            if turn is not None and turn.name == "transpose" and atom.aval.ndim == 2:
                inputs[n] = turn.inputs[0]
                axes[n] = tuple(turn.params["permutation"][axis] for axis in axes[n])
        if inputs == [*equation.inputs]:
            return None
        return _with_numbers(equation, inputs, (tuple(axes), ((), ())))

    return dce(rewrite(graph, unturn))


def _with_numbers(product: Equation, inputs: Sequence[Atom], numbers: Any) -> Replacement:
    """The same product of other operands, with other dimension numbers."""
    params = {**product.params, "dimension_numbers": numbers}
    output = Value(product.outputs[0].aval)
    return [replace(product, inputs=tuple(inputs), outputs=(output,), params=params)], [output]


# --- inner loops --------------------------------------------------------------------------------


def unroll(graph: Graph) -> Graph:
    """An inner `jax.lax.scan` of a few rounds becomes its equations: products of the step."""

    def write_out(equation: Equation) -> Replacement | None:
        params = equation.params
        if (
            equation.name != "scan"
            or not 0 < params["length"] * len(params["jaxpr"].eqns) <= MOST_EQUATIONS
        ):
            return None
        equations, outputs = build(
            partial(_rounds, params, *_counts(equation)), equation.inputs, equation.source
        )
        inner = unroll(Graph((), tuple(outputs), tuple(equations)))
        return [*inner.equations], [*inner.outputs]

    return rewrite(graph, write_out)


def _counts(loop: Equation) -> tuple[int, int]:
    """The number of operands that are the same in all rounds, and of carried operands.

    JAX keeps them under names that change, but they alone have no axis of the rounds.
    """
    inner, _ = parts_of(loop.params["jaxpr"])
    whole, carried = (
        sum(v.aval.ndim == w.aval.ndim for v, w in zip(outside, inside, strict=True))
        for outside, inside in ((loop.inputs, inner.invars), (loop.outputs, inner.outvars))
    )
    return whole - carried, carried


def _rounds(params: dict[str, Any], same: int, carried: int, *arrays: jax.Array) -> list[jax.Array]:
    first, length = same + carried, params["length"]
    known, carry, stacks = arrays[:same], arrays[same:first], arrays[first:]
    rounds: list[Any] = [[] for _ in range(length)]
    for k in reversed(range(length)) if params["reverse"] else range(length):
        given = (jax.lax.index_in_dim(a, k, keepdims=False) for a in stacks)
        found = call(params["jaxpr"], *known, *carry, *given)
        carry, rounds[k] = tuple(found[:carried]), found[carried:]
    together = ([a.reshape(1, *a.shape) for a in some] for some in zip(*rounds, strict=True))
    return [*carry, *(jax.lax.concatenate(some, 0) for some in together)]


# --- products over concatenations ---------------------------------------------------------------


def operand_first(graph: Graph, levels: dict[Value, int]) -> Graph:
    """``W @ h`` becomes ``h @ W^T`` if no axis moves: every product has the batch first."""

    def swap(equation: Equation) -> Replacement | None:
        if equation.name != "dot_general":
            return None
        (left, right), ((lc, rc), (lb, rb)) = equation.inputs, equation.params["dimension_numbers"]
        weight_first = level_of(levels, left) <= CONSTANT < level_of(levels, right)
        if not weight_first or lb or right.aval.ndim != len(rc):
            return None
        return _with_numbers(equation, (right, left), ((rc, lc), (rb, lb)))

    return rewrite(graph, swap)


def split_products(graph: Graph, levels: dict[Value, int]) -> Graph:
    """A product over a concatenation of input and state becomes a sum over its pieces."""
    maker = producers(graph.equations)

    def pieces_of(atom: Atom, axis: int) -> list[tuple[Atom, int]]:
        """The pieces of a concatenation along ``axis``, nested ones too, each with its size."""
        found, todo = [], [atom]
        while todo:
            atom = todo.pop()
            equation = maker.get(atom) if not is_literal(atom) else None
            if (
                equation is None
                or equation.name != "concatenate"
                or equation.params["dimension"] != axis
            ):
                found.append((atom, atom.aval.shape[axis]))
            else:
                todo += reversed(equation.inputs)
        return found

    def split(equation: Equation) -> Replacement | None:
        for side, axis, other_axis in _contracted(equation):
            pieces = pieces_of(equation.inputs[side], axis)
            groups = [
                list(group)
                for _, group in groupby(pieces, lambda p: level_of(levels, p[0]) == STATE)
            ]
            if len(groups) > 1:
                function = _sum_of_products(equation, side, axis, other_axis, groups)
                inputs = [piece for group in groups for piece, _ in group] + [
                    equation.inputs[1 - side]
                ]
                return build(function, inputs, equation.source)
        return None

    return rewrite(graph, split)


def _contracted(equation: Equation) -> list[tuple[int, int, int]]:
    """(side, axis, axis of the other operand) of each contracted axis of an operand."""
    if equation.name == "dot_general":
        (lc, rc), _ = equation.params["dimension_numbers"]
        pairs = list(zip(lc, rc, strict=True))
        return [(0, a, b) for a, b in pairs] + [(1, b, a) for a, b in pairs]
    if equation.name == "conv_general_dilated":
        groups = equation.params["feature_group_count"], equation.params["batch_group_count"]
        numbers = equation.params["dimension_numbers"]
        return [(0, numbers.lhs_spec[1], numbers.rhs_spec[1])] if groups == (1, 1) else []
    return []


def _sum_of_products(
    equation: Equation, side: int, axis: int, other_axis: int, groups: list[list[tuple[Atom, int]]]
) -> Callable[..., jax.Array]:
    counts = [len(group) for group in groups]
    sizes = [sum(size for _, size in group) for group in groups]

    def products(*arrays: jax.Array) -> jax.Array:
        *pieces, other = arrays
        total: Any = None
        start = 0
        for count, size in zip(counts, sizes, strict=True):
            group, pieces = pieces[:count], pieces[count:]
            whole = group[0] if count == 1 else jax.lax.concatenate(group, axis)
            part = jax.lax.slice_in_dim(other, start, start + size, axis=other_axis)
            (product,) = equation.bind(*((whole, part) if side == 0 else (part, whole)))
            total, start = (product if total is None else total + product), start + size
        return total

    return products


# --- sums ---------------------------------------------------------------------------------------


def regroup_sums(graph: Graph, levels: dict[Value, int]) -> Graph:
    """In long sums, terms of parameters come first, then of the input, then of the state."""
    uses = users(graph.equations, graph.outputs)
    maker = {
        v: equation
        for equation in graph.equations
        for v in equation.outputs
        if equation.name == "add"
    }
    inner = set()  # sums that are one term of another sum, and of nothing else

    def is_one_term(atom: Atom) -> bool:
        """Whether a sum has one reader; ``a + a`` counts as two."""
        users = uses[atom]
        return len(users) == 1 and (
            users[0] is None or sum(v is atom for v in users[0].inputs) == 1
        )

    def terms(whole: Atom) -> list[Any]:
        found, todo = [], [whole]
        while todo:
            atom = todo.pop()
            equation = None if is_literal(atom) else maker.get(atom)
            same = equation is not None and (atom.aval.shape, atom.aval.dtype) == (
                whole.aval.shape,
                whole.aval.dtype,
            )
            if equation is None or not same or not (atom is whole or is_one_term(atom)):
                found.append(atom)
                continue
            if atom is not whole:
                inner.add(equation)
            todo += reversed(equation.inputs)
        return found

    replaced = {}
    for equation in reversed(graph.equations):
        if equation.name != "add" or equation in inner:
            continue
        (output,) = equation.outputs
        found = terms(output)
        by_level = sorted(found, key=lambda term: max(level_of(levels, term), CONSTANT))
        below = sum(level_of(levels, term) < STATE for term in found)
        if below >= 2 and below < len(found):
            replaced[equation] = by_level
    return rewrite(
        graph,
        lambda e: (
            None if e not in replaced else build(lambda *terms: _sum(terms), replaced[e], e.source)
        ),
    )


def _sum(terms: tuple[jax.Array, ...]) -> jax.Array:
    total = terms[0]
    for term in terms[1:]:
        total = (
            jax.lax.add(*jnp.broadcast_arrays(total, term))
            if total.shape != term.shape
            else total + term
        )
    return total


# --- products that share an operand -------------------------------------------------------------


def merge_products(graph: Graph, levels: dict[Value, int], fed_back: set[Equation]) -> Graph:
    """Products of one operand with several weights become slices of one product."""
    groups = defaultdict(list)
    for equation in graph.equations:
        key = _merge_key(equation, levels)
        if key is not None:
            groups[*key, equation in fed_back].append(equation)
    equations: list[Equation] = []
    instead: dict[Value, Atom] = {}
    merged: set[Equation] = set()
    for group in groups.values():
        if len(group) > 1:
            weights = [equation.inputs[1] for equation in group]
            more, outputs = build(_merged(group), [group[0].inputs[0], *weights], group[0].source)
            equations += more
            instead.update(zip((e.outputs[0] for e in group), outputs, strict=True))
            merged.update(group)
    if not merged:
        return graph
    equations += [equation for equation in graph.equations if equation not in merged]
    graph = substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)
    return Graph(graph.inputs, graph.outputs, tuple(toposort(graph.equations)))


def _merge_key(equation: Equation, levels: dict[Value, int]) -> Any:
    """Equal for products that can be one: the same operand with weights of one free axis each."""
    if equation.name != "dot_general":
        return None
    (operand, weight), ((oc, wc), (ob, _)) = equation.inputs, equation.params["dimension_numbers"]
    # Products of the input stay separate: they are hoisted.
    fits = level_of(levels, weight) <= CONSTANT and level_of(levels, operand) == STATE
    if not fits or ob or weight.aval.ndim != len(wc) + 1:
        return None
    options = {k: str(v) for k, v in equation.params.items() if k != "dimension_numbers"}
    return operand, tuple(oc), weight.aval.dtype, tuple(sorted(options.items()))


def _merged(group: list[Equation]) -> Callable[..., list[jax.Array]]:
    numbers = [equation.params["dimension_numbers"] for equation in group]
    (oc, wc), batch = numbers[0]
    free = next(axis for axis in range(len(wc) + 1) if axis not in wc)

    def products(operand: jax.Array, *weights: jax.Array) -> list[jax.Array]:
        aligned = []
        for weight, ((_, contracted), _) in zip(weights, numbers, strict=True):
            # Axis `wc[i]` of the result is axis `contracted[i]` of this weight.
            origin = dict(zip(wc, contracted, strict=True))
            origin[free] = next(axis for axis in range(weight.ndim) if axis not in contracted)
            order = [origin[axis] for axis in range(weight.ndim)]
            aligned.append(
                weight if order == list(range(weight.ndim)) else jax.lax.transpose(weight, order)
            )
        params = {**group[0].params, "dimension_numbers": ((oc, wc), batch)}
        whole = jax.lax.dot_general_p.bind(operand, jax.lax.concatenate(aligned, free), **params)
        sizes = [weight.shape[free] for weight in aligned]
        return list(jax.lax.split(whole, sizes, axis=whole.ndim - 1))

    return products


# --- slices -------------------------------------------------------------------------------------


def slices_first(graph: Graph, levels: dict[Value, int]) -> Graph:
    """Slices of a sum become sums of slices if a term needs only the input: it is hoisted."""
    maker = producers(graph.equations)
    uses = users(graph.equations, graph.outputs)

    def move(equation: Equation) -> Replacement | None:
        if not slices(equation):
            return None
        atom = equation.inputs[0]
        total = maker.get(atom)
        if total is None or total.name != "add" or level_of(levels, atom) != STATE:
            return None
        if not all(user and slices(user) for user in uses[atom]):
            return None
        terms = total.inputs
        if any(t.aval.shape != atom.aval.shape for t in terms) or all(
            level_of(levels, t) == STATE for t in terms
        ):
            return None

        def sums(a: Any, b: Any) -> list[Any]:
            return [x + y for x, y in zip(equation.bind(a), equation.bind(b), strict=True)]

        return build(sums, terms, equation.source)

    return dce(rewrite(graph, move))
