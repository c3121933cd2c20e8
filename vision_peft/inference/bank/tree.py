"""A tree: the modules of a backbone, cut at every seat that one of its tasks needs. Its tasks have equal sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vision_peft.inference.bank.adapter import Adapter
from vision_peft.inference.bank.cut import Cut, CutBlock, Plan, Task
from vision_peft.tuning import graft
from vision_peft.tuning.blocks import blocks


class Tree:
    """A copy of the backbone that shares its tensors.

    Args:
        model: the copy, which is grafted.
        attributes: of the whole model, while tasks of this tree are answered.
    """

    def __init__(self, model: Any, attributes: Mapping[str, Any]) -> None:
        self.model = model
        self.plan = Plan()
        self.blocks = {id(block) for block in blocks(model)}
        if attributes:
            graft.override(model, **attributes)

    def add(self, task: Task, adapter: Adapter) -> None:
        """Let this tree answer ``task`` too."""
        for seat, view in adapter.views.items():
            module: Any = self.model.get_submodule(seat)
            if not graft.depth(module):
                kind = CutBlock if id(module) in self.blocks else Cut
                graft.graft(module, kind, bank_views={}, bank_plan=self.plan)
            module.bank_views[task] = view

    def drop(self, task: Task, adapter: Adapter) -> None:
        """Take ``task`` out; modules that no other task touches see the whole batch again."""
        for seat in adapter.views:
            module: Any = self.model.get_submodule(seat)
            del module.bank_views[task]
            if not module.bank_views:
                graft.ungraft(module)

    def run(self, images: Tensor, segments: Sequence[tuple[Task, int]]) -> list[Tensor]:
        """Compute the logits (images x classes) of every segment of ``images``, which stand in that order."""
        self.plan.widths = {}
        with self.plan.only(segments):
            logits = self.model(images)
        parts = logits.split([count for _, count in segments])
        return [
            part[:, : self.plan.widths.get(task, part.shape[1])]
            for (task, _), part in zip(segments, parts, strict=True)
        ]
