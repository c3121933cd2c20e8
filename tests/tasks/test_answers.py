"""What the server and exported files answer for sets of labels, grades and numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.inference.bank.task import Answer
from vision_peft.inference.export import export_model
from vision_peft.inference.onnx_runner import write_runner
from vision_peft.inference.pixels import complete_settings
from vision_peft.inference.serve.limits import Limits
from vision_peft.inference.serve.service import Service
from vision_peft.tasks import read_task

SETS = {"kind": "multilabel", "thresholds": [0.9, 0.2, 0.5]}
NUMBERS = {"kind": "regression", "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 2.0], "unit": "mm", "loss": "l1"}
GRADES = {"kind": "ordinal"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tuned(tmp_path_factory.mktemp("adapters") / "lora")


def test_the_server_names_labels_above_their_thresholds_and_numbers_with_their_unit(folder: Path) -> None:
    bank = vp.Bank.load(folder, "cpu")
    bank.add("plain", folder)
    service, plain = Service(bank, Limits()), bank.tasks["plain"]
    sets, numbers = (
        dataclasses.replace(plain, info=dataclasses.replace(plain.info, task=task)) for task in (SETS, NUMBERS)
    )
    names = plain.info.class_names or []
    logits = torch.tensor([2.0, -1.0, 3.0])
    labels = service._format(Answer(sets, logits), 1)["labels"]
    assert [each["label"] for each in labels] == [names[2], names[1]]
    assert [each["probability"] for each in labels] == pytest.approx(logits[[2, 1]].sigmoid().tolist(), abs=1e-6)
    told = service._format(Answer(numbers, logits), 1)
    assert (told["values"], told["unit"]) == ({names[0]: 3.0, names[1]: 1.0, names[2]: 9.0}, "mm")
    for task in (sets, numbers):
        service.served.clear()
        assert service.describe(task).task is task


@pytest.mark.parametrize("task", [SETS, NUMBERS])
def test_a_file_with_preprocessing_is_refused_for_other_tasks_than_classes(
    folder: Path, tmp_path: Path, task: dict[str, Any]
) -> None:
    model: Any = vp.load(folder, device="cpu")
    model.adapter_info = dataclasses.replace(model.adapter_info, task=task)
    with pytest.raises(ValueError, match=f"answers a task of {task['kind']}, whose file gives logits"):
        export_model(model, tmp_path / "model.onnx", "onnx", preprocessing=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "classes", "wanted"),
    [
        (SETS, ["a", "b", "c"], "b 0.2689, c 0.9526"),
        (NUMBERS, ["a", "b", "c"], "a 3 mm, b 1 mm, c 9 mm"),
        (GRADES, ["0", "1", "2", "3"], "1 0.6439"),
    ],
)
def test_the_runner_of_a_file_answers_by_task(
    folder: Path, task: dict[str, Any], classes: list[str], wanted: str
) -> None:
    model: Any = vp.load(folder, device="cpu")
    told = read_task(task, classes)
    text = write_runner("model.onnx", complete_settings(model), 1.0, answer=told.in_numpy)
    compile(text, "run_model.py", "exec")
    assert told.in_numpy in text
    space: dict[str, Any] = {"np": np, "names": classes, "task": task, "logits": np.array([2.0, -1.0, 3.0])}
    exec("if True:\n" + told.in_numpy, space)
    assert space["answer"] == wanted
