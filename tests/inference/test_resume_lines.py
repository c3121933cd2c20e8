"""How sure answers of an earlier start were, by their lines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_peft.calibration import calibration_error
from vision_peft.inference.answer_inputs import Score
from vision_peft.inference.write_answers import resume_lines


def read(tmp_path: Path, **line: Any) -> Any:
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "a.png", "label": "x", "true": "x", **line}) + "\n")
    (found,) = resume_lines(tmp_path / "a.jsonl")
    return found.surest


@pytest.mark.parametrize(
    ("line", "surest"),
    [
        ({"top": [["x", 0.4], ["y", 0.3]]}, ("x", 0.4)),
        ({"top": [["x", 0.4]]}, ("x", 0.4)),
        ({"top": [["x", 0.3], ["y", 0.4]], "expected": 1.2}, ("y", 0.4)),  # the grade in the middle stands first
        ({"top": [["x", 0.6]], "expected": 1.2}, ("x", 0.6)),
        ({"top": [["x", 0.4]], "expected": 1.2}, None),  # another grade may be likelier
        ({}, None),
        ({"top": []}, None),
        ({"top": [["x", 1.5]]}, None),
        ({"top": [["x", "y"]]}, None),
        ({"top": [[1, 0.5]]}, None),
        ({"top": "x"}, None),
    ],
)
def test_the_likeliest_class_of_a_line_is_found_where_it_is_there(tmp_path: Path, line: Any, surest: Any) -> None:
    assert read(tmp_path, **line) == surest


def test_the_error_of_resumed_answers_is_that_of_all_or_not_said() -> None:
    probabilities = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.55, 0.45], [0.9, 0.1]])
    labels, names = torch.tensor([0, 0, 1, 0]), ["x", "y"]
    score = Score()
    for row, label in zip(probabilities[:2].tolist(), labels[:2].tolist(), strict=True):
        value, name = max(zip(row, names, strict=True))
        score.count_again(name, names[label], (name, value))
    score.reliability.add(probabilities[2:], labels[2:])
    assert score.calibration_error == pytest.approx(calibration_error(probabilities, labels), abs=1e-9)
    score.count_again("x", "x", None)
    assert score.calibration_error is None
