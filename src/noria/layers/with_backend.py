"""``with_backend``: one backend for every recurrent layer of a model."""

from typing import Any

from noria._errors import check_choice
from noria.backends import CELL_BACKENDS, NAMES
from noria.layers.checks import chooses_residuals
from noria.layers.recurrence import Recurrence
from noria.module import M, map_modules


def with_backend(model: M, backend: str) -> M:
    """A copy of ``model`` in which every recurrent layer runs on ``backend``.

    Where it knows nothing of ``save`` or ``checkpoint``, the copy has the default of these.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> layer = nr.GRU(2, 3, key=jax.random.key(0))
    >>> slow = nr.with_backend(layer, "reference")
    >>> bool(jnp.allclose(slow(jnp.ones((4, 2))), layer(jnp.ones((4, 2))), atol=1e-6))
    True
    """
    check_choice("with_backend", "backend", backend, ("auto", *NAMES))
    fields: dict[str, Any] = {"backend": backend} | (
        {} if chooses_residuals(backend) else {"save": "gates"}
    )
    fields |= {"checkpoint": None} if backend in CELL_BACKENDS else {}
    return map_modules(lambda module, _: fields if isinstance(module, Recurrence) else {}, model)
