"""The program of `test_spread`, one of several processes that train together: prints JSON.

python tests/processes.py INDEX COUNT PORT FOLDER [--epochs N] [--stop STEP] [--term STEP]
"""

import argparse
import hashlib
import json
import os
import signal
import warnings
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
import optax

import noria as nr
from noria.backends.native.plan.cores import cores

parser = argparse.ArgumentParser()
parser.add_argument("index", type=int)
parser.add_argument("count", type=int)
parser.add_argument("port")
parser.add_argument("folder")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--term", type=int, default=0)


def loss(model: Any, carry: Any, xs: Any, ys: Any, starts: Any, key: Any) -> Any:
    carry, out = model.scan(carry, xs, resets=starts, key=key)
    return nr.mse(out, ys), carry


def main(given: Any) -> dict[str, Any]:
    if given.count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{given.port}", given.count, given.index)
    keys = jax.random.split(jax.random.key(0), 4)
    series = np.sin(np.arange(321) / 7)[:, None].astype(np.float32)
    windows = nr.data.streams(series, batch_size=8, size=20)  # two windows an epoch
    model = nr.Chain(nr.LSTM(1, 16, key=keys[0]), nr.Dropout(0.1), nr.Dense(16, 1, key=keys[1]))

    def on_step(model: Any, step: int, numbers: Any) -> None:
        # The last process only: the others have to hear of it.
        if step == given.term and given.index == given.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    found: dict[str, Any] = {}
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fitted, history = nr.fit(
                model,
                loss,
                windows,
                optimiser=optax.adam(1e-3),
                epochs=given.epochs,
                key=keys[2],
                carry=True,
                mesh=mesh,
                checkpoint=nr.Checkpoint(given.folder, every=1) if given.folder != "-" else None,
                on_step=on_step if given.term else None,
            )
    except SystemExit as error:
        fitted, history = error.model, error.history  # type: ignore[attr-defined]
        found["code"] = error.code
    leaves = [np.asarray(leaf) for leaf in jtu.tree_leaves(fitted)]
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
    return {
        **found,
        "digest": digest,
        "losses": history.loss,
        "stopped": history.stopped,
        "leaves": [leaf.tolist() for leaf in leaves],
        "threads": cores(),
    }


if __name__ == "__main__":
    print(json.dumps(main(parser.parse_args())))
