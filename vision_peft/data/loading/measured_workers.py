"""Choose the worker processes of a training by what its first batches take to read and to use.

The batches that are timed are those of the training, read in its own process: nothing is read twice, and which batches
come, and their pixels, does not depend on the choice.
"""

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from vision_peft.data.loading.samples import Batch

TIMED = 4  # batches; the first is not counted, since it pays for what is used for the first time
PATIENCE_S = 0.5  # of reading, after which two batches are enough
SMALL = 0.02  # of an update: reading that takes at most so long needs no process
SPARE = 1.25  # processes share the machine with the training and are slower than what was timed
read_clock: Callable[[], float] = time.perf_counter


@dataclass
class ReadingTimes:
    """Seconds that batches took to read, and to be used by whoever asked for them."""

    read: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)

    def time_batches(self, batches: Iterator[Batch]) -> Generator[Batch]:
        """Yield `batches` until enough were timed; the last one asked for may go untimed."""
        while not self.enough:
            started = read_clock()
            batch = next(batches, None)
            if batch is None:
                return
            came = read_clock()
            yield batch
            self.read.append(came - started)
            self.used.append(read_clock() - came)

    @property
    def enough(self) -> bool:
        """Whether so many were timed that the workers can be chosen."""
        return len(self.read) >= (2 if sum(self.read) > PATIENCE_S else TIMED)

    def choose_workers(self, most: int) -> int:
        """Choose as many processes, at most `most`, as keep up with the use; 0 where reading takes next to none."""
        read, used = self._medians
        if read <= SMALL * used:
            return 0
        return max(1, min(most, math.ceil(SPARE * read / used) if used else most))

    def describe(self, workers: int) -> str:
        """Say in a line what was chosen and why."""
        read, used = (f"{1000 * seconds:.0f} ms" for seconds in self._medians)
        processes = f"{workers} process{'es' * (workers != 1)}" if workers else "no further process"
        return f"workers=auto: {processes} for reading (a batch takes {read} to read, {used} to train on)"

    @property
    def _medians(self) -> tuple[float, float]:
        return statistics.median(self.read[1:]), statistics.median(self.used[1:])
