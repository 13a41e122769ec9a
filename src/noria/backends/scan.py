"""The compiled loop as one `jax.lax.scan`: any device. Its twins are `noria.backends.plain` and `reference`."""

from collections.abc import Callable
from typing import Any

import jax


def loop(
    body: Callable[[Any, Any], tuple[Any, Any]], start: Any, steps: Any, time: int, reverse: bool
) -> tuple[Any, Any]:
    """Run ``body(carry, step) -> (carry, stacked)`` over the leading axis of ``steps``."""
    return jax.lax.scan(body, start, steps, length=time, reverse=reverse)
