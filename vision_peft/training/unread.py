"""What came of updates, read from the device for many of them at once, and told in their order.

A GPU works through what it is given; whoever asks it for a number waits until it has done so, and meanwhile gives it
nothing. So losses and what was skipped stay on the device for about a second, then all processes read them together.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch

from vision_peft.distributed.processes import all_gather, all_gather_numbers
from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.protocols import PHASES, Phase
from vision_peft.results.table import format_seconds
from vision_peft.training.progress import WAYS_OUT, Diverged, Progress, Training
from vision_peft.training.step import Queued, StepResult

SECONDS_UNREAD = 1.0  # a request to stop is heard as often
MOST_UNREAD = 50
SHORTEST_ESTIMATE = 10  # seconds that are worth a line
ESTIMATE_AFTER = 3  # updates; the first ones take longer


class UnreadUpdates:
    """Updates that are done, or that the device was told to do, and that `progress` does not count yet.

    Args:
        epochs, updates: of `phase`; updates are those of an epoch.
    """

    def __init__(self, training: Training, phase: Phase, progress: Progress, epochs: int, updates: int) -> None:
        self.training, self.phase, self.progress = training, phase, progress
        self.epochs, self.updates = epochs, updates
        self._results: list[StepResult | Queued] = []
        self._rates: list[float] = []
        self._started = 0.0  # when the first of them was
        self._most = 1  # the same in all processes
        self._told_estimate = False

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: StepResult | Queued, rate: float, started: float) -> None:
        """Note an update with its learning rate and the time when it was started, as `time.perf_counter` has it."""
        self._started = self._started if self._results else started
        self._results.append(result)
        self._rates.append(rate)
        timing, processes = self.training.timing, self.training.compute.world_size
        timing.waited += result.waited
        timing.images += len(result.samples) * processes  # every process has as many

    def is_due(self) -> bool:
        """Whether it is time to read them; at once where there is nothing to wait for."""
        return isinstance(self._results[-1], StepResult) or len(self._results) >= self._most

    def read(self, votes: Callable[[], Sequence[float]]) -> list[float]:
        """Wait for them, count and tell each; all processes call this after the same update.

        Args:
            votes: what this process says to the others, as numbers that are summed.

        Returns:
            The sums of the votes.

        Raises:
            Diverged: too many in a row were skipped.
        """
        queued = [each for each in self._results if isinstance(each, Queued)]
        results: list[StepResult] = [each for each in self._results if isinstance(each, StepResult)]
        sums = results[-1].votes if results else []
        if queued:
            own = torch.stack([each.figures for each in queued]).tolist()
            shares = all_gather_numbers([*(loss for loss, _ in own), self._seconds(), *votes()])
            number, processes = len(queued), len(shares)
            sums = [float(sum(column)) for column in zip(*(share[number + 1 :] for share in shares), strict=True)]
            losses = [math.fsum(each / processes for each in column) for column in zip(*shares, strict=True)][:number]
            results += [
                StepResult(loss, bool(skipped), own_loss, each.samples, each.waited, [])
                for each, loss, (own_loss, skipped) in zip(queued, losses, own, strict=True)
            ]
            slowest = max(share[number] for share in shares)
            self._most = max(min(int(SECONDS_UNREAD / max(slowest, 1e-6)), MOST_UNREAD), 1)
        timing, before = self.training.timing, len(self.training.timing.updates)
        timing.updates += [self._seconds()] * len(results)
        if self.training.config.compile and before < 2 <= len(timing.updates):
            self.training.run.say(timing.describe_first())
        rates, self._results, self._rates = self._rates, [], []
        for place, (result, rate) in enumerate(zip(results, rates, strict=True)):
            self._tell(result, rate, last=place == len(results) - 1)
        return sums

    def _seconds(self) -> float:
        """Return how long one of them took; the device has done them where what came of them is known."""
        return (time.perf_counter() - self._started) / len(self._results)

    def _tell(self, result: StepResult, rate: float, last: bool) -> None:
        progress, run, updates = self.progress, self.training.run, self.updates
        progress.end_update(result.loss, result.skipped)
        where = f"epoch {progress.epoch + 1}/{self.epochs}  update {progress.update}/{updates}"
        if result.skipped:
            self._report_skipped(result, f"{where} (step {progress.step}, lr {rate:.3g})")
        tenth = progress.update % max(updates // 10, 1) == 0
        if last and len(self.training.timing.updates) >= ESTIMATE_AFTER and not self._told_estimate:
            self._tell_estimate()
        if tenth or last:
            time_left = f"{format_seconds(self.seconds_left())} left"
            run.progress(f"{where}  loss {result.loss:.4f}  lr {rate:.2e}  {time_left}", tenth)
        if tenth:
            run.record("step", progress.step, {"epoch": progress.epoch + 1, "loss": result.loss, "lr": rate})

    def seconds_left(self) -> float:
        """Estimate what is left of the phase, with its evaluations and, after the last phase, that of test."""
        config, splits, epochs = self.training.config, self.training.splits, self.epochs - self.progress.epoch
        items = epochs * len(splits[self.phase.watched]) if self.phase.watched else 0
        items += len(splits["test"]) if "test" in splits and self.phase is PHASES[config.protocol][-1] else 0
        updates = epochs * self.updates - self.progress.update
        return self.training.timing.seconds_left(updates, items, config.recipe.batch_size)

    def _tell_estimate(self) -> None:
        """Say once a phase how long it will take, as soon as a few updates tell."""
        self._told_estimate = True
        seconds, timing = self.seconds_left(), self.training.timing
        again = "; then a new model trains" if self.phase is not PHASES[self.training.config.protocol][-1] else ""
        pace = f"{self.epochs} epochs of {self.updates} updates, {format_seconds(timing.step_seconds)} each"
        if seconds >= SHORTEST_ESTIMATE:
            self.training.run.say(f"takes     about {format_seconds(seconds)}: {pace}{again}")

    def _report_skipped(self, result: StepResult, where: str) -> None:
        """Say which update was skipped and on what; Diverged after too many in a row."""
        config, run, progress = self.training.config, self.training.run, self.progress
        train_set = self.training.splits[self.phase.trained]
        shares = all_gather([result.own_loss, result.samples])
        culprits = [(loss, samples) for loss, samples in shares if not math.isfinite(loss)]
        what = f"the loss is {culprits[0][0]}" if culprits else "the gradient is not finite"
        samples = [sample for _, ids in culprits or shares for sample in ids]
        named = ", ".join(f"{sample} ({printable(train_set.path(sample), LONGEST_LINE)})" for sample in samples[:3])
        more = ", ..." if len(samples) > 3 else ""
        text = f"{what} at {where}, on samples {', '.join(map(str, samples))}: {named}{more}"
        run.record("bad_step", progress.step, {"epoch": progress.epoch + 1, "samples": samples})
        if progress.bad_steps > config.max_bad_steps:
            row = f"; {progress.bad_steps} such updates in a row, max_bad_steps={config.max_bad_steps}"
            raise Diverged(f"{text}{row if config.max_bad_steps else ''}: {WAYS_OUT}")
        run.say(f"warning: {text}; this update is skipped ({progress.bad_steps} in a row)")
