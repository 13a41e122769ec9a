"""Steps that do not read all arguments, or return one, on every backend in every dtype."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noria as nr


class Two(nr.Cell):
    """A state of two arrays, a weight that is read and one that is not."""

    kind: str = eqx.field(static=True)
    w: jax.Array
    unread: jax.Array

    def __call__(self, s, x):
        return CELLS[self.kind](s, x, self.w)

    def initial_state(self):
        return 0.5 * jnp.ones_like(self.w), jnp.ones_like(self.w)

    def output(self, s, x):
        return (s[1], s[1], jnp.ones_like(self.w)) if self.kind == "emitted twice" else s


#: Steps that read, replace or hand on each array of the state, and the input.
CELLS: dict[str, Any] = {
    "replaced, not read": lambda s, x, w: (jnp.tanh(x * w), 0.5 * s[1] + x),
    "none is read": lambda s, x, w: (x * w, x + w),
    "constant": lambda s, x, w: (jnp.ones_like(w), 0.5 * s[1] + s[0] * x),
    "parameter": lambda s, x, w: (w, 0.5 * s[1] * w + x),
    "handed on": lambda s, x, w: (s[0], jnp.tanh(s[1] * s[0] + x)),
    "handed on, not read": lambda s, x, w: (s[0], s[1] * w + x),
    "exchanged": lambda s, x, w: (s[1], s[0] * w + x),
    "twice the same": lambda s, x, w: (s[1] * w + x,) * 2,
    "emitted twice": lambda s, x, w: (0.5 * s[0] + x * w, s[0]),
    "input not read": lambda s, x, w: (jnp.tanh(s[0] * w), s[1] + s[0]),
    "nothing is read": lambda s, x, w: (jnp.zeros_like(w), jnp.ones_like(w)),
    "only the weight is not read": lambda s, x, w: (0.5 * s[0] + x, s[1] - s[0]),
}

#: Those whose next state is affine and element-wise, array by array.
AFFINE = ("replaced, not read", "none is read", "handed on, not read", "nothing is read")


def everything(kind: str, dtype: Any, backend: str) -> list[Any]:
    """Values and gradients, with and without lengths and resets."""
    w = jnp.asarray([0.5, -1, 0.25], dtype)
    xs = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (2, 4, 3)) / 4, dtype)
    masks = {"lengths": jnp.array([4, 2]), "resets": jnp.array([[0, 1, 0, 0], [1, 0, 0, 1]], bool)}

    def loss(layer: Any, xs: Any) -> Any:
        some = [layer.scan(None, xs, **options) for options in ({}, masks)]
        return sum(jnp.sum(a.astype(jnp.float32)) for a in jax.tree.leaves(some)), some

    layer = nr.Recurrence(Two(kind, w, w), learn_initial_state=True, backend=backend)
    both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
    return jax.tree.leaves(
        jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(layer, xs)
    )


@pytest.mark.sampled(23)
@pytest.mark.parametrize("kind", CELLS)
def test_unread(kind):
    expected = [np.asarray(a) for a in everything(kind, jnp.float64, "plain")]
    runs = [
        ("auto", jnp.float32),
        ("auto", jnp.bfloat16),
        ("scan", jnp.bfloat16),
        ("auto", jnp.float16),
    ]
    for backend, dtype in [*runs, *[("associative", jnp.bfloat16)] * (kind in AFFINE)]:
        for found, right in zip(everything(kind, dtype, backend), expected, strict=True):
            scale = max(1, np.abs(right).max(initial=0))
            tolerance = 3 * float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(
                np.asarray(found, np.float64) / scale, right / scale, rtol=0, atol=tolerance
            )
