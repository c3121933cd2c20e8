"""Metric learning: the losses against their equations, the figures of a split, what is refused."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.targets import Targets
from vision_peft.retrieval.score import score_retrieval
from vision_peft.tasks import learn_task, read_task, record_task
from vision_peft.tasks import task as task_module
from vision_peft.tasks.embedding import Embedding, PairLoss

NEEDED = "needs pytorch-metric-learning: pip install 'vision_peft[metric]'"
TARGETS = Targets("embedding")


def draw(number: int = 30, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (number,), generator=generator)
    return torch.randn(classes, 6, generator=generator)[labels] + torch.randn(number, 6, generator=generator), labels


def make_set(labels: list[int], classes: int = 3, targets: Targets | None = TARGETS) -> Any:
    return SimpleNamespace(labels=labels, classes=[str(name) for name in range(classes)], targets=targets)


def contrast(features: Tensor, labels: Tensor) -> float:
    """Supervised contrastive loss, anchor by anchor; anchors without a positive do not count."""
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    losses = []
    for anchor in range(len(unit)):
        others = [place for place in range(len(unit)) if place != anchor]
        positives = [place for place in others if labels[place] == labels[anchor]]
        logits = {place: float(unit[anchor] @ unit[place]) / 0.1 for place in others}
        total = math.log(sum(math.exp(value) for value in logits.values()))
        if positives:
            losses.append(-sum(logits[place] - total for place in positives) / len(positives))
    return sum(losses) / len(losses)


def compare_similarities(features: Tensor, labels: Tensor) -> float:
    """Multi-similarity loss without mining: alpha 2, beta 50, base 0.5."""
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    losses = []
    for anchor in range(len(unit)):
        cosines = {place: float(unit[anchor] @ unit[place]) for place in range(len(unit)) if place != anchor}
        near = sum(math.exp(-2 * (c - 0.5)) for place, c in cosines.items() if labels[place] == labels[anchor])
        far = sum(math.exp(50 * (c - 0.5)) for place, c in cosines.items() if labels[place] != labels[anchor])
        losses.append(math.log1p(near) / 2 + math.log1p(far) / 50)
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("name", "reference"), [("supcon", contrast), ("multi_similarity", compare_similarities)])
def test_losses_are_their_equations(name: str, reference: Any) -> None:
    pytest.importorskip("pytorch_metric_learning", reason=NEEDED)
    features, labels = draw()
    labels[0] = 9  # without a positive
    features.requires_grad_()
    loss = PairLoss(name)(features, labels)
    assert loss.item() == pytest.approx(reference(features.detach(), labels), rel=1e-5)
    loss.backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_a_batch_without_pairs_has_a_loss_that_can_be_propagated() -> None:
    pytest.importorskip("pytorch_metric_learning", reason=NEEDED)
    features = draw()[0][:3].requires_grad_()
    PairLoss("supcon")(features, torch.arange(3)).backward()
    assert features.grad is not None
    assert features.grad.tolist() == torch.zeros(3, 6).tolist()


def count(task: Embedding, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Any:
    tally = task.start_tally()
    for outputs, labels, indices in parts:
        tally.add(outputs, labels, indices)
    return tally


@pytest.mark.parametrize("width", [0, 6])
def test_the_figures_of_a_split_are_those_of_a_search_whoever_computed_which_part(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = draw()
    task = Embedding([str(name) for name in range(4)], TARGETS, width)
    expected = score_retrieval(features, labels, at=(1, 5))
    places = torch.arange(30)
    whole = count(task, [(features[:20], labels[:20], places[:20]), (features[20:], labels[20:], places[20:])])
    metrics = whole.gather().finish()
    assert (metrics.recall_at_1, metrics.recall_at_5) == (expected.recall[1], expected.recall[5])
    assert (metrics.map_at_r, metrics.r_precision, metrics.knn) == (
        expected.map_at_r,
        expected.r_precision,
        expected.knn,
    )
    assert metrics.loss == pytest.approx(1 - expected.map_at_r / 100)
    assert metrics.describe().startswith(f"R@1 {expected.recall[1]:.2f} %  R@5 ")
    odd, even, none = places[1::2], places[::2], places[:0]
    shares = [count(task, [(features[own], labels[own], own)] if len(own) else []) for own in (odd, even, none)]
    for own in shares:
        gathered = {"objects": iter(shares), "tensors": 0}

        def gather(value: Any) -> list[Any]:
            if isinstance(value, list):
                return [[tally.loss, tally.items, tally.bad, tally.non_finite] for tally in shares]
            return [6, 6, width]

        def gather_tensors(tensor: Tensor, counter: dict[str, Any] = gathered) -> list[Tensor]:
            place = counter["tensors"]
            counter["tensors"] = place + 1
            return [torch.cat([tally._kept[0][place] for tally in shares[:2]]), tensor[:0]]

        monkeypatch.setattr(task_module, "all_gather", gather)
        monkeypatch.setattr(task_module, "all_gather_tensors", gather_tensors)
        assert own.gather().finish().figures == metrics.figures


def test_a_split_of_single_images_has_no_figures() -> None:
    features, _ = draw(3)
    metrics = (
        count(Embedding(["a", "b", "c"], TARGETS), [(features, torch.arange(3), torch.arange(3))]).gather().finish()
    )
    assert set(metrics.figures.values()) == {None}
    assert (metrics.loss, metrics.unanswerable) == (1.0, 3)
    assert metrics.describe() == "  (3 images, 3 alone in their class)"


def test_an_adapter_records_the_width() -> None:
    task = learn_task(make_set([0, 0, 1]), Recipe(embedding_width=5))
    assert isinstance(task, Embedding)
    assert (task.outputs, record_task(task)) == (5, {"kind": "embedding", "width": 5})
    again = read_task(record_task(task), ["x"], None, TARGETS)
    assert again.outputs == 5
    with pytest.raises(ValueError, match="the model answers with 4 numbers"):
        again.check_outputs(torch.zeros(2, 4))
    learn_task(make_set([0, 0, 1]), Recipe()).check_outputs(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="width must be a whole number from 0, got -1"):
        read_task({"kind": "embedding", "width": -1}, ["x"])


def test_what_pairs_cannot_be_made_of_is_refused() -> None:
    sound = make_set([0, 0, 1])
    Embedding.check_splits({"train": sound, "val": make_set([1, 2, 2])})
    for labels, words in (([0, 1, 2], "3 classes of at most 1"), ([1, 1], "1 classes of at most 2"), ([], "0 classes")):
        with pytest.raises(ValueError, match=f"and two images of one class: split val has {words}"):
            Embedding.check_splits({"train": sound, "val": make_set(labels)})
    with pytest.raises(ValueError, match="split val has other classes than train"):
        Embedding.check_splits({"train": sound, "val": make_set([0, 0, 1], classes=2)})
    with pytest.raises(ValueError, match=r"recipe\.head=mlp-2 is a projection here: give recipe.embedding_width=128"):
        learn_task(make_set([0, 0, 1]), Recipe(head="mlp-2"))
    with pytest.raises(
        ValueError,
        match=(
            r"recipe\.embedding_width is for data.task_kind=embedding, got a task of "
            r"classes"
        ),
    ):
        learn_task(make_set([0, 0, 1], targets=None), Recipe(embedding_width=4))
    with pytest.raises(
        ValueError, match=r"recipe\.loss for a task of embedding must be one of auto, supcon, multi_similarity"
    ):
        learn_task(make_set([0, 0, 1]), Recipe(loss="cross_entropy"))
    task = learn_task(make_set([0, 0, 1]), Recipe())
    for recipe in (Recipe(label_smoothing=0.1), Recipe(class_weights="balanced")):
        with pytest.raises(ValueError, match=r"is for classes, got .* for a task of embedding"):
            task.create_loss(recipe, make_set([0, 0, 1]))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r"needs pytorch-metric-learning: pip install 'vision_peft\[metric\]'"):
        PairLoss("supcon")
