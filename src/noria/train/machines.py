"""What the processes of a run tell each other."""

import os
import platform
import zlib

import jax
import numpy as np


def processes_here() -> int:
    """How many processes of this run may use the same cores as this one.

    All processes of the run have to call it. A launcher that binds each process to cores of its own
    leaves each of them alone.
    """
    if jax.process_count() == 1:
        return 1
    from jax.experimental import multihost_utils

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine = np.uint32(zlib.crc32(f"{platform.node()} {cores}".encode()))
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    return int((everyone == mine).sum())


def of_the_first(number: int) -> int:
    """The number that the first process has. All processes of the run have to call it."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
