"""Metrics against counts by hand."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.peak_memory import measure_memory
from torch import Tensor, nn

from vision_peft.distributed.device import Compute
from vision_peft.packed_bits import unpack_bits
from vision_peft.tasks import classes as classes_module
from vision_peft.tasks.classes import Classes, ClassMetrics, write_confusion
from vision_peft.training import evaluation
from vision_peft.training.evaluate_saved import check_classes

CPU = Compute(torch.device("cpu"), "fp32")


class Given(nn.Module):
    """Its input is its output."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def evaluate(model: nn.Module, batches: Any, classes: list[str], compute: Compute) -> ClassMetrics:
    found = evaluation.evaluate(model, batches, Classes(classes), compute)
    assert isinstance(found, ClassMetrics)
    return found


def logits_for(predictions: list[int], classes: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(predictions), classes).float() * 5


def test_the_metrics_of_unequal_batches_are_those_of_all_images_together() -> None:
    truth, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]
    logits, labels, indices = logits_for(predicted, 4), torch.tensor(truth), torch.arange(6)
    batches = [(logits[:4], labels[:4], indices[:4]), (logits[4:], labels[4:], indices[4:])]
    metrics = evaluate(Given(), batches, ["a", "b", "c", "absent"], CPU)
    assert metrics.images == 6
    assert metrics.top1 == pytest.approx(100 * 4 / 6)
    assert metrics.per_class == {"a": pytest.approx(200 / 3), "b": 50, "c": 100, "absent": None}
    assert metrics.mean_per_class == pytest.approx((200 / 3 + 50 + 100) / 3)
    assert metrics.confusion == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert metrics.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert metrics.top5 is None
    assert unpack_bits(metrics.to_row()["correct"], 6).tolist() == [True, True, False, True, False, True]


def test_top5_counts_labels_among_the_five_highest_and_needs_six_classes() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1]])
    labels = torch.tensor([4, 5])
    metrics = evaluate(Given(), [(logits, labels, labels)], list("abcdef"), CPU)
    assert (metrics.top1, metrics.top5) == (0, 50)
    five = evaluate(Given(), [(logits[:, :5], labels[:1].repeat(2), labels)], list("abcde"), CPU)
    assert five.top5 is None


@pytest.mark.parametrize("number", [2, 7, 400, 401])
def test_the_counts_are_those_of_torchmetrics(number: int) -> None:
    from torchmetrics.functional.classification import (  # seconds to import
        multiclass_accuracy,
        multiclass_confusion_matrix,
    )

    generator = torch.Generator().manual_seed(number)
    logits = torch.randn(3000, number, generator=generator)
    labels = (torch.rand(3000, generator=generator) ** 2 * number).long()
    parts = zip(logits.split(700), labels.split(700), torch.arange(3000).split(700), strict=True)
    metrics = evaluate(Given(), parts, [str(name) for name in range(number)], CPU)
    counts = multiclass_confusion_matrix(logits.argmax(1), labels, number)
    found = torch.zeros_like(counts)
    for truth, predicted, count in metrics.pairs:
        found[truth, predicted] = count
    assert torch.equal(found, counts)
    assert metrics.confusion == (counts.tolist() if number <= 400 else None)
    assert metrics.top1 == 100 * counts.diagonal().sum().item() / 3000
    each = multiclass_accuracy(logits, labels, number, average=None).double()
    present = labels.bincount(minlength=number) > 0
    assert [share for share in metrics.per_class.values() if share is not None] == pytest.approx(
        (100 * each[present]).tolist(), abs=1e-4
    )
    assert metrics.mean_per_class == pytest.approx((100 * each[present]).mean().item(), abs=1e-4)


@pytest.mark.parametrize("number", [21_981, 100_000])
def test_memory_grows_with_the_images_and_not_with_the_square_of_the_classes(number: int, tmp_path: Path) -> None:
    labels = torch.tensor([0, number - 1, 5, number - 1])
    logits = torch.zeros(4, number)
    logits[torch.arange(4), torch.tensor([0, number - 1, 7, 3])] = 1
    with measure_memory() as taken:
        metrics = evaluate(Given(), [(logits, labels, labels)], [f"class {name}" for name in range(number)], CPU)
        write_confusion(tmp_path / "confusion.csv", metrics)
        assert taken() < 200
    assert (metrics.top1, metrics.mean_per_class, metrics.confusion) == (50, 50, None)
    last = f"class {number - 1}"
    lines = ["true,predicted,count", "class 0,class 0,1", "class 5,class 7,1", f"{last},class 3,1", f"{last},{last},1"]
    assert (tmp_path / "confusion.csv").read_text().splitlines() == lines


def test_answers_for_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="answers with 3 numbers, the data has 2 classes"):
        evaluate(Given(), [(logits_for([1], 3), torch.tensor([0]), torch.arange(1))], ["x", "y"], CPU)


def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Given(), [], ["a", "b"], CPU)


def test_an_answer_that_is_not_finite_is_wrong_and_counted() -> None:
    logits, labels = logits_for([0, 0, 0, 1, 1], 2), torch.tensor([0, 0, 0, 1, 1])
    logits[0, 1], logits[1], logits[3, 0] = math.nan, math.inf, -math.inf
    metrics = evaluate(Given(), [(logits, labels, torch.arange(5))], ["x", "y"], CPU)
    assert (metrics.top1, metrics.images, metrics.non_finite, metrics.bad) == (40, 5, 3, 0)
    assert metrics.per_class == {"x": pytest.approx(100 / 3), "y": 50}
    assert metrics.loss == pytest.approx(nn.functional.cross_entropy(logits[[2, 4]], labels[[2, 4]]).item())
    assert "3 answered with NaN or infinity and counted as wrong" in metrics.describe()
    assert metrics.to_row()["n_non_finite"] == 3
    assert unpack_bits(metrics.to_row()["correct"], 5).tolist() == [False, False, True, False, True]


def test_which_items_are_right_is_known_by_their_place_whoever_answered_them(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predicted, places = (
        torch.tensor([0, 1, 1, 0, 1]),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([3, 0, 4, 2, 1]),
    )
    logits, task = logits_for(predicted.tolist(), 2), Classes(["x", "y"])
    alone = evaluate(Given(), [(logits, truth, places)], task.classes, CPU)
    assert unpack_bits(alone.correct or "", 5).tolist() == [False, True, False, True, True]
    parts = []
    for own in (slice(0, 2), slice(2, 5), slice(5, 5)):
        parts.append(task.start_tally())
        if own.start < own.stop:
            parts[-1].add(logits[own], truth[own], places[own])
    asked = iter([[tally.pairs for tally in parts], [tally.places for tally in parts]])
    monkeypatch.setattr(classes_module, "all_gather_tensors", lambda _: [torch.cat(own) for own in next(asked)])
    monkeypatch.setattr(classes_module, "all_gather", lambda own: [own])
    whole = task.start_tally()
    parts[0].gather_into(whole)
    whole.items = 5
    assert whole.compute({"loss": 0.0, "images": 5}).correct == alone.correct


@pytest.mark.parametrize("places", [[0, 1, 1], [0, 1, 3], [-1, 0, 1]])
def test_which_items_are_right_is_not_known_of_a_part_of_a_data_set(places: list[int]) -> None:
    batch = (logits_for([0, 0, 0], 2), torch.tensor([0, 0, 1]), torch.tensor(places))
    metrics = evaluate(Given(), [batch], ["x", "y"], CPU)
    assert (metrics.correct, metrics.top1) == (None, pytest.approx(200 / 3))


def test_only_answers_that_are_not_finite_give_nought_percent() -> None:
    metrics = evaluate(
        Given(), [(torch.full((2, 6), math.nan), torch.zeros(2).long(), torch.arange(2))], [*"abcdef"], CPU
    )
    assert (metrics.top1, metrics.top5, metrics.non_finite) == (0, 0, 2)
    assert math.isnan(metrics.loss)


def test_the_hardest_items_are_the_surest_wrong_answers_in_their_order() -> None:
    sure = [3.0, 1.0, 2.0, 9.0, 2.0]
    logits = torch.tensor([[0.0, each] for each in sure])
    labels = torch.tensor([0, 0, 0, 1, 0])  # all but number 3 are answered wrongly
    batches = [(logits[:3], labels[:3], torch.arange(3)), (logits[3:], labels[3:], torch.tensor([3, 4]))]
    metrics = evaluate(Given(), batches, ["x", "y"], CPU)
    wanted = [(item, "x", "y", pytest.approx(1 / (1 + math.exp(-sure[item])))) for item in (0, 2, 4, 1)]
    assert metrics.list_hardest() == wanted
    many = torch.arange(40)
    metrics = evaluate(Given(), [(torch.tensor([[0.0, 1.0]] * 40), many * 0, many)], ["x", "y"], CPU)
    assert [item for item, *_ in metrics.list_hardest()] == [*range(12)]


def test_the_confusion_file_names_rows_and_columns(tmp_path: Path) -> None:
    metrics = evaluate(Given(), [(logits_for([1, 1], 2), torch.tensor([0, 1]), torch.arange(2))], ["x", "y"], CPU)
    write_confusion(tmp_path / "confusion.csv", metrics)
    assert (tmp_path / "confusion.csv").read_text().splitlines() == ["true \\ predicted,x,y", "x,0,1", "y,0,1"]


def test_data_with_other_classes_is_refused_with_both_lists() -> None:
    with pytest.raises(ValueError, match=r"adapter has 2 classes \(cat, dog\), data=folder has 3 \(a, b, c\)"):
        check_classes(["cat", "dog"], 2, ["a", "b", "c"], "data=folder")
    with pytest.raises(ValueError, match=r"another order: dog, cat against cat, dog"):
        check_classes(["cat", "dog"], 2, ["dog", "cat"], "data=folder")
    check_classes(["cat", "dog"], 2, ["cat", "dog"], "data=folder")
    check_classes(None, 2, ["cat", "dog"], "data=folder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_classes(["cafe\u0301", "dog"], 2, ["caf\u00e9", "dog"], "data=folder")
    with pytest.warns(UserWarning, match="names its classes horse, cow, the adapter was trained on cat, dog"):
        check_classes(["cat", "dog"], 2, ["horse", "cow"], "data=folder")
