"""The devices of a call, and what they send to each other, for ``explain``."""

from typing import Any

import jax
import jax.tree_util as jtu

from noria.display import amount
from noria.module import named_leaves, partition


def devices_of(layer: Any, xs: Any) -> tuple[int, str]:
    """The number of devices on which a call of ``layer`` runs, and a sentence about their work."""
    arrays = [leaf for leaf in jtu.tree_leaves((xs, layer)) if isinstance(leaf, jax.Array)]
    count = max((len(leaf.sharding.device_set) for leaf in arrays), default=1)
    if count == 1:
        return 1, ""
    cut = [name for name, leaf in named_leaves(layer) if _is_cut(leaf)]
    sent = sum(leaf.nbytes for leaf in jtu.tree_leaves(partition(layer)[0]))
    parts = [_rows(jtu.tree_leaves(xs)[0], count, sent)]
    if cut:
        names = f"{cut[0]} and {len(cut) - 1} more" if len(cut) > 1 else cut[0]
        parts.append(
            f"the parts of {names} are gathered on each device before a loop runs as machine code, "
            "so nothing is gained by cutting them"
        )
    return count, "; ".join(parts)


def _is_cut(leaf: Any) -> bool:
    return (
        isinstance(leaf, jax.Array)
        and not leaf.sharding.is_fully_replicated
        and leaf.sharding.shard_shape(leaf.shape) != leaf.shape
    )


def _rows(xs: Any, count: int, sent: int) -> str:
    batch = xs.shape[0] if len(xs.shape) > 2 else 1
    sharding = getattr(xs, "sharding", None)
    rows = batch if sharding is None else sharding.shard_shape(xs.shape)[0]
    if len(xs.shape) > 2 and rows < batch:
        return (
            f"each computes {rows} of {batch} examples; a training step sends the gradients of the "
            f"model once, {amount(sent)}B; a call without gradients sends nothing"
        )
    if batch % count:
        return f"they cannot share {batch} examples evenly, so each computes all of them"
    return "the batch is not cut into rows, so each computes all of it"
