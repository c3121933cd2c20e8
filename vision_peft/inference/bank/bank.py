"""A bank: adapters of any methods and head sizes on one frozen backbone, and a mixed batch answered in one forward."""

import threading
from collections.abc import Hashable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_peft.formats import read_adapter_info
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.formats.backbone_record import recorded_size
from vision_peft.inference.bank.adapter import Adapter, Loader
from vision_peft.inference.bank.task import Answer, BankTask, UnknownTask, check_name
from vision_peft.inference.bank.tree import Tree
from vision_peft.inference.load import find_adapter, load_backbone
from vision_peft.printable import name_some, printable
from vision_peft.suggest import did_you_mean
from vision_peft.tuning import record
from vision_peft.tuning.backbone import architecture
from vision_peft.tuning.blocks import blocks


class Bank:
    """N adapters over one backbone, which exists once.

        bank = vp.Bank.load("runs/flowers/.../seed0")         # the backbone that this run records, no task yet
        bank.add("flowers", "runs/flowers/.../seed0")
        bank.add("cars", "adapters/cars")
        logits = bank(images, tasks=["flowers", "cars", "flowers"])   # a list: one (classes,) per image

    The batch is sorted by task once. At a module that tasks have grafts on, it is cut, and each part goes through its
    task's grafts; what the frozen module computes, and every module that no task touches, sees the whole batch. The
    logits are those of the single adapter to rounding (of a batch of one task, and with all tokens in the single one's
    last block, bit for bit). Adapters whose prompts join the sequence are answered together where they have equally
    many; adapters with a graft on the whole model (ensembles of prompts, prompts with positions) have a forward of
    their own.

    All methods may be called by several threads at a time. A forward sees every task as it is before or after a change
    and never between; forwards run one after another.

    Args:
        model: a plain timm vision transformer, nothing attached. Its tensors are shared, never written; the model
            itself stays as it is, its head is not used.
        most: adapters in memory at a time. The least recently used one makes room; it is read from its folder, which
            has to stay as it is, when it is asked for again. None: all of them.
        bits: 1 keeps matrices of grafts as one bit a number (``inference/bank/one_bit.py``), expanded while they are
            used; vectors, the head and what was trained in place stay whole. None: as they are.

    Raises:
        ValueError: not a backbone that methods attach to, something attached, ``most`` below 1, other ``bits``.
    """

    def __init__(self, model: Any, *, most: int | None = None, bits: int | None = None) -> None:
        if most is not None and (type(most) is not int or most < 1):
            raise ValueError(f"most must be a whole number from 1, or None for all; got {most!r}")
        if bits not in (None, 1):
            raise ValueError(f"bits must be 1, or None for tensors as they are; got {bits!r}")
        blocks(model)
        tuning = record.find(model)
        if (tuning is not None and tuning.methods) or record.find_merged(model) is not None:
            raise ValueError(
                "a bank needs the plain frozen backbone, and this model has a method attached or merged: pass a new "
                "one (create_backbone), or take Bank.load(RUN)"
            )
        self.most, self.bits = most, bits
        self._size = tuple(architecture(model)["img_size"])
        self._loader = Loader(model)
        self._tasks: dict[str, BankTask] = {}  # never changed, but put in place anew: it is read without the lock
        self._loaded: dict[str, tuple[BankTask, Adapter]] = {}  # least recently used first
        self._trees: dict[Hashable, Tree] = {}
        self._versions = count(1)
        self._lock = threading.RLock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str = "auto",
        *,
        most: int | None = None,
        bits: int | None = None,
        **backbone: Any,
    ) -> "Bank":
        """Make an empty bank on the backbone that an adapter records; arguments and errors as of ``vp.load``."""
        return cls(load_backbone(source, device, **backbone), most=most, bits=bits)

    @property
    def tasks(self) -> dict[str, BankTask]:
        """The tasks by name, in order of adding; nobody waits for a forward to know them."""
        return dict(self._tasks)

    @property
    def loaded(self) -> list[str]:
        """Names of the tasks whose adapters are in memory, the least recently used first."""
        return list(self._loaded)

    @property
    def backbone(self) -> Any:
        """The frozen model without a head, whose tensors are shared; not for change."""
        return self._loader.backbone

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self._loader.backbone.parameters()).device

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        lines = [
            f"  {printable(task.name)}: {', '.join(task.methods)}, {task.info.num_classes} classes, "
            f"{task.bytes:,} bytes" + (f", error {task.error:.3f}" if task.error else "")
            for task in self.tasks.values()
        ]
        return "\n".join([f"Bank of {len(lines)} tasks on {type(self._loader.backbone).__name__}", *lines])

    def add(self, name: str, source: str | Path) -> BankTask:
        """Add a task; forwards go on while its adapter is read.

        Args:
            name: under which it is asked for.
            source: a run folder, an adapter folder, or ``hf-hub:OWNER/NAME``.

        Raises:
            FileNotFoundError: no adapter there.
            ValueError: the bank has a task of this name; a damaged adapter, or one of another backbone or image size;
                or it trained most of the backbone in place (full fine-tuning). The bank stays as it is.
        """
        return self._put(name, source, replaced=False)

    def replace(self, name: str, source: str | Path) -> BankTask:
        """Give a task another adapter at once: a forward sees the old one or the new one.

        Raises:
            KeyError: no task of this name.
            FileNotFoundError, ValueError: as of ``add``; the old adapter stays.
        """
        self._find(name)
        return self._put(name, source, replaced=True)

    def drop(self, name: str) -> None:
        """Take a task out; others are not touched.

        Raises:
            KeyError: no task of this name.
        """
        with self._lock:
            self._find(name)
            self._unload(name)
            self._tasks = {other: task for other, task in self._tasks.items() if other != name}

    def __call__(self, images: Tensor, tasks: str | Sequence[str]) -> list[Tensor]:
        """Compute the logits of every image under its task.

        Args:
            images: B 3 H W, of clips B 3 T H W, prepared as the adapters record.
            tasks: B names, or one name for all.

        Returns:
            B tensors, each (classes of the image's task).

        Raises:
            KeyError: a task that the bank does not have; all such are named, nothing is computed.
            ValueError: another number of images than of tasks.
        """
        return [answer.logits for answer in self.answer(images, tasks)]

    @torch.no_grad()
    def answer(self, images: Tensor, tasks: str | Sequence[str]) -> list[Answer]:
        """Compute as a call does; each answer also tells which version of its task gave it."""
        names = [tasks] * len(images) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(images):
            raise ValueError(f"wanted a task for each of {len(images)} images, got {len(names)} tasks")
        with self._lock:
            self._check(names)
            wanted = list(dict.fromkeys(names))
            most = self.most or max(len(wanted), 1)
            found: dict[int, Answer] = {}
            for start in range(0, len(wanted), most):
                found |= self._answer_some(images, names, wanted[start : start + most])
        return [found[index] for index in range(len(names))]

    def _answer_some(self, images: Tensor, names: list[str], wanted: list[str]) -> dict[int, Answer]:
        groups: dict[Hashable, list[str]] = {}
        for name in wanted:
            _, adapter = self._use(name)
            groups.setdefault(("alone", name) if adapter.alone is not None else adapter.sequence, []).append(name)
        found = {}
        for group in groups.values():
            loaded = {name: self._loaded[name] for name in sorted(group, key=self._order)}
            rows = {name: [index for index, other in enumerate(names) if other == name] for name in loaded}
            every = [index for indices in rows.values() for index in indices]
            batch = images if every == list(range(len(images))) else images[torch.tensor(every, device=images.device)]
            segments = [(task.version, len(rows[name])) for name, (task, _) in loaded.items()]
            adapters = [adapter for _, adapter in loaded.values()]
            for adapter in adapters:
                adapter.expand()
            try:
                parts = self._forward(adapters[0], batch.to(self.device), segments)
            finally:
                for adapter in adapters:
                    adapter.release()
            for (name, (task, _)), logits in zip(loaded.items(), parts, strict=True):
                found |= {index: Answer(task, row) for index, row in zip(rows[name], logits, strict=True)}
        return found

    def _forward(self, first: Adapter, images: Tensor, segments: list[tuple[int, int]]) -> list[Tensor]:
        if first.alone is not None:
            return [first.alone(images)]
        return self._trees[first.sequence].run(images, segments)

    def _order(self, name: str) -> tuple[Any, ...]:
        """Tasks that run layers of their own stand at the end, so that the others' rows are one part of the batch."""
        task, adapter = self._loaded[name]
        views = adapter.views.values()
        own, away = sum(view.shortcut is None for view in views), sum(not view.joined for view in views)
        return own, away, task.methods, task.version

    def _put(self, name: str, source: str | Path, *, replaced: bool) -> BankTask:
        check_name(name)
        if not replaced and name in self:
            raise ValueError(f"the bank already has a task {name}: use bank.replace, or another name")
        folder = find_adapter(source)
        info = read_adapter_info(folder)
        self._check_size(folder, info)
        adapter = self._loader.load(folder)
        error = adapter.compress() if self.bits else 0.0
        with self._lock:
            if replaced:
                self._find(name)
                self._unload(name)
            elif name in self:
                raise ValueError(f"the bank already has a task {name}: use bank.replace, or another name")
            task = BankTask(name, folder, info, next(self._versions), adapter.nbytes, error)
            self._tasks = {**self._tasks, name: task}
            self._install(task, adapter)
        return task

    def _use(self, name: str) -> tuple[BankTask, Adapter]:
        """Have the adapter of a task in memory, as the most recently used one."""
        found = self._loaded.pop(name, None)
        if found is not None:
            self._loaded[name] = found
            return found
        task = self._tasks[name]
        if read_adapter_info(task.folder).tensors_sha256 != task.info.tensors_sha256:
            raise ValueError(
                f"the adapter in {task.folder} is not the one that was added as {name}: call bank.replace to take it"
            )
        adapter = self._loader.load(task.folder)
        if self.bits:
            adapter.compress()
        self._install(task, adapter)
        return task, adapter

    def _install(self, task: BankTask, adapter: Adapter) -> None:
        while self.most is not None and len(self._loaded) >= self.most:
            self._unload(next(iter(self._loaded)))
        if adapter.alone is None:
            if adapter.sequence not in self._trees:
                self._trees[adapter.sequence] = Tree(self._loader.copy(), adapter.attributes)
            self._trees[adapter.sequence].add(task.version, adapter)
        self._loaded[task.name] = task, adapter

    def _unload(self, name: str) -> None:
        if name not in self._loaded:
            return
        task, adapter = self._loaded.pop(name)
        if adapter.alone is None:
            self._trees[adapter.sequence].drop(task.version, adapter)

    def _find(self, name: str) -> BankTask:
        self._check([name])
        return self._tasks[name]

    def _check(self, names: Sequence[str]) -> None:
        if unknown := [name for name in dict.fromkeys(names) if name not in self._tasks]:
            hint = did_you_mean(unknown[0], self._tasks) if isinstance(unknown[0], str) else ""
            have = name_some(self._tasks) or "none"
            raise UnknownTask(f"the bank has no task {name_some(map(str, unknown))}{hint}: it has {have}")

    def _check_size(self, folder: Path, info: AdapterInfo) -> None:
        size = recorded_size(info.backbone)
        if size is not None and self._size and size != self._size:
            trained, takes = (" x ".join(map(str, pair)) for pair in (size, self._size))
            raise ValueError(
                f"the adapter in {folder} was trained at {trained} pixels, the backbone of this bank takes {takes}: "
                "a batch has one size, so it needs a bank of its own"
            )
