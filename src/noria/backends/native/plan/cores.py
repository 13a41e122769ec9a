"""The cores for the threads of a call."""

import os

_sharing = 1


def share_cores(processes: int) -> None:
    """From now on so many processes share the cores of this one, each with its part of them."""
    global _sharing
    _sharing = processes


def cores() -> int:
    """The cores that the process may use."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // _sharing)
