"""Legalization and planning of the native backend, as text: a function, and its equations or plan.

`graphs` explains the notation. Nothing is compiled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("llvmlite")

from graphs import aligned, legal, planned

from noria.backends.native.codegen.elementwise import EMITTERS
from noria.ir.primitives import COMBINE, ELEMENTWISE

Shapes = dict[str, tuple[int, ...]]
Function = Callable[..., Any]

# --- legalization -------------------------------------------------------------------------------

#: By name: a function, the shapes of its arguments, and its legal equations.
LEGAL: dict[str, tuple[Function, Shapes, str]] = {
    "a rule for derivatives is inlined": (
        lambda h: jax.nn.relu(h),
        {"h": (4,)},
        """
        a[4] = max(h, 0)
        return a
        """,
    ),
    "both branches are computed": (
        lambda h, x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, h),
        {"h": (4,), "x": ()},
        """
        a:bool = gt(x, 0)
        b:int32 = convert_element_type(a)
        c[4] = cos(h)
        d[4] = sin(h)
        e:bool = ge(b, 1)
        f[4] = select_n(e, c, d)
        return f
        """,
    ),
    "log2 is a multiple of log": (
        lambda h: jnp.log2(h),
        {"h": (4,)},
        """
        a[4] = log(h)
        b = log(2)
        c[4] = div(a, b)
        return c
        """,
    ),
    "padding is a concatenation": (
        lambda h: jnp.pad(h, (1, 2)),
        {"h": (4,)},
        """
        a = convert_element_type(0)
        b[1] = broadcast_in_dim(a)
        c[2] = broadcast_in_dim(a)
        d[7] = concatenate(b, h, c) axis 0
        return d
        """,
    ),
    "negative padding is a slice": (
        lambda h: jax.lax.pad(h, 0.0, [(-1, 1, 0)]),
        {"h": (4,)},
        """
        a[3] = slice(h) 1:4
        b[1] = broadcast_in_dim(0)
        c[1] = convert_element_type(b)
        d[4] = concatenate(a, c) axis 0
        return d
        """,
    ),
    "a matrix of the state times a vector: a sum over features": (
        lambda h, x: h @ x,
        {"h": (2, 3), "x": (3,)},
        """
        a[2,3] = broadcast_in_dim(x)
        b[2,3] = mul(h, a)
        c[2] = reduce_sum(b) axes 1
        return c
        """,
    ),
    "a vector times a matrix of the state: a sum of rows": (
        lambda h, x: x @ h,
        {"h": (2, 3), "x": (2,)},
        """
        a[2,3] = broadcast_in_dim(x)
        b[2,3] = mul(a, h)
        c[3] = reduce_sum(b) axes 0
        return c
        """,
    ),
    "a matrix of the state times a weight: a product for each row": (
        lambda h, W: h @ W,
        {"h": (2, 3), "W": (3, 4)},
        """
        a[6] = reshape(h)
        b[3] = slice(a) 0:3
        c[3] = slice(a) 3:6
        d[4] = dot_general(b, W) over 0.0
        e[4] = dot_general(c, W) over 0.0
        f[8] = concatenate(d, e) axis 0
        g[2,4] = reshape(f)
        return g
        """,
    ),
    "heads: a product with each part of a weight": (
        lambda h, W: jnp.einsum("hi,hij->hj", h, W),
        {"h": (2, 3), "W": (2, 3, 4)},
        """
        a[6] = reshape(h)
        b[3] = slice(a) 0:3
        c[3] = slice(a) 3:6
        d[24] = reshape(W)
        e[12] = slice(d) 0:12
        f[3,4] = reshape(e)
        g[12] = slice(d) 12:24
        i[3,4] = reshape(g)
        j[4] = dot_general(b, f) over 0.0
        k[4] = dot_general(c, i) over 0.0
        l[8] = concatenate(j, k) axis 0
        m[2,4] = reshape(l)
        return m
        """,
    ),
    "an outer product is an element-wise product": (
        lambda h, x: jnp.outer(h, x),
        {"h": (2,), "x": (3,)},
        """
        a[2,1] = broadcast_in_dim(h)
        b[1,3] = broadcast_in_dim(x)
        c[2,3] = broadcast_in_dim(a)
        d[2,3] = broadcast_in_dim(b)
        e[2,3] = mul(c, d)
        return e
        """,
    ),
    "a reduction of one axis stays": (
        lambda h: jnp.sum(h, 0),
        {"h": (2, 3)},
        """
        a[3] = reduce_sum(h) axes 0
        return a
        """,
    ),
    "a reduction of the last axis stays": (
        lambda h: jnp.max(h, 1),
        {"h": (2, 3)},
        """
        a[2] = reduce_max(h) axes 1
        return a
        """,
    ),
    "a transposition stays": (
        lambda h: h.T,
        {"h": (2, 2)},
        """
        a[2,2] = transpose(h) 1,0
        return a
        """,
    ),
    "a row added to a matrix is a broadcast": (
        lambda h, b: h + b,
        {"h": (2, 3), "b": (3,)},
        """
        a[1,3] = broadcast_in_dim(b)
        c[2,3] = broadcast_in_dim(a)
        d[2,3] = add(h, c)
        return d
        """,
    ),
    "truths are reduced as whole numbers": (
        lambda h: jnp.any(h > 0),
        {"h": (2,)},
        """
        a[2]:bool = gt(h, 0)
        b[2]:int32 = convert_element_type(a)
        c:int32 = reduce_max(b) axes 0
        d:bool = ne(c, 0)
        return d
        """,
    ),
    "a choice by a number is several choices": (
        lambda h: jax.lax.select_n(h.astype(jnp.int32), h, -h, h),
        {"h": (2,)},
        """
        a[2]:int32 = convert_element_type(h)
        b[2] = neg(h)
        c[2]:bool = ge(a, 1)
        d[2] = select_n(c, h, b)
        e[2]:bool = ge(a, 2)
        f[2] = select_n(e, d, h)
        return f
        """,
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legalization_gives_these_equations(name):
    function, shapes, expected = LEGAL[name]
    assert legal(function, **shapes) == aligned(expected)


# --- plans --------------------------------------------------------------------------------------

#: By name: a step, the operands of its accumulators, whether products prefer time blocks, the
#: shapes of its arguments, and its plan.
PLANS: dict[str, tuple[Function, Sequence[int], bool, Shapes, str]] = {
    "a step without products is one stage": (
        lambda h, x: jnp.tanh(h * x),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = mul(h, x)
        b[4] = tanh(a)
        stage of 4:
        store b in next0
        """,
    ),
    "a product and what follows it are one stage": (
        lambda h, x, U: jnp.tanh(h @ U + x),
        (),
        False,
        {"h": (4,), "x": (4,), "U": (4, 4)},
        """
        a[4] = dot_general(h, U) over 0.0
        b[4] = add(a, x)
        c[4] = tanh(b)
        stage of 4: a+0
        store c in next0
        """,
    ),
    "the operand of a second product is stored": (
        lambda h, U, V: jnp.tanh(jnp.tanh(h @ U) @ V),
        (),
        False,
        {"h": (4,), "U": (4, 4), "V": (4, 4)},
        """
        a[4] = dot_general(h, U) over 0.0
        b[4] = tanh(a)
        c[4] = dot_general(b, V) over 0.0
        d[4] = tanh(c)
        stage of 4: a+0
        store b in scratch0
        stage of 4: c+0
        store d in next0
        """,
    ),
    "gates are columns of one product": (
        lambda h, U: (lambda a: a[:4] * a[4:])(h @ U),
        (),
        False,
        {"h": (4,), "U": (4, 8)},
        """
        a[8] = dot_general(h, U) over 0.0
        b[4] = slice(a) 0:4
        c[4] = slice(a) 4:8
        d[4] = mul(b, c)
        stage of 4: a+0 a+4
        store d in next0
        """,
    ),
    "a sum over features is a barrier": (
        lambda h, x: h * jnp.sum(h * x),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = mul(h, x)
        b = reduce_sum(a) axes 0
        c[4] = mul(h, b)
        stage of 4:
        reduce b in scratch0
        stage of 4:
        store c in next0
        """,
    ),
    "a concatenation that one stage reads across its pieces is stored": (
        lambda h, x: jnp.tanh(jnp.concatenate([h[2:], x])[1:5]),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[2] = slice(h) 2:4
        b[6] = concatenate(a, x) axis 0
        c[4] = slice(b) 1:5
        d[4] = tanh(c)
        stage of 2:
        store a in scratch0
        stage of 4:
        store x in scratch0
        stage of 4:
        store d in next0
        """,
    ),
    "slow work that two stages need is stored": (
        lambda h, x: (lambda a: (a + x, a * jnp.sum(h * x)))(jnp.exp(h)),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = exp(h)
        b[4] = add(a, x)
        c[4] = mul(h, x)
        d = reduce_sum(c) axes 0
        e[4] = mul(a, d)
        stage of 4:
        store a in scratch1
        store b in next0
        reduce d in scratch0
        stage of 4:
        store e in emitted0
        """,
    ),
    "light work that two stages need is repeated": (
        lambda h, x: (lambda a: (a + x, a * jnp.sum(h * x)))(h - x),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = sub(h, x)
        b[4] = add(a, x)
        c[4] = mul(h, x)
        d = reduce_sum(c) axes 0
        e[4] = mul(a, d)
        stage of 4:
        store b in next0
        reduce d in scratch0
        stage of 4:
        store e in emitted0
        """,
    ),
    "states that change places are copied": (
        lambda h, h2: (h2, h),
        (),
        False,
        {"h": (4,), "h2": (4,)},
        """
        stage of 4:
        store h2 in next0
        store h in next1
        """,
    ),
    "a number is stored as such": (
        lambda h, x: (jnp.tanh(h + x), jnp.ones(4)),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = add(h, x)
        b[4] = tanh(a)
        c[4] = broadcast_in_dim(1)
        stage of 4:
        store b in next0
        store c in emitted0
        """,
    ),
    "an emitted state is stored in both places": (
        lambda h, x: (lambda a: (a, a))(jnp.tanh(h + x)),
        (),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = add(h, x)
        b[4] = tanh(a)
        stage of 4:
        store b in next0 emitted0
        """,
    ),
    "products of the input come before the time block": (
        lambda h, x, W: jnp.tanh(h + x @ W),
        (),
        True,
        {"h": (4,), "x": (3,), "W": (3, 4)},
        """
        b[4] = add(h, a)
        c[4] = tanh(b)
        before the block: a[4] = dot_general(x, W) over 0.0
        stage of 4:
        store c in next0
        """,
    ),
    "products that are only emitted come after the time block": (
        lambda h, x, W: (jnp.tanh(h + x), jnp.tanh(h) @ W),
        (),
        True,
        {"h": (4,), "x": (4,), "W": (4, 3)},
        """
        a[4] = add(h, x)
        b[4] = tanh(a)
        c[4] = tanh(h)
        stage of 4:
        store b in next0
        store c in time_block0
        after the block: d[3] = dot_general(c, W) over 0.0
        """,
    ),
    "a product of the state stays in the step": (
        lambda h, x, U: jnp.tanh(h @ U + x),
        (),
        True,
        {"h": (4,), "x": (4,), "U": (4, 4)},
        """
        a[4] = dot_general(h, U) over 0.0
        b[4] = add(a, x)
        c[4] = tanh(b)
        stage of 4: a+0
        store c in next0
        """,
    ),
    "outer products and sums are accumulated": (
        lambda h, x: (h * x, jnp.sin(h), x, jnp.cos(h)),
        (2, 1),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = mul(h, x)
        b[4] = sin(h)
        c[4] = cos(h)
        stage of 4:
        store a in next0
        store b in operand0
        store c in operand2
        store x in operand1
        accumulator 0: b x x at 0
        accumulator 1: c at 0
        """,
    ),
    "pieces of a concatenation are accumulated one by one": (
        lambda h, x: (h * x, jnp.sin(h), jnp.concatenate([x, h])),
        (2,),
        False,
        {"h": (4,), "x": (4,)},
        """
        a[4] = mul(h, x)
        b[4] = sin(h)
        c[8] = concatenate(x, h) axis 0
        stage of 4:
        store a in next0
        store b in operand0
        store x in operand1
        store h in operand2
        accumulator 0: b x x at 0
        accumulator 0: b x h at 4
        """,
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_step_has_this_plan(name):
    step, accumulators, prefers_block, shapes, expected = PLANS[name]
    assert planned(step, accumulators, prefers_block, **shapes) == aligned(expected)


def test_each_elementwise_primitive_of_the_table_has_an_emitter_and_the_reverse():
    assert set(EMITTERS) == set(ELEMENTWISE)
    assert {*COMBINE.values()} <= set(EMITTERS)
