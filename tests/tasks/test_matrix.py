"""Every method under every kind of task: each tuned tensor learns, and what was saved answers as before.

A kind joins by a line in `KINDS`. By default each method runs on one of the three families under each kind.
"""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from support.families import attach, images, randomise_tuned, tiny
from support.matrix import METHODS, fits

import vision_peft as vp
from vision_peft.config.schema import Recipe
from vision_peft.data.decoding.arrays import ArrayImages
from vision_peft.data.targets import Targets
from vision_peft.formats.adapter_files import read_adapter_info
from vision_peft.tasks import learn_task, read_task, record_task

FAMILIES = ("vit", "eva02_tiny", "swin")
KINDS = {  # kind -> classes and what labels 0 to 3 stand for
    "multilabel": (
        ["sea", "sun", "ice"],
        Targets("multilabel", np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]])),
    ),
    "ordinal": (["none", "mild", "grave", "worst"], Targets("ordinal")),
    "regression": (["age", "dose"], Targets("regression", np.array([[1.0, 5.0], [2.0, 0.0], [4.0, 1.0], [3.0, 2.0]]))),
}


def list_cases() -> list[Any]:
    cases = []
    for kind in KINDS:
        for method in METHODS:
            fitting = [family for family in FAMILIES if fits(method, family)]
            marked = {family: hashlib.sha256(f"{kind} {method!r} {family}".encode()).digest() for family in fitting}
            for family in fitting:
                is_cover = method == type(method)() and family == min(fitting, key=marked.__getitem__)
                marks = [pytest.mark.matrix, *([pytest.mark.cover] if is_cover else [])]
                cases.append(pytest.param(kind, method, family, marks=marks, id=f"{kind}-{method!r}-{family}"))
    return cases


def make_task(kind: str) -> Any:
    classes, targets = KINDS[kind]
    train_set = ArrayImages(np.zeros((4, 2, 2, 3), dtype=np.uint8), range(4), classes, range(4), "made up")
    train_set.targets = targets
    return learn_task(train_set, Recipe()), train_set


@pytest.mark.parametrize(("kind", "method", "family"), list_cases())
def test_every_tuned_tensor_learns_and_a_saved_adapter_answers_as_before(kind, method, family, tmp_path):
    task, train_set = make_task(kind)
    model = attach(tiny(family), method)
    vp.replace_head(model, "linear", task.outputs)
    randomise_tuned(model)
    vp.train_mode(model)
    torch.manual_seed(0)
    x = images(model, batch=4)
    task.create_loss(Recipe(), train_set)(model(x), torch.arange(4)).backward()
    silent = {name for name, own in vp.tuned_parameters(model) if own.grad is None or not own.grad.abs().max() > 0}
    assert silent == set()
    vp.save_adapter(model, tmp_path, class_names=task.classes, task=record_task(task))
    fresh = tiny(family)
    fresh.reset_classifier(0)
    vp.load_adapter(fresh, tmp_path)
    exact = method.baked() == method
    torch.testing.assert_close(fresh.eval()(x), model.eval()(x), rtol=0, atol=0 if exact else 1e-5)
    info = read_adapter_info(tmp_path)
    again = read_task(info.task, info.class_names or [], info.temperature)
    assert type(again) is type(task)
    assert again.record() == task.record()
    assert again.outputs == task.outputs
