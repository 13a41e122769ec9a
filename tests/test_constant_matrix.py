"""Steps with a constant matrix: which are found, and that `explain` says so."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from models import AUTO, random
from test_linear import ONE, PAIR, SIZE, TIME, U, W, step_of

import noria as nr
from noria.compiler.constant_matrix import has_constant_matrix
from noria.ir.reasons import Reason

FOUND: dict[str, tuple[Any, Any]] = {
    "matrix": (lambda h, x: U @ h + x, ONE),
    "low rank": (lambda h, x: 0.9 * h + U[:, :1] @ (W[:1] @ h) / 3 + W @ x, ONE),
    "two arrays": (lambda s, x: (U @ s[0] - s[1] + x, W @ s[0]), PAIR),
    "nonlinear input": (lambda h, x: jnp.tanh(U) @ h + jnp.tanh(W @ x) * x, ONE),
    "heads": (lambda h, x: jnp.einsum("hij,hj->hi", U[None], h[None])[0] + x, ONE),
    "scaled twice": (lambda h, x: U[0] * (W @ (U[1] * h)) + x, ONE),
}
NOT_FOUND: dict[str, tuple[Any, Any]] = {
    "element-wise": (lambda h, x: U[0] * h + x, ONE),
    "gated": (lambda h, x: jax.nn.sigmoid(x) * (U @ h) + x, ONE),
    "gated by the state": (lambda h, x: h * (U @ h) + x, ONE),
    "matrix of the input": (lambda h, x: (U * x) @ h + x, ONE),
    "activation": (lambda h, x: jnp.tanh(U @ h + x), ONE),
    "selection by elements": (lambda h, x: jnp.where(x > 0, U @ h, h), ONE),
    "quotient": (lambda h, x: x / (U @ h), ONE),
    "rounded": (lambda h, x: (U @ h).astype(int).astype(float) + x, ONE),
    "largest": (lambda h, x: jnp.maximum(U @ h, x), ONE),
}


@pytest.mark.parametrize("masks", [False, True], ids=["plain", "lengths and resets"])
@pytest.mark.parametrize("name", [*FOUND, *NOT_FOUND])
def test_found(name, masks):
    cell, state = (FOUND | NOT_FOUND)[name]
    assert has_constant_matrix(step_of(cell, state, masks, masks)) == (name in FOUND)


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
def test_explain_says_so():
    found = nr.explain(
        nr.Recurrence(lambda h, x: U @ h + x, initial_state=jnp.zeros(SIZE)), random(0, TIME, SIZE)
    )
    assert found.backend == "native"
    assert found.reason.endswith(Reason.CONSTANT_MATRIX())
    assert not found.linear
