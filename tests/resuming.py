"""The program of `test_resume`: a run with everything that has to continue; prints its digest.

python tests/resuming.py FOLDER EPOCHS
"""

import hashlib
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax

import noria as nr

KEYS = jax.random.split(jax.random.key(3), 4)
RNG = np.random.default_rng(3)
SERIES = RNG.normal(size=(4 * 6 * 8 + 1, 2)).astype(np.float32)
WINDOWS = nr.data.streams(SERIES, batch_size=4, size=6)
#: Optimisers keep a schedule, moments and a mask of decay.
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 200)


def model() -> nr.Chain:
    return nr.Chain(
        nr.LSTM(2, 5, key=KEYS[0]),
        nr.Dropout(0.2),
        nr.Residual(nr.GRU(5, 5, key=KEYS[1], learn_initial_state=True)),
        nr.Dense(5, 2, key=KEYS[2]),
    )


def loss(model: Any, carry: Any, xs: Any, ys: Any, starts: Any, key: Any) -> Any:
    carry, out = model.scan(carry, xs, resets=starts, key=key)
    value = nr.mse(out, ys)
    return (value, {"largest": jnp.abs(out).max()}), carry


OPTIONS: dict[str, Any] = {
    "optimiser": optax.adamw(SCHEDULE),
    "key": KEYS[3],
    "carry": True,
    "clip_norm": 0.5,
    "valid": nr.data.streams(SERIES[:50], batch_size=2, size=6),
    "patience": 50,
}


def digest(tree: Any) -> str:
    found = hashlib.sha256()
    for leaf in jtu.tree_leaves(tree):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def told(fitted: Any, history: nr.History) -> dict[str, Any]:
    """Everything about the end of a run but its time."""
    numbers = {**history.metrics, "loss": history.loss, "valid": history.valid}
    return {"model": digest(fitted), "best": history.best_epoch, **numbers}


if __name__ == "__main__":
    where, epochs = nr.Checkpoint(sys.argv[1], every=1), int(sys.argv[2])
    ended = nr.fit(model(), loss, WINDOWS, epochs=epochs, checkpoint=where, **OPTIONS)
    print(json.dumps(told(*ended)))
