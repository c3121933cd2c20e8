"""What is said of items without an answer where a task cannot count them as wrong: of files, or of the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.mask_files import write_depths
from support.tiny_run import tiny_config
from torch import nn

import vision_peft.training.fit as fit_module
from vision_peft.data.targets import Targets
from vision_peft.distributed.device import Compute
from vision_peft.tasks.regression import Regression
from vision_peft.tasks.task import NotFinite, Task
from vision_peft.training.evaluation import evaluate, evaluate_heads
from vision_peft.training.progress import Diverged
from vision_peft.training.trained import train

CPU = Compute(torch.device("cpu"), "fp32")
OF = "which a task of regression cannot count as wrong"
WAYS_OUT = "train with a lower recipe.lr or recipe.clip_grad=1, or give precision=fp32"


def make_task() -> Task:
    return Regression(["age"], Targets("regression", values=np.arange(3.0)[:, None]), mean=[1.0], std=[1.0])


def batch_of(answers: list[float], heads: int = 1) -> Any:
    items = torch.arange(len(answers) // heads)
    return [(torch.tensor(answers)[:, None], items, items)]


def test_a_file_is_a_file_and_a_number_a_number() -> None:
    tally = make_task().start_tally()
    tally.add(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    tally.bad = [2]
    with pytest.raises(ValueError, match=f"^1 of 3 images cannot be decoded, {OF}: remove the files") as files:
        tally.finish()
    assert "NaN" not in str(files.value)
    for answers in ([1.0, float("nan"), float("inf")], [float("nan")] * 3):
        number = sum(not np.isfinite(each) for each in answers)
        wanted = f"^{number} of 3 images are answered with NaN or infinity, {OF}"
        with pytest.raises(NotFinite, match=f"{wanted}: {WAYS_OUT}$") as numbers:
            evaluate(nn.Identity(), batch_of(answers), make_task(), CPU)
        assert "files" not in str(numbers.value)


def test_a_head_without_figures_leaves_those_of_the_others() -> None:
    first, second = evaluate_heads(nn.Identity(), batch_of([1.0, 2.0, float("nan"), 1.0], 2), make_task(), CPU, 2)
    assert not isinstance(first, NotFinite)
    assert first.figures["mae"] == pytest.approx(2.0)  # answers of 2 and 3 to 0 and 1
    assert isinstance(second, NotFinite)


def test_a_training_that_answers_with_nan_has_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_depths(tmp_path / "set", {"train": 4, "val": 2, "test": 2})
    real: Callable[..., Any] = fit_module.evaluate_heads

    def evaluate_broken(model: Any, *rest: Any) -> Any:
        with torch.no_grad():
            next(iter(model.get_classifier().parameters())).fill_(float("nan"))
        return real(model, *rest)

    monkeypatch.setattr(fit_module, "evaluate_heads", evaluate_broken)
    config = tiny_config(root, tmp_path, "data=depth", "method=lora", "recipe.head=seg_linear", "recipe.epochs=1")
    wanted = "^val after epoch 1/1: 2 of 2 images are answered with NaN or infinity, which a task of depth cannot count"
    with pytest.raises(Diverged, match=wanted):
        train(config)


def test_labels_are_not_smoothed_where_there_are_none(tmp_path: Path) -> None:
    root = write_depths(tmp_path / "set", {"train": 4, "val": 2, "test": 2})
    words = ["data=depth", "method=lora", "recipe.head=seg_linear", "recipe.label_smoothing=0.3"]
    wanted = r"^data=depth: recipe\.label_smoothing is for classes: for a task of depth leave it out$"
    with pytest.raises(ValueError, match=wanted):
        train(tiny_config(root, tmp_path / "runs", *words))
    assert not (tmp_path / "runs").exists()
