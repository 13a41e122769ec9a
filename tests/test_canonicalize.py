"""Each rule of canonicalization, and each pass over graphs: text before and after.

`graphs` explains the notation. A rule that does not apply leaves the graph as it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from graphs import aligned, traced
from models import assert_close, random

from noria.compiler import canonicalize, contractions
from noria.ir import passes
from noria.ir.graph import Graph
from noria.ir.passes import backward_slice, dependence

Rule = Callable[[Graph, dict[Any, int]], Graph]


def levelled(rule: Callable[..., Graph]) -> Rule:
    """A rule that needs to know what each value depends on."""
    return lambda graph, levels: rule(graph, dependence(graph.equations, levels))


def merged(graph: Graph, levels: dict[Any, int]) -> Graph:
    """The first output is the next state."""
    fed_back = backward_slice(graph.equations, graph.outputs[:1])
    return canonicalize.merge_products(graph, dependence(graph.equations, levels), fed_back)


def product(row: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dot_general(row, weight, (((0,), (axis,)), ((), ())))


RULES: dict[str, Rule] = {
    "unroll": lambda graph, _: canonicalize.unroll(graph),
    "operand_first": levelled(canonicalize.operand_first),
    "split_products": levelled(canonicalize.split_products),
    "regroup_sums": levelled(canonicalize.regroup_sums),
    "merge_products": merged,
    "slices_first": levelled(canonicalize.slices_first),
    "without_transposes": lambda graph, _: canonicalize.without_transposes(graph),
    "dce": lambda graph, _: passes.dce(Graph(graph.inputs, graph.outputs[:1], graph.equations)),
    "cse": lambda graph, _: passes.cse(graph, frozenset({"tanh", "add"})),
    "sums_to_products": levelled(contractions.sums_to_products),
    "outer_products": levelled(contractions.outer_products),
    "normal_products": levelled(contractions.normal_products),
    "canonicalize": lambda graph, levels: canonicalize.canonicalize(graph, levels, 1),
}


#: By name: the rule, a function, the shapes of its arguments, and the text before and after.
CASES: dict[str, tuple[str, Callable[..., Any], dict[str, Any], str, str | None]] = {
    "a short inner scan is unrolled": (
        "unroll",
        lambda h, U: jax.lax.scan(lambda c, w: (jnp.tanh(w * c), None), h, U)[0],
        {"h": (4,), "U": (2, 4)},
        """
        a[4] = scan(h, U) length 2
        return a
        """,
        """
        b[1,4] = slice(U) 0:1, 0:4
        c[4] = squeeze(b)
        d[4] = mul(c, h)
        e[4] = tanh(d)
        f[1,4] = slice(U) 1:2, 0:4
        g[4] = squeeze(f)
        i[4] = mul(g, e)
        j[4] = tanh(i)
        return j
        """,
    ),
    "a long inner scan stays": (
        "unroll",
        lambda h, U: jax.lax.fori_loop(0, 300, lambda _, c: jnp.tanh(U * c), h),
        {"h": (4,), "U": (4,)},
        """
        a:int64, b[4] = scan(U, 0, h) length 300
        return b
        """,
        None,
    ),
    "a reversed scan is unrolled from its end": (
        "unroll",
        lambda h, U: jax.lax.scan(lambda c, w: (w * c, c), h, U, reverse=True),
        {"h": (4,), "U": (2, 4)},
        """
        a[4], b[2,4] = scan(h, U) length 2
        return a, b
        """,
        """
        c[1,4] = slice(U) 1:2, 0:4
        d[4] = squeeze(c)
        e[4] = mul(d, h)
        f[1,4] = slice(U) 0:1, 0:4
        g[4] = squeeze(f)
        i[4] = mul(g, e)
        j[1,4] = reshape(e)
        k[1,4] = reshape(h)
        l[2,4] = concatenate(j, k) axis 0
        return i, l
        """,
    ),
    "a weight times a state": (
        "operand_first",
        lambda h, U: U @ h,
        {"h": (4,), "U": (3, 4)},
        """
        a[3] = dot_general(U, h) over 1.0
        return a
        """,
        """
        b[3] = dot_general(h, U) over 0.1
        return b
        """,
    ),
    "a state times a weight": (
        "operand_first",
        lambda h, U: h @ U,
        {"h": (4,), "U": (4, 3)},
        """
        a[3] = dot_general(h, U) over 0.0
        return a
        """,
        None,
    ),
    "a product that would move an axis": (
        "operand_first",
        lambda h, U: jnp.einsum("ij,kj->ik", U, h),
        {"h": (2, 4), "U": (3, 4)},
        """
        a[3,2] = dot_general(U, h) over 1.1
        return a
        """,
        None,
    ),
    "input and state": (
        "split_products",
        lambda h, x, M: M @ jnp.concatenate([x, h]),
        {"h": (4,), "x": (3,), "M": (5, 7)},
        """
        a[7] = concatenate(x, h) axis 0
        b[5] = dot_general(M, a) over 1.0
        return b
        """,
        """
        a[7] = concatenate(x, h) axis 0
        c[5,3] = slice(M) 0:5, 0:3
        d[5] = dot_general(c, x) over 1.0
        e[5,4] = slice(M) 0:5, 3:7
        f[5] = dot_general(e, h) over 1.0
        g[5] = add(d, f)
        return g
        """,
    ),
    "neighbours of one level stay together": (
        "split_products",
        lambda h, x, b, M: M @ jnp.concatenate([x, b, h]),
        {"h": (4,), "x": (2,), "b": (1,), "M": (5, 7)},
        """
        a[7] = concatenate(x, b, h) axis 0
        c[5] = dot_general(M, a) over 1.0
        return c
        """,
        """
        a[7] = concatenate(x, b, h) axis 0
        d[3] = concatenate(x, b) axis 0
        e[5,3] = slice(M) 0:5, 0:3
        f[5] = dot_general(e, d) over 1.0
        g[5,4] = slice(M) 0:5, 3:7
        i[5] = dot_general(g, h) over 1.0
        j[5] = add(f, i)
        return j
        """,
    ),
    "states only": (
        "split_products",
        lambda h, h2, M: M @ jnp.concatenate([h, h2]),
        {"h": (4,), "h2": (3,), "M": (5, 7)},
        """
        a[7] = concatenate(h, h2) axis 0
        b[5] = dot_general(M, a) over 1.0
        return b
        """,
        None,
    ),
    "a bias joins the input": (
        "regroup_sums",
        lambda h, x, b: (h + x) + b,
        {"h": (4,), "x": (4,), "b": (4,)},
        """
        a[4] = add(h, x)
        c[4] = add(a, b)
        return c
        """,
        """
        a[4] = add(h, x)
        d[4] = add(b, x)
        e[4] = add(d, h)
        return e
        """,
    ),
    "parameters first, then the input": (
        "regroup_sums",
        lambda h, x, b, d: ((b + h) + x) + d,
        {"h": (4,), "x": (4,), "b": (4,), "d": (4,)},
        """
        a[4] = add(b, h)
        c[4] = add(a, x)
        e[4] = add(c, d)
        return e
        """,
        """
        a[4] = add(b, h)
        c[4] = add(a, x)
        f[4] = add(b, d)
        g[4] = add(f, x)
        i[4] = add(g, h)
        return i
        """,
    ),
    "a sum that is read twice": (
        "regroup_sums",
        lambda h, x, b: (lambda s: (s + b) * s)(h + x),
        {"h": (4,), "x": (4,), "b": (4,)},
        """
        a[4] = add(h, x)
        c[4] = add(a, b)
        d[4] = mul(c, a)
        return d
        """,
        None,
    ),
    "a sum of states": (
        "regroup_sums",
        lambda h, h2, b: (h + b) + h2,
        {"h": (4,), "h2": (4,), "b": (4,)},
        """
        a[4] = add(h, b)
        c[4] = add(a, h2)
        return c
        """,
        None,
    ),
    "two weights of one state": (
        "merge_products",
        lambda h, U, V: (h @ U) * (h @ V),
        {"h": (4,), "U": (4, 3), "V": (4, 3)},
        """
        a[3] = dot_general(h, U) over 0.0
        b[3] = dot_general(h, V) over 0.0
        c[3] = mul(a, b)
        return c
        """,
        """
        d[4,6] = concatenate(U, V) axis 1
        e[6] = dot_general(h, d) over 0.0
        f[3], g[3] = split(e) sizes 3,3
        c[3] = mul(f, g)
        return c
        """,
    ),
    "a transposed weight is aligned": (
        "merge_products",
        lambda h, U, V: product(h, U, 0) * product(h, V, 1),
        {"h": (4,), "U": (4, 3), "V": (3, 4)},
        """
        a[3] = dot_general(h, U) over 0.0
        b[3] = dot_general(h, V) over 0.1
        c[3] = mul(a, b)
        return c
        """,
        """
        d[4,3] = transpose(V) 1,0
        e[4,6] = concatenate(U, d) axis 1
        f[6] = dot_general(h, e) over 0.0
        g[3], i[3] = split(f) sizes 3,3
        c[3] = mul(g, i)
        return c
        """,
    ),
    "products of the input": (
        "merge_products",
        lambda x, U, V: (x @ U) * (x @ V),
        {"x": (4,), "U": (4, 3), "V": (4, 3)},
        """
        a[3] = dot_general(x, U) over 0.0
        b[3] = dot_general(x, V) over 0.0
        c[3] = mul(a, b)
        return c
        """,
        None,
    ),
    "a product for the output": (
        "merge_products",
        lambda h, U, V: (h @ U, h @ V),
        {"h": (4,), "U": (4, 4), "V": (4, 4)},
        """
        a[4] = dot_general(h, U) over 0.0
        b[4] = dot_general(h, V) over 0.0
        return a, b
        """,
        None,
    ),
    "slices of a sum with the input": (
        "slices_first",
        lambda h, x: jnp.split(h + x, 2),
        {"h": (4,), "x": (4,)},
        """
        a[4] = add(h, x)
        b[2], c[2] = split(a) sizes 2,2
        return b, c
        """,
        """
        d[2], e[2] = split(h) sizes 2,2
        f[2], g[2] = split(x) sizes 2,2
        i[2] = add(d, f)
        j[2] = add(e, g)
        return i, j
        """,
    ),
    "slices of a sum of states": (
        "slices_first",
        lambda h, h2: jnp.split(h + h2, 2),
        {"h": (4,), "h2": (4,)},
        """
        a[4] = add(h, h2)
        b[2], c[2] = split(a) sizes 2,2
        return b, c
        """,
        None,
    ),
    "a sum that is also read whole": (
        "slices_first",
        lambda h, x: (lambda s: (s[:2], s[2:], jnp.tanh(s)))(h + x),
        {"h": (4,), "x": (4,)},
        """
        a[4] = add(h, x)
        b[2] = slice(a) 0:2
        c[2] = slice(a) 2:4
        d[4] = tanh(a)
        return b, c, d
        """,
        None,
    ),
    "a transposed weight": (
        "without_transposes",
        lambda h, U: h @ U.T,
        {"h": (4,), "U": (3, 4)},
        """
        a[4,3] = transpose(U) 1,0
        b[3] = dot_general(h, a) over 0.0
        return b
        """,
        """
        c[3] = dot_general(h, U) over 0.1
        return c
        """,
    ),
    "a transposed weight that is read twice": (
        "without_transposes",
        lambda h, U: (h @ U.T, U.T),
        {"h": (4,), "U": (3, 4)},
        """
        a[4,3] = transpose(U) 1,0
        b[3] = dot_general(h, a) over 0.0
        c[4,3] = transpose(U) 1,0
        return b, c
        """,
        """
        d[3] = dot_general(h, U) over 0.1
        c[4,3] = transpose(U) 1,0
        return d, c
        """,
    ),
    "a second output that nobody wants": (
        "dce",
        lambda h, x: (jnp.tanh(h), jnp.sin(x) + h),
        {"h": (4,), "x": (4,)},
        """
        a[4] = tanh(h)
        b[4] = sin(x)
        c[4] = add(b, h)
        return a, c
        """,
        """
        a[4] = tanh(h)
        return a
        """,
    ),
    "equal equations": (
        "cse",
        lambda h: jnp.tanh(h) + jnp.tanh(h),
        {"h": (4,)},
        """
        a[4] = tanh(h)
        b[4] = tanh(h)
        c[4] = add(a, b)
        return c
        """,
        """
        a[4] = tanh(h)
        c[4] = add(a, a)
        return c
        """,
    ),
    "equal equations of equal equations": (
        "cse",
        lambda h, x: jnp.sin(jnp.tanh(h) + x) * jnp.cos(jnp.tanh(h) + x),
        {"h": (4,), "x": (4,)},
        """
        a[4] = tanh(h)
        b[4] = add(a, x)
        c[4] = sin(b)
        d[4] = tanh(h)
        e[4] = add(d, x)
        f[4] = cos(e)
        g[4] = mul(c, f)
        return g
        """,
        """
        a[4] = tanh(h)
        b[4] = add(a, x)
        c[4] = sin(b)
        f[4] = cos(b)
        g[4] = mul(c, f)
        return g
        """,
    ),
    "equal equations of another kind": (
        "cse",
        lambda h: jnp.sin(h) + jnp.sin(h),
        {"h": (4,)},
        """
        a[4] = sin(h)
        b[4] = sin(h)
        c[4] = add(a, b)
        return c
        """,
        None,
    ),
    "a sum of rows, each times a number, is a product": (
        "sums_to_products",
        lambda h, x: (x[:, None] * h).sum(0),
        {"h": (3, 4), "x": (3,)},
        """
        a[3,1] = broadcast_in_dim(x)
        b[3,4] = mul(a, h)
        c[4] = reduce_sum(b) axes 0
        return c
        """,
        """
        d[4] = dot_general(x, h) over 0.0
        return d
        """,
    ),
    "a sum of numbers times each row is a product": (
        "sums_to_products",
        lambda h, x: (h * x).sum(1),
        {"h": (3, 4), "x": (4,)},
        """
        a[1,4] = broadcast_in_dim(x)
        b[3,4] = mul(h, a)
        c[3] = reduce_sum(b) axes 1
        return c
        """,
        """
        d[3] = dot_general(x, h) over 0.1
        return d
        """,
    ),
    "the same for each head": (
        "sums_to_products",
        lambda h, x: (x[:, :, None] * h).sum(1),
        {"h": (2, 3, 4), "x": (2, 3)},
        """
        a[2,3,1] = broadcast_in_dim(x)
        b[2,3,4] = mul(a, h)
        c[2,4] = reduce_sum(b) axes 1
        return c
        """,
        """
        d[2,4] = dot_general(x, h) over 1.1 batch 0.0
        return d
        """,
    ),
    "a sum of products of equal shapes stays": (
        "sums_to_products",
        lambda h, x: (h * x).sum(1),
        {"h": (3, 4), "x": (3, 4)},
        """
        a[3,4] = mul(h, x)
        b[3] = reduce_sum(a) axes 1
        return b
        """,
        None,
    ),
    "a product that is read twice is made": (
        "sums_to_products",
        lambda h, x: (lambda a: (a.sum(1), a))(h * x),
        {"h": (3, 4), "x": (4,)},
        """
        a[1,4] = broadcast_in_dim(x)
        b[3,4] = mul(h, a)
        c[3] = reduce_sum(b) axes 1
        return c, b
        """,
        None,
    ),
    "an outer product": (
        "outer_products",
        lambda h, x: jnp.einsum("i,j->ij", x, h),
        {"h": (4,), "x": (3,)},
        """
        a[3,4] = dot_general(x, h) outer
        return a
        """,
        """
        b[3,4] = broadcast_in_dim(x)
        c[3,4] = broadcast_in_dim(h)
        d[3,4] = mul(b, c)
        return d
        """,
    ),
    "the transpose of an outer product for each head": (
        "outer_products",
        lambda h, x: jnp.einsum("hi,hj->hij", x, h).swapaxes(1, 2),
        {"h": (2, 4), "x": (2, 3)},
        """
        a[2,3,4] = dot_general(x, h) outer batch 0.0
        b[2,4,3] = transpose(a) 0,2,1
        return b
        """,
        """
        c[2,4,3] = broadcast_in_dim(x)
        d[2,4,3] = broadcast_in_dim(h)
        e[2,4,3] = mul(c, d)
        return e
        """,
    ),
    "gates and heads in one product": (
        "normal_products",
        lambda h, U: jnp.einsum("ghij,hj->ghi", U, h),
        {"h": (2, 4), "U": (3, 2, 5, 4)},
        """
        a[2,3,5] = dot_general(h, U) over 1.3 batch 0.1
        b[3,2,5] = transpose(a) 1,0,2
        return b
        """,
        """
        c[2,3,5,4] = transpose(U) 1,0,2,3
        d[2,15,4] = reshape(c)
        e[2,15] = dot_general(h, d) over 1.2 batch 0.0
        f[2,3,5] = reshape(e)
        b[3,2,5] = transpose(f) 1,0,2
        return b
        """,
    ),
    "stacked gates": (
        "normal_products",
        lambda h, U: jnp.einsum("gij,j->gi", U, h),
        {"h": (4,), "U": (3, 5, 4)},
        """
        a[3,5] = dot_general(U, h) over 2.0
        return a
        """,
        """
        b[15,4] = reshape(U)
        c[15] = dot_general(h, b) over 0.1
        d[3,5] = reshape(c)
        return d
        """,
    ),
    "two axes of depth": (
        "normal_products",
        lambda h, U: jnp.einsum("iab,ab->i", U, h),
        {"h": (2, 4), "U": (5, 2, 4)},
        """
        a[5] = dot_general(U, h) over 1.0,2.1
        return a
        """,
        """
        b[8] = reshape(h)
        c[5,8] = reshape(U)
        d[5] = dot_general(b, c) over 0.1
        return d
        """,
    ),
    "the vector comes first": (
        "normal_products",
        lambda h, x: jnp.einsum("hij,hj->hi", h, x),
        {"h": (2, 3, 4), "x": (2, 4)},
        """
        a[2,3] = dot_general(h, x) over 2.1 batch 0.0
        return a
        """,
        """
        b[2,3] = dot_general(x, h) over 1.2 batch 0.0
        return b
        """,
    ),
    "a matrix of one column is a vector": (
        "normal_products",
        lambda h, x: h @ x[:, :, None],
        {"h": (2, 3, 4), "x": (2, 4)},
        """
        a[2,4,1] = broadcast_in_dim(x)
        b[2,3,1] = dot_general(h, a) over 2.1 batch 0.0
        return b
        """,
        """
        a[2,4,1] = broadcast_in_dim(x)
        c[2,4] = reshape(a)
        d[2,3] = dot_general(c, h) over 1.2 batch 0.0
        e[2,3,1] = reshape(d)
        return e
        """,
    ),
    "a transposed matrix is read over its other axis": (
        "normal_products",
        lambda h, x: jnp.einsum("hi,hij->hj", x, h.swapaxes(1, 2)),
        {"h": (2, 3, 4), "x": (2, 4)},
        """
        a[2,4,3] = transpose(h) 0,2,1
        b[2,3] = dot_general(x, a) over 1.1 batch 0.0
        return b
        """,
        """
        c[2,3] = dot_general(x, h) over 1.2 batch 0.0
        return c
        """,
    ),
    "one head has no axis": (
        "normal_products",
        lambda h, x: jnp.einsum("hi,hij->hj", x, h),
        {"h": (1, 3, 4), "x": (1, 3)},
        """
        a[1,4] = dot_general(x, h) over 1.1 batch 0.0
        return a
        """,
        """
        b[3] = reshape(x)
        c[3,4] = reshape(h)
        d[4] = dot_general(b, c) over 0.0
        e[1,4] = reshape(d)
        return e
        """,
    ),
    "heads in two axes": (
        "normal_products",
        lambda h, x: jnp.einsum("abi,abij->abj", x, h),
        {"h": (2, 3, 4, 5), "x": (2, 3, 4)},
        """
        a[2,3,5] = dot_general(x, h) over 2.2 batch 0.0 batch 1.1
        return a
        """,
        """
        b[6,4] = reshape(x)
        c[6,4,5] = reshape(h)
        d[6,5] = dot_general(b, c) over 1.1 batch 0.0
        e[2,3,5] = reshape(d)
        return e
        """,
    ),
    "an outer product with a parameter stays": (
        "outer_products",
        lambda h, b: jnp.einsum("i,j->ij", b, h),
        {"h": (4,), "b": (3,)},
        """
        a[3,4] = dot_general(b, h) outer
        return a
        """,
        None,
    ),
    "a product that would move a state stays": (
        "normal_products",
        lambda h, x: jnp.einsum("ia,iaj->aj", x, h),
        {"h": (3, 2, 4), "x": (3, 2)},
        """
        a[2,4] = dot_general(x, h) over 0.0 batch 1.1
        return a
        """,
        None,
    ),
    "a step of an RNN, by all rules": (
        "canonicalize",
        lambda h, x, U, W, b: jnp.tanh(U @ h + W @ x + b),
        {"h": (4,), "x": (3,), "U": (4, 4), "W": (4, 3), "b": (4,)},
        """
        a[4] = dot_general(U, h) over 1.0
        c[4] = dot_general(W, x) over 1.0
        d[4] = add(a, c)
        e[4] = add(d, b)
        f[4] = tanh(e)
        return f
        """,
        """
        g[4] = dot_general(h, U) over 0.1
        i[4] = dot_general(x, W) over 0.1
        j[4] = add(b, i)
        k[4] = add(j, g)
        f[4] = tanh(k)
        return f
        """,
    ),
    "two gates of one concatenation, by all rules": (
        "canonicalize",
        lambda h, x, U, V: (
            jax.nn.sigmoid(U @ jnp.concatenate([x, h])) * jnp.tanh(V @ jnp.concatenate([x, h]))
        ),
        {"h": (4,), "x": (3,), "U": (4, 7), "V": (4, 7)},
        """
        a[7] = concatenate(x, h) axis 0
        b[4] = dot_general(U, a) over 1.0
        c[4] = logistic(b)
        d[7] = concatenate(x, h) axis 0
        e[4] = dot_general(V, d) over 1.0
        f[4] = tanh(e)
        g[4] = mul(c, f)
        return g
        """,
        """
        i[4,4] = slice(U) 0:4, 3:7
        j[4,4] = slice(V) 0:4, 3:7
        k[8,4] = concatenate(i, j) axis 0
        l[8] = dot_general(h, k) over 0.1
        m[4], n[4] = split(l) sizes 4,4
        o[4,3] = slice(U) 0:4, 0:3
        p[4] = dot_general(x, o) over 0.1
        q[4] = add(p, m)
        c[4] = logistic(q)
        r[4,3] = slice(V) 0:4, 0:3
        s[4] = dot_general(x, r) over 0.1
        t[4] = add(s, n)
        f[4] = tanh(t)
        g[4] = mul(c, f)
        return g
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_turns_this_graph_into_that(name):
    """``None`` where the rule does not apply."""
    rule, function, shapes, before, after = CASES[name]
    graph, names, levels = traced(function, **shapes)
    assert names.graph(graph) == aligned(before)
    assert names.graph(RULES[rule](graph, levels)) == aligned(before if after is None else after)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "_products" in case[0]])
def test_a_rule_for_products_keeps_the_numbers(name):
    rule, function, shapes, *_ = CASES[name]
    graph, _, levels = traced(function, **shapes)
    arrays = [random(n, *v.aval.shape) for n, v in enumerate(graph.inputs)]
    assert_close(RULES[rule](graph, levels)(arrays), graph(arrays), 1e-12)


def test_each_rule_has_a_case_in_which_it_applies():
    assert {rule for rule, *_, after in CASES.values() if after is not None} == {*RULES}
