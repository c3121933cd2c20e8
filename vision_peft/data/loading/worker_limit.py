"""How many worker processes a machine can take. Nothing here imports torch."""

import os
import sys

MOST_PER_CORE = 16  # reading from slow disks wants more processes than cores, but not by far


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def too_many_workers(workers: int) -> str | None:
    """Describe the problem where a loader is to have far more worker processes than there are cores."""
    cores = count_cores()
    most = MOST_PER_CORE * cores
    if workers <= most:
        return None
    here = f"{most} on {cores} core{'s' * (cores != 1)}, {MOST_PER_CORE} a core"
    return f"workers must be at most {here}; got {workers}: give fewer, or workers=auto"
