"""A server answers every task of whole images as `predict` does, and says of others what answers them."""

import json
from io import StringIO

import pytest
import torch
from support.servers import as_text, picture, running
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.inference.serve.limits import Limits
from vision_peft.inference.serve.service import Service
from vision_peft.inference.write_answers import Answer, JsonLines

NUMBERS = {"kind": "regression", "mean": [1.0, 2.0, 30.0], "std": [1.0, 2.0, 0.5], "unit": "mm", "loss": "l1"}
SETS = {"kind": "multilabel", "thresholds": [0.0, 0.0, 0.0]}
BANDS = {"channels": 3, "dtype": "uint16", "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]}


def line_of_predict(predictor, image):
    (guesses,) = predictor([image])
    answer = Answer("", guesses, None, None, None, predictor.task.say(guesses))
    stream = StringIO()
    JsonLines(None, stream, predictor.task).write([answer])
    return json.loads(stream.getvalue())


def test_numbers_are_answered_as_predict_writes_them_beside_labels(tmp_path):
    numbers, labels = save_tuned(tmp_path / "numbers", task=NUMBERS), save_tuned(tmp_path / "labels", task=SETS)
    bank, image = vp.Bank.load(numbers, "cpu"), picture(1)
    for name, folder in (("size", numbers), ("kind", labels)):
        bank.add(name, folder)
    with running(bank) as server:
        status, found = server.ask("/predict", {"image": as_text(image), "tasks": ["size", "kind"]})
        described = server.ask("/tasks")[1]["tasks"]
    size, kind = found["answers"]
    wanted = line_of_predict(vp.Predictor(numbers, device="cpu"), image)
    assert status == 200
    assert size["values"] == pytest.approx(wanted["values"], rel=1e-5)
    assert (size["unit"], "labels" in size) == (wanted["unit"], False) == ("mm", False)
    assert (len(kind["labels"]), "values" in kind) == (3, False)
    assert [(each["name"], each["kind"]) for each in described] == [("size", "regression"), ("kind", "multilabel")]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"head": "seg_linear"}, "answers for every pixel: use vision-peft predict --masks FOLDER"),
        ({"task": {"kind": "embedding", "width": 3}}, "answers with features: use vision-peft embed"),
        ({"settings": BANDS}, "takes images of 3 bands, and serve reads RGB images: use vision-peft predict"),
        ({"num_frames": 2}, "takes clips, and serve reads images: use vision-peft predict"),
    ],
    ids=["maps", "embedding", "bands", "clips"],
)
def test_what_a_server_cannot_answer_is_refused_with_what_can(tmp_path, saved, message):
    folder = save_tuned(tmp_path / "adapter", **saved)
    bank = vp.Bank.load(folder, "cpu")
    bank.add("other", folder)
    with pytest.raises(ValueError, match=f"^the task other {message}$"):
        Service(bank, Limits())


def test_a_bank_answers_maps_as_the_model_alone(tmp_path):
    maps, labels = save_tuned(tmp_path / "maps", head="seg_linear"), save_tuned(tmp_path / "labels")
    bank, images = vp.Bank.load(maps, "cpu"), torch.randn(3, 3, 32, 32)
    for name, folder in (("maps", maps), ("labels", labels)):
        bank.add(name, folder)
    first, second, third = bank(images, ["maps", "labels", "maps"])
    alone = vp.load(maps, device="cpu")
    with torch.no_grad():
        wanted = alone(images)
    assert wanted.shape == (3, 3, 4, 4)
    torch.testing.assert_close(torch.stack([first, third]), wanted[[0, 2]], rtol=1e-5, atol=1e-5)
    assert second.shape == (3,)
