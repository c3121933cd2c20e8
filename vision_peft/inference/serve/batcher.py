"""The queue in front of a bank: images of all tasks that wait at the same time are answered in one forward."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vision_peft.inference.bank.bank import Bank
from vision_peft.inference.bank.task import Answer, UnknownTask

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """One image under one task, and the promise of its answer."""

    task: str
    image: Tensor  # 3 H W
    answer: "Future[Answer]" = field(default_factory=Future)


class Batcher:
    """A thread that answers what was submitted, at most ``max_batch`` images in one forward.

    A job that cannot be answered (its task was dropped meanwhile) fails alone.

    Args:
        bank: answers.
        max_batch: images in one forward.
        max_wait_s: how long the first image of a batch waits for others.
        observe: is told of every forward: images, tasks, seconds.
    """

    def __init__(
        self, bank: Bank, max_batch: int, max_wait_s: float, observe: Callable[[int, int, float], None]
    ) -> None:
        self.bank, self.max_batch, self.max_wait_s, self.observe = bank, max_batch, max_wait_s, observe
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.busy = False  # a batch is on its way through the bank
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, task: str, image: Tensor) -> "Future[Answer]":
        """Queue an image (3 H W); cancelling the promise takes it out of the queue.

        Raises:
            RuntimeError: closed.
        """
        job = Job(task, image)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Answer what was submitted, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._take():
            running = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if running:
                self.busy = True
                self._answer(running)
                self.busy = False

    def _take(self) -> list[Job]:
        """Wait for a batch; empty where there is none any more."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            until = time.monotonic() + self.max_wait_s
            while len(self._waiting) < self.max_batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]

    def _answer(self, jobs: list[Job]) -> None:
        start = time.monotonic()
        try:
            answers = self.bank.answer(torch.stack([job.image for job in jobs]), [job.task for job in jobs])
        except Exception as error:
            names = {job.task for job in jobs}
            if len(names) > 1:  # one of them is to blame: the others get their answer
                for name in names:
                    self._answer([job for job in jobs if job.task == name])
                return
            if not isinstance(error, UnknownTask):
                _log.exception("no answer for the task %r", jobs[0].task)
            for job in jobs:
                job.answer.set_exception(error)
            return
        self.observe(len(jobs), len({job.task for job in jobs}), time.monotonic() - start)
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)
