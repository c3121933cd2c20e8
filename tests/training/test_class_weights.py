"""Weights of classes in the loss: those that were given, or by how rare a class is; the same over all processes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.mask_files import write_mask, write_set
from support.pair import in_two_processes
from support.tiny_run import tiny_config, write_photos
from torch import nn

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data.class_weights import weigh_counts
from vision_peft.distributed.device import Compute
from vision_peft.tasks.classes import Classes, CrossEntropy, list_class_weights
from vision_peft.tasks.segmentation import list_pixel_weights
from vision_peft.training.build import load_splits
from vision_peft.training.step import TrainStep
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
CPU = Compute(torch.device("cpu"), "fp32")
SAME = [
    "recipe.optimizer=sgd",
    "recipe.lr=0.1",
    "method.dropout=0",
    "recipe.epochs=2",
    "recipe.class_weights=[1,4,0.5]",
]


def loss_of(config: Config, logits: torch.Tensor, targets: torch.Tensor, weights: list[float] | None) -> torch.Tensor:
    return TrainStep(config, nn.Linear(2, 3), CrossEntropy(0.0, weights), 3, CPU).compute_loss(logits, targets)


def test_the_loss_of_an_image_is_multiplied_by_the_weight_of_its_class(tiny: Tiny) -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    weights = torch.tensor([1.0, 4.0, 0.5])
    expected = (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
    assert loss_of(tiny(), logits, labels, weights.tolist()) == pytest.approx(expected.item())
    assert loss_of(tiny(), logits, labels, [1.0, 1.0, 1.0]) == pytest.approx(F.cross_entropy(logits, labels).item())
    soft = F.one_hot(labels, 3).float()
    assert loss_of(tiny(), logits, soft, weights.tolist()) == pytest.approx(expected.item())


def test_balanced_goes_by_the_labels_that_are_trained_on(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"train": 8, "val": 2, "test": 2})
    for path in sorted((tmp_path / "photos" / "train" / "red").iterdir())[2:]:
        path.unlink()
    config = tiny_config(tmp_path / "photos", tmp_path / "runs", "recipe.class_weights=balanced")
    found = list_class_weights(config.recipe, load_splits(config)["train"])  # of blue 8, green 8, red 2
    assert found == pytest.approx([18 / 24, 18 / 24, 18 / 6])
    assert train(config).row.top1 is not None


def test_effective_weights_of_masks_go_by_their_pixels_and_by_beta(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", {"train": 4, "val": 1, "test": 1}, size=(4, 2))
    write_mask(root / "masks" / "000.png", np.array([[0, 0, 0, 1], [0, 0, 0, 0]], np.uint8), palette=True)
    words = ["data=segmentation", "recipe.head=seg_linear"]
    train_set = load_splits(tiny_config(root, tmp_path, *words))["train"]
    counts = [7 + 3 * 4, 1 + 3 * 4]
    for how, beta in (("effective", 0.5), ("effective", 0.99), ("balanced", 0.5)):
        given = tiny_config(root, tmp_path, *words, f"recipe.class_weights={how}", f"recipe.effective_beta={beta}")
        inverse = [1 / each if how == "balanced" else (1 - beta) / (1 - beta**each) for each in counts]
        scale = sum(counts) / sum(count * each for count, each in zip(counts, inverse, strict=True))
        assert list_pixel_weights(given.recipe, train_set) == pytest.approx([scale * each for each in inverse])


def test_the_limit_of_effective_weights_is_balanced(tiny: Tiny) -> None:
    counts = [900, 90, 0, 10]
    balanced = weigh_counts(counts, "balanced")
    assert weigh_counts(counts, "effective", 1.0) == balanced
    assert weigh_counts(counts, "effective", 1 - 1e-9) == pytest.approx(balanced, rel=1e-4)
    assert train(tiny("recipe.class_weights=effective", "recipe.effective_beta=1.0")).row.top1 is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[1,2]", r"recipe\.class_weights must be 3 numbers, one for each class; got 2"),
        ("[1,-1,1]", "class_weights must be numbers of at least 0, not all 0"),
        ("[0,0,0]", "class_weights must be numbers of at least 0, not all 0"),
        (
            "balancd",
            "class_weights must be balanced, effective, null, or a list with one number per class; got balancd",
        ),
        ("[a,b,c]", "class_weights must be"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, given: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny(f"recipe.class_weights={given}"))
    assert list(tmp_path.iterdir()) == []


def losses(config: Config) -> list[float]:
    return [entry["train_loss"] for entry in train(config).row.curve]


def losses_of_two(_: int, folder: Path, photos: Path) -> Any:
    return losses(tiny_config(photos, folder / "two", *SAME))


def test_two_processes_and_parts_of_a_batch_have_the_losses_of_one(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    one = losses(tiny(*SAME))
    assert losses(tiny(*SAME, "recipe.accumulate=4")) == pytest.approx(one, abs=1e-5)
    assert losses(tiny(*SAME[:-1])) != pytest.approx(one, abs=1e-2)
    first, second = in_two_processes(functools.partial(losses_of_two, photos=photos), tmp_path)
    assert first["given"] == second["given"] == pytest.approx(one, abs=1e-5)
    assert run_folder(tiny(*SAME)) != run_folder(tiny())


def test_logits_are_adjusted_by_the_shares_of_train_in_the_loss_alone(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"train": 8, "val": 2, "test": 2})
    for path in sorted((tmp_path / "photos" / "train" / "red").iterdir())[2:]:
        path.unlink()
    plain, adjusted = (
        tiny_config(tmp_path / "photos", tmp_path / "runs", *words) for words in ([], ["recipe.logit_adjustment=2"])
    )
    train_set = load_splits(plain)["train"]  # blue 8, green 8, red 2
    loss = Classes(train_set.classes).create_loss(adjusted.recipe, train_set)
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    shift = 2 * torch.tensor([8 / 18, 8 / 18, 2 / 18]).log()
    assert loss(logits, labels).item() == pytest.approx(F.cross_entropy(logits + shift, labels).item())
    soft = F.one_hot(labels, 3).float()
    assert loss(logits, soft).item() == pytest.approx(F.cross_entropy(logits + shift, labels).item())
    folder = train(adjusted).folder
    log = (folder / "log.txt").read_text()
    assert "logit adjustment: 2 times the log of each class's share of train (0.111 to 0.444)" in log
    assert run_folder(adjusted) != run_folder(plain)
