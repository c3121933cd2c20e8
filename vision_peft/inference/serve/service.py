"""From images to answers: what stands between HTTP and the bank, and bounds what waits."""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vision_peft.backbones import input_config
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.formats.input_record import complete_input
from vision_peft.inference.bank.bank import Bank
from vision_peft.inference.bank.task import Answer, BankTask, UnknownTask
from vision_peft.inference.prepare import Preparation
from vision_peft.inference.serve.batcher import Batcher
from vision_peft.inference.serve.limits import Limits, Refusal
from vision_peft.inference.serve.metrics import SECONDS, Counter, Gauge, Histogram, format_metrics
from vision_peft.inference.serve.query import Query
from vision_peft.printable import name_some, printable
from vision_peft.tasks import find_kind, read_task
from vision_peft.tasks.task import Task
from vision_peft.tuning.head_kinds import MapHead, read_head

_TRIES = 10  # of a picture whose task is replaced while it waits by one that is prepared otherwise
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A task as the server knows it: the bank's, and how its pictures are prepared."""

    task: BankTask
    key: str  # equal where pictures are prepared alike
    prepare: Preparation

    def describe(self) -> dict[str, Any]:
        """Return what everybody may know of it; nothing of it is a path."""
        info = self.task.info
        return {
            "name": self.task.name,
            "version": self.task.version,
            "kind": _find_kind(self.task).kind,
            "methods": self.task.methods,
            "classes": info.num_classes,
            "class_names": info.class_names,
            "size": list(self.prepare.settings["size"]),
        }


class Service:
    """A bank with a queue in front of it.

    Args:
        bank: its tasks are served; they may come and go.
        limits: see ``Limits``.

    Raises:
        ValueError: a backbone of clips, or a task that cannot be served.
    """

    def __init__(self, bank: Bank, limits: Limits) -> None:
        self.bank, self.limits = bank, limits
        self.served: dict[int, Served] = {}  # by version of the task
        self.pending = 0  # answers that are accepted and not given yet
        self.held = 0  # bytes of bodies
        self.draining = False
        sizes = [2**power for power in range(limits.max_batch.bit_length()) if 2**power < limits.max_batch]
        self.requests = Counter("requests_total", "Requests by path and status.", "path", "status")
        self.images = Counter("answers_total", "Images answered, by task.", "task")
        self.refused = Counter("refused_total", "Requests that were refused, by status.", "status")
        self.latency = Histogram("request_seconds", "From the first byte to the answer, of good requests.", SECONDS)
        self.forward = Histogram("forward_seconds", "Seconds of a forward.", SECONDS)
        self.batch_images = Histogram("batch_images", "Images of a forward.", [*sizes, limits.max_batch])
        self.batch_tasks = Histogram("batch_tasks", "Tasks of a forward.", [1, 2, 4, 8, 16, 32])
        for task in bank.tasks.values():
            self.describe(task)
        self._decoders = ThreadPoolExecutor(limits.decoders, "decoder")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._batcher = Batcher(bank, limits.max_batch, limits.max_wait_ms / 1000, self._observe)

    def describe(self, task: BankTask) -> Served:
        """Return a task of the bank with the way its pictures are prepared.

        Raises:
            ValueError: it takes something else than RGB images, or its answer is neither labels nor numbers.
        """
        found = self.served.get(task.version)
        if found is None:
            settings = complete_input(task.info.input, input_config(self.bank.backbone))
            if problem := _find_problem(task, settings):
                raise ValueError(f"the task {printable(task.name)} {problem}")
            prepare = Preparation(settings, max_pixels=self.limits.max_pixels)
            found = Served(task, json.dumps(settings, sort_keys=True, default=str), prepare)
            self.served[task.version] = found
        return found

    async def classify(self, query: Query) -> list[dict[str, Any]]:
        """Answer every picture of ``query`` under each of its tasks, the tasks of a picture one behind the other.

        Raises:
            Refusal: tasks that are not there (404), pictures that cannot be decoded (400), too much at once (413, 503).
        """
        names = self._choose(query.tasks)
        with self._admit(len(query.images) * len(names)):
            pairs = [(index, name) for index in range(len(query.images)) for name in names]
            pictures: dict[tuple[int, str], asyncio.Future[Tensor]] = {}
            answering = [asyncio.ensure_future(self._answer(query.images, pictures, *pair)) for pair in pairs]
            try:
                answers = await asyncio.gather(*answering)
            finally:
                for task in answering:
                    task.cancel()
        return [
            {"image": index, **self._format(answer, query.top)}
            for (index, _), answer in zip(pairs, answers, strict=True)
        ]

    async def put(self, name: str, source: str | Path) -> BankTask:
        """Add a task, or give it another adapter, while requests go on; errors are those of ``Bank.add``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._loader, self._put, name, source)

    async def drop(self, name: str) -> None:
        """Take a task out; raises ``UnknownTask`` where there is none."""
        await asyncio.get_running_loop().run_in_executor(self._loader, self.bank.drop, name)
        self.images.forget(name)
        self._forget_old()

    def close(self) -> None:
        """Answer what was accepted, then stop."""
        self._batcher.close()
        self._decoders.shutdown()
        self._loader.shutdown()

    def format_metrics(self) -> str:
        """Return the metrics as Prometheus reads them."""
        return format_metrics(
            self.requests,
            self.refused,
            self.images,
            self.latency,
            self.forward,
            self.batch_images,
            self.batch_tasks,
            Gauge("pending_answers", "Answers that are accepted and not given yet.", lambda: self.pending),
            Gauge("body_bytes", "Bytes of requests in memory.", lambda: self.held),
            Gauge("tasks", "Tasks of the bank.", lambda: len(self.bank)),
            Gauge("loaded_adapters", "Adapters in memory.", lambda: len(self.bank.loaded)),
        )

    def _put(self, name: str, source: str | Path) -> BankTask:
        before = self.bank.tasks.get(name)
        task = self.bank.add(name, source) if before is None else self.bank.replace(name, source)
        try:
            self.describe(task)
        except ValueError:
            if before is None:
                self.bank.drop(name)
            else:
                self.bank.replace(name, before.folder)
            raise
        self._forget_old()
        return task

    def _forget_old(self) -> None:
        current = {task.version for task in self.bank.tasks.values()}
        self.served = {version: served for version, served in self.served.items() if version in current}

    def _choose(self, names: list[str]) -> list[str]:
        known = self.bank.tasks
        if not names and len(known) == 1:
            return list(known)
        if not names:
            raise Refusal(400, f"no task: there are {name_some(known) or 'none'}")
        if unknown := [name for name in names if name not in known]:
            raise Refusal(404, f"no task {name_some(unknown)}: there are {name_some(known) or 'none'}")
        return names

    @contextmanager
    def _admit(self, answers: int) -> Iterator[None]:
        if answers > self.limits.max_queue:
            raise Refusal(413, f"{answers} answers at once: at most {self.limits.max_queue} in one request")
        if self.pending + answers > self.limits.max_queue:
            raise Refusal(503, "the queue is full: try again in a moment")
        self.pending += answers
        try:
            yield
        finally:
            self.pending -= answers

    async def _answer(
        self, images: list[bytes], pictures: dict[tuple[int, str], asyncio.Future[Tensor]], index: int, name: str
    ) -> Answer:
        for _ in range(_TRIES):
            task = self.bank.tasks.get(name)
            if task is None:
                raise _dropped(name)
            served = self.describe(task)
            if (index, served.key) not in pictures:
                loop = asyncio.get_running_loop()
                decoding = loop.run_in_executor(self._decoders, _prepare, served, images[index])
                decoding.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has seen it
                pictures[index, served.key] = decoding
            picture = await asyncio.shield(pictures[index, served.key])  # others wait for it too
            try:
                answer = await asyncio.wrap_future(self._batcher.submit(name, picture))
            except UnknownTask:
                raise _dropped(name) from None
            except Exception:
                raise Refusal(500, f"the task {printable(name)} cannot be answered: see the server's log") from None
            if self.describe(answer.task).key == served.key:
                self.images.add(name)
                return answer
        raise Refusal(503, f"the task {printable(name)} is being replaced: try again in a moment")

    def _format(self, answer: Answer, top: int) -> dict[str, Any]:
        info = answer.task.info
        task = read_task(info.task, info.class_names or [*map(str, range(info.num_classes))], info.temperature)
        (guesses,) = task.name_answers(answer.logits.cpu()[None], top)
        if task.names_classes:
            found = {"labels": [{"label": name, "probability": round(value, 6)} for name, value in guesses]}
        else:
            found = task.to_json(guesses)
        return {"task": answer.task.name, "version": answer.task.version, **found}

    def _observe(self, images: int, tasks: int, seconds: float) -> None:
        self.batch_images.observe(images)
        self.batch_tasks.observe(tasks)
        self.forward.observe(seconds)


def _find_kind(task: BankTask) -> type[Task]:
    return find_kind((task.info.task or {"kind": "classes"})["kind"])


def _find_problem(task: BankTask, settings: Mapping[str, Any]) -> str | None:
    """Describe why a task cannot be served, and what answers it."""
    kind = _find_kind(task)
    if settings.get("num_frames") is not None:
        return "takes clips, and serve reads images: use vision-peft predict"
    if "channels" in settings:
        return f"takes images of {settings['channels']} bands, and serve reads RGB images: use vision-peft predict"
    if not task.info.num_classes or kind.open_set:
        return "answers with features: use vision-peft embed"
    if kind.answers_maps or isinstance(read_head(task.info.head), MapHead):
        return "answers for every pixel: use vision-peft predict --masks FOLDER"
    return None


def _dropped(name: str) -> Refusal:
    return Refusal(404, f"the task {printable(name)} was removed while the image waited")


def _prepare(served: Served, content: bytes) -> Tensor:
    try:
        return served.prepare(content)
    except ImageDecodeError as error:
        raise Refusal(
            400, f"the image cannot be decoded: {printable(error.cause.partition('; raise ')[0], 500)}"
        ) from None
