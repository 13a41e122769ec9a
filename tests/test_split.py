"""The minimum cuts of a step, as text: what enters the loop, what leaves it, what it saves.

`graphs` explains the notation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from graphs import aligned, split_text, traced_step

from noria.compiler.split import hoist_slices, split
from noria.compiler.vjp import differentiate
from noria.ir.passes import dependence

Step = Callable[..., Any]

# --- the parts of a step ------------------------------------------------------------------------

#: By name: a step, its emission, shapes, whether products of the input are hoisted, the parts.
PARTS: dict[str, tuple[Step, Step | None, dict[str, Any], bool, str]] = {
    "an RNN: W x + b is hoisted whole": (
        lambda h, x, W, U, b: jnp.tanh(W @ x + U @ h + b),
        None,
        {"W": (4, 3), "U": (4, 4), "b": (4,)},
        True,
        """
        prologue:
        a[4] = dot_general(x, W) over 0.1
        c[4] = add(b, a)
        return c
        loop:
        d[4] = dot_general(h, U) over 0.1
        e[4] = add(c, d)
        f[4] = tanh(e)
        return f, f
        epilogue:
        g[4] = copy(f)
        return g
        """,
    ),
    "the bias may stand on either side": (
        lambda h, x, W, U, b: jnp.tanh((U @ h + b) + W @ x),
        None,
        {"W": (4, 3), "U": (4, 4), "b": (4,)},
        True,
        """
        prologue:
        a[4] = dot_general(x, W) over 0.1
        c[4] = add(b, a)
        return c
        loop:
        d[4] = dot_general(h, U) over 0.1
        e[4] = add(c, d)
        f[4] = tanh(e)
        return f, f
        epilogue:
        g[4] = copy(f)
        return g
        """,
    ),
    "a product that stays in the loop takes its bias along": (
        lambda h, x, W, U, b: jnp.tanh(W @ x + U @ h + b),
        None,
        {"W": (4, 3), "U": (4, 4), "b": (4,)},
        False,
        """
        loop:
        a[4] = dot_general(x, W) over 0.1
        c[4] = dot_general(h, U) over 0.1
        d[4] = add(b, a)
        e[4] = add(d, c)
        f[4] = tanh(e)
        return f, f
        epilogue:
        g[4] = copy(f)
        return g
        """,
    ),
    "light work on the input that makes it larger stays in the loop": (
        lambda h, x: jnp.tanh(h + jnp.concatenate([x, jnp.sin(x)])),
        None,
        {"h": (4,), "x": (2,)},
        True,
        """
        loop:
        a[2] = sin(x)
        b[4] = concatenate(x, a) axis 0
        c[4] = add(h, b)
        d[4] = tanh(c)
        return d, d
        epilogue:
        e[4] = copy(d)
        return e
        """,
    ),
    "light work on the input that makes it smaller is hoisted": (
        lambda h, x: jnp.tanh(h * jnp.sum(jnp.sin(x))),
        None,
        {"h": (4,), "x": (3,)},
        True,
        """
        prologue:
        a[3] = sin(x)
        b = reduce_sum(a) axes 0
        return b
        loop:
        c[4] = mul(h, b)
        d[4] = tanh(c)
        return d, d
        epilogue:
        e[4] = copy(d)
        return e
        """,
    ),
    "work on parameters is done once": (
        lambda h, x, V: jnp.tanh((V * V) @ h + x),
        None,
        {"h": (4,), "x": (4,), "V": (4, 4)},
        True,
        """
        invariant:
        a[4,4] = mul(V, V)
        return a
        loop:
        b[4] = dot_general(h, a) over 0.1
        c[4] = add(b, x)
        d[4] = tanh(c)
        return d, d
        epilogue:
        e[4] = copy(d)
        return e
        """,
    ),
    "a product for the output is done after the loop": (
        lambda h, x, U, **_: jnp.tanh(U @ h + x),
        lambda h, x, C, D, **_: C @ h + D @ x,
        {"h": (4,), "x": (4,), "U": (4, 4), "C": (2, 4), "D": (2, 4)},
        True,
        """
        loop:
        a[4] = dot_general(h, U) over 0.1
        b[4] = add(a, x)
        c[4] = tanh(b)
        return c, c
        epilogue:
        d[2] = dot_general(c, C) over 0.1
        e[2] = dot_general(x, D) over 0.1
        f[2] = add(d, e)
        return f
        """,
    ),
    "light work for the output leaves the loop where it is smallest": (
        lambda h, x: jnp.tanh(h + x),
        lambda h, x: jnp.sum(jnp.exp(h)),
        {"h": (4,), "x": (4,)},
        True,
        """
        loop:
        a[4] = add(h, x)
        b[4] = tanh(a)
        c[4] = exp(b)
        d = reduce_sum(c) axes 0
        return b, d
        epilogue:
        return d
        """,
    ),
    "a product without a parameter stays where the loop emits the fewest bytes": (
        lambda h, x, W, V: 0.5 * h + jnp.outer(x, W @ x),
        lambda h, x, W, V: V @ (x @ h),
        {"h": (3, 3), "W": (3, 3), "V": (5, 3)},
        True,
        """
        prologue:
        a[3] = dot_general(x, W) over 0.1
        b[1,3] = broadcast_in_dim(a)
        return b
        loop:
        c[3,3] = mul(0.5, h)
        d[3,1] = broadcast_in_dim(x)
        e[3,3] = mul(d, b)
        f[3,3] = add(c, e)
        g[3] = dot_general(x, f) over 0.0
        return f, g
        epilogue:
        i[5] = dot_general(g, V) over 0.1
        return i
        """,
    ),
    "a product without a parameter leaves the loop if it is larger": (
        lambda h, x: jnp.tanh(h + x),
        lambda h, x: h.T @ h,
        {"h": (2, 5), "x": (2, 5)},
        True,
        """
        loop:
        a[2,5] = add(h, x)
        b[2,5] = tanh(a)
        return b, b
        epilogue:
        c[5,2] = transpose(b) 1,0
        d[5,5] = dot_general(c, b) over 1.0
        return d
        """,
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_step_is_cut_into_these_parts(name):
    step, read, shapes, hoists, expected = PARTS[name]
    traced, names = traced_step(step, read=read, **shapes)
    assert split_text(names, split(traced, lambda product: hoists)) == aligned(expected)


def test_slices_that_the_loop_takes_are_hoisted_one_by_one():
    """A slice of a product becomes a product with a slice of the weight."""
    traced, names = traced_step(
        lambda h, x, W: (lambda a: jnp.tanh(a[:2] + h) * a[2:])(W @ x), h=(2,), W=(4, 3)
    )
    parts = split(traced)
    before, loop = hoist_slices(parts.prologue, parts.loop, parts.parameters)
    assert names.graph(before) == aligned(
        """
        a[2,3] = slice(W) 0:2, 0:3
        b[2] = dot_general(x, a) over 0.1
        c[2,3] = slice(W) 2:4, 0:3
        d[2] = dot_general(x, c) over 0.1
        return b, d
        """
    )
    assert names.graph(loop) == aligned(
        """
        e[2] = add(b, h)
        f[2] = tanh(e)
        g[2] = mul(f, d)
        return g, g
        """
    )


# --- residuals ----------------------------------------------------------------------------------

#: Newer versions of JAX have a primitive for the derivative of tanh from its result `t`; older ones
#: add `1 - t` times the cotangent to that times `t`. The primitive alone can be saved as it is.
ONE_MINUS_SQUARE = "one_minus_square" in str(jax.make_jaxpr(jax.grad(jnp.tanh))(0.0))

#: By name: a step, shapes, what is saved, and what the reverse loop computes again from that.
#: Slow work costs three quarters of its result: `exp` of five copies of a saved value is repeated,
#: since 1/5 + 3/4 < 1; of three copies it is saved, since 1/3 + 3/4 > 1.
RESIDUALS: dict[str, tuple[Step, dict[str, Any], str, str]] = {
    "tanh is saved, its derivative is light work": (
        lambda h, x, U: jnp.tanh(U @ h + x),
        {"x": (4,), "U": (4, 4)},
        "h[4] [4]",
        "" if ONE_MINUS_SQUARE else "sub",
    ),
    "light work after tanh is repeated": (
        lambda h, x, U: jnp.tanh(U @ h + x) ** 2,
        {"x": (4,), "U": (4, 4)},
        "h[4] [4]",
        "one_minus_square mul" if ONE_MINUS_SQUARE else "sub mul",
    ),
    "the derivative of sin is saved": (
        lambda h, x, U: jnp.sin(U @ h + x),
        {"x": (4,), "U": (4, 4)},
        "h[4] [4]",
        "",
    ),
    "exp of five copies is repeated": (
        lambda h, x, A: 0.1 * jnp.exp(jnp.repeat(A @ h, 5)),
        {"x": (1,), "h": (10,), "A": (2, 10)},
        "h[10] [2]",
        "broadcast_in_dim reshape exp",
    ),
    "exp of three copies is saved": (
        lambda h, x, A: 0.1 * jnp.exp(jnp.repeat(A @ h, 3)),
        {"x": (1,), "h": (9,), "A": (3, 9)},
        "h[9] [9]",
        "",
    ),
    "light work on three copies is repeated": (
        lambda h, x, A: 0.1 * jnp.repeat(A @ h, 3) ** 2,
        {"x": (1,), "h": (9,), "A": (3, 9)},
        "h[9] [3]",
        "broadcast_in_dim reshape mul",
    ),
    "a product saves its operand alone": (
        lambda h, x, A: A @ h + x,
        {"x": (4,), "A": (4, 4)},
        "h[4]",
        "",
    ),
    "a product larger than its operands is repeated": (
        lambda h, x: 0.5 * h * jnp.einsum("rk,rv->kv", jnp.exp(h[:1, :] + x), jnp.sin(h[:1] - x)),
        {"x": (2, 7), "h": (7, 7)},
        "[2,7] [2,7] [7,7] [2,7]",
        "dot_general",
    ),
    "a product smaller than its operands is saved": (
        lambda h, x: jnp.outer(jnp.exp(x @ h), x),
        {"x": (4,), "h": (4, 4)},
        "h[4,4] [4]",
        "broadcast_in_dim",
    ),
    "hoisted values are not saved again": (
        lambda h, x, W: jnp.exp(W @ x) * h,
        {"W": (4, 3)},
        "h[4]",
        "",
    ),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_reverse_loop_is_given_these_residuals(name):
    step, shapes, saved, recomputed = RESIDUALS[name]
    traced, names = traced_step(step, **shapes)
    derivative = differentiate(split(traced))
    state = {v: names.of(v) for v in traced.state}
    reverse, cotangents = derivative.reverse, dict.fromkeys(derivative.cotangents, 1)
    levels = dependence(reverse.equations, cotangents)
    shown = [
        f"{state.get(v, '')}[{','.join(map(str, v.aval.shape))}]" for v in derivative.residuals
    ]
    again = [e.name for e in reverse.equations if not any(levels[v] for v in e.outputs)]
    assert " ".join(shown) == saved
    assert " ".join(again) == recomputed
