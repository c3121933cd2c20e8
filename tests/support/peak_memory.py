"""What a piece of code takes of memory at most, beside what the process had before. Linux only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def measure_memory() -> Iterator[Callable[[], float]]:
    """Give a function that says how many megabytes (2^20 bytes) were taken at most since the start of the block.

    The high-water mark starts anew here: that of the whole process may be far above what a test can reach.
    """
    RESET.write_text("5")
    before = read_status("VmRSS")
    yield lambda: read_status("VmHWM") - before


def read_status(name: str) -> float:
    """Read a field of this process' status, in megabytes."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0]) / 1024
