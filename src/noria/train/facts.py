"""What must be the same when a run continues: a checkpoint of another run is refused by name."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._types import Key
from noria.train import forms
from noria.train.spread import examples

#: Facts whose values say nothing to a reader.
_OPAQUE = ("key", "first batch", "first batch of valid")


def facts_of(data: Any, valid: Any, key: Key, settings: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a run continues, by name."""
    first = forms.first_batch(data, jax.random.fold_in(key, 0))
    held_out = forms.first_batch(valid, None)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return {
        "key": np.asarray(jax.random.key_data(key) if typed else key).tolist(),
        "batch size": getattr(data, "batch_size", None) if first is None else examples(first),
        "number of batches": forms.length(data),
        "first batch": None if first is None else _checksum(first),
        "first batch of valid": None if held_out is None else _checksum(held_out),
        **settings,
    }


def _checksum(batch: Any) -> int:
    found = 0
    for leaf in jtu.tree_leaves(batch):
        found = zlib.crc32(np.asarray(leaf).tobytes(), found)
    return found


def check_facts(call: str, record: Any, facts: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: it names the first difference.
    """
    if not isinstance(record, dict) or "run" not in record:
        raise ValueError(
            f"{call}: the checkpoints there were not written by fit; expected another folder."
        )
    for name, now in facts.items():
        before = record["run"].get(name)
        if before != now:
            values = "" if name in _OPAQUE else f": {before!r} there, {now!r} here"
            raise ValueError(
                f"{call}: the run there has another {name}{values}. "
                "Pass the same arguments to continue it, or another folder to begin a new one."
            )
