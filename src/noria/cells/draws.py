"""Random numbers that a cell draws once for a whole call of a layer."""

from typing import Any

import jax
import jax.tree_util as jtu

from noria._errors import check_key
from noria._types import Key

#: Numbers far from those of the keys of single steps.
_LAST = 2**32 - 1


def for_call(label: str, cell: Any, key: Key | None) -> Any:
    """The cell for one call of a layer: parts with a method ``for_call(key)`` have drawn.

    Args:
        label: the layer in messages.
        cell: the cell of a layer.
        key: the key of the call; without one, nothing is drawn.
    """
    if key is None:
        return cell
    parts, structure = jtu.tree_flatten(cell, is_leaf=_draws)
    if not any(map(_draws, parts)):
        return cell
    check_key(label, key)
    drawn = [
        part.for_call(jax.random.fold_in(key, _LAST - n)) if _draws(part) else part
        for n, part in enumerate(parts)
    ]
    return jtu.tree_unflatten(structure, drawn)


def _draws(node: Any) -> bool:
    return callable(getattr(node, "for_call", None))
