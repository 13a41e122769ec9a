"""``with_backend``: one backend for every recurrent layer of a model."""

from typing import Any

from noria._errors import check_choice
from noria.backends import CELL_BACKENDS, names
from noria.layers.checks import chooses_residuals
from noria.layers.recurrence import Recurrence
from noria.module import M, check_has_arrays, map_modules


def with_backend(model: M, backend: str) -> M:
    """A copy of ``model`` in which every recurrent layer runs on ``backend``.

    A layer loses its options ``save`` and ``checkpoint`` where the new backend has none.

    Args:
        model: a layer, or any pytree that holds layers.
        backend: ``"auto"`` or a name that `Recurrence` takes.

    Returns:
        The copy; it shares its arrays with ``model``.

    Raises:
        ValueError: for an unknown backend.
        TypeError: for a prepared layer.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> layer = nr.GRU(2, 3, key=jax.random.key(0))
        >>> slow = nr.with_backend(layer, "reference")
        >>> bool(jnp.allclose(slow(jnp.ones((4, 2))), layer(jnp.ones((4, 2))), atol=1e-6))
        True
    """
    check_choice("with_backend", "backend", backend, ("auto", *names()))
    check_has_arrays("with_backend(model, backend)", model)
    fields: dict[str, Any] = {"backend": backend}
    if not chooses_residuals(backend):
        fields["save"] = "gates"
    if backend in CELL_BACKENDS:
        fields["checkpoint"] = None
    return map_modules(lambda module, _: fields if isinstance(module, Recurrence) else {}, model)
