"""Retrieval metrics against a reference that is written out query by query, and against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vision_peft.retrieval.nearest import iterate_nearest, normalise
from vision_peft.retrieval.score import score_retrieval
from vision_peft.tuning.head_kinds import Neighbours
from vision_peft.tuning.neighbours import NeighbourHead

AT, K, TEMPERATURE = (1, 3, 8), 5, 0.2


def draw(seed: int, queries: int = 40, gallery: int = 60, classes: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of a narrow space and labels: one class has no query, one is not in the gallery, many rows are equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 4, generator=generator)
    asked, given = (torch.randint(0, classes, (size,), generator=generator) for size in (queries, gallery))
    asked[asked == 1], given[given == 2] = 0, 0
    found = [centres[labels] + torch.randn(len(labels), 4, generator=generator) for labels in (asked, given)]
    found[1][20:40] = found[1][:20]  # copies, of other classes too
    found[0][:5] = found[1][:5]
    return found[0], asked, found[1], given


def rank(query: Tensor, gallery: Tensor, left_out: int | None) -> list[tuple[int, float]]:
    """Rows of the gallery and their cosines, the nearest first, equal ones in their order."""
    rows = [row / np.linalg.norm(row) for row in torch.cat([query[None], gallery]).double().numpy()]
    cosines = [(float(np.dot(rows[0], row)), -place) for place, row in enumerate(rows[1:]) if place != left_out]
    return [(-place, cosine) for cosine, place in sorted(cosines, reverse=True)]


def score_written_out(
    queries: Tensor, asked: list[int], gallery: Tensor, given: list[int], alone: bool
) -> tuple[list[float], int]:
    figures, unanswerable = [], 0
    for number, label in enumerate(asked):
        ranked = rank(queries[number], gallery, number if alone else None)
        right = [given[place] == label for place, _ in ranked]
        relevant = sum(right)
        if not relevant:
            unanswerable += 1
            continue
        recall = [float(any(right[:most])) for most in AT]
        map_at_r = sum(sum(right[: i + 1]) / (i + 1) for i in range(relevant) if right[i]) / relevant
        votes = dict.fromkeys(sorted({*given, *asked}), 0.0)
        for place, cosine in ranked[:K]:
            votes[given[place]] += np.exp(cosine / TEMPERATURE)
        answer = max(votes, key=lambda name: votes[name])
        figures.append([*recall, map_at_r, sum(right[:relevant]) / relevant, float(answer == label)])
    return [100 * sum(column) / len(column) for column in zip(*figures, strict=True)], unanswerable


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_figures_are_those_of_the_reference(seed: int, alone: bool) -> None:
    queries, asked, gallery, given = draw(seed)
    if alone:
        gallery, given = gallery, torch.cat([given[:-1], torch.tensor([99])])  # the last is alone in its class
        queries, asked = gallery, given
        ours = score_retrieval(queries, asked, at=AT, k=K, temperature=TEMPERATURE)
    else:
        ours = score_retrieval(queries, asked, gallery, given, at=AT, k=K, temperature=TEMPERATURE)
    expected, unanswerable = score_written_out(queries, asked.tolist(), gallery, given.tolist(), alone)
    found = [*ours.recall.values(), ours.map_at_r, ours.r_precision, ours.knn]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (list(ours.recall), ours.unanswerable, ours.queries) == ([*AT], unanswerable, len(queries) - unanswerable)
    assert unanswerable


@pytest.mark.parametrize("cells", [1, 180, 10**6])
def test_pieces_change_nothing(cells: int) -> None:
    queries, asked, gallery, given = draw(7)
    whole = score_retrieval(queries, asked, gallery, given)
    assert score_retrieval(queries, asked, gallery, given, cells=cells) == whole
    assert score_retrieval(gallery, given, cells=cells) == score_retrieval(gallery, given)


def test_no_more_cosines_are_held_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    choose = torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda self, *a, **k: (largest.append(self.numel()), choose(self, *a, **k))[1]
    )
    queries, asked, gallery, given = draw(8)
    score_retrieval(queries, asked, gallery, given, cells=180)
    assert max(largest) == 180
    assert len(largest) == 14  # of 40 queries three at a time


def test_lengths_do_not_count_and_zeros_are_far_from_everything() -> None:
    queries, asked, gallery, given = draw(9)
    scaled = queries * torch.linspace(0.5, 9, len(queries))[:, None], asked, gallery * 4, given
    assert score_retrieval(*scaled) == score_retrieval(queries, asked, gallery, given)
    found = next(iterate_nearest(torch.zeros(1, 4), gallery, 3))
    assert (found.places.tolist(), found.cosines.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


def test_equal_rows_come_in_their_order_wherever_they_stand() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(1, 384, generator=generator).repeat(301, 1)
    gallery[[17, 250]] = torch.randn(2, 384, generator=generator)
    found = next(iterate_nearest(gallery[:1] + 0.1 * torch.randn(1, 384, generator=generator), gallery, 300))
    same = [place for place in range(301) if place not in (17, 250)]
    assert found.places[0, :299].tolist() == same
    few = next(iterate_nearest(gallery[:1], gallery, 4))  # more equal ones than are wanted
    assert few.places.tolist() == [[0, 1, 2, 3]]


def test_recall_and_votes_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 6, (300,), generator=generator)
    features = torch.randn(6, 8, generator=generator)[labels] + torch.randn(300, 8, generator=generator)
    gallery, given, queries, asked = features[:200], labels[:200], features[200:], labels[200:]
    ours = score_retrieval(queries, asked, gallery, given, at=(1,), k=9)
    one = KNeighborsClassifier(1, metric="cosine").fit(gallery.double(), given)
    weigh: Any = lambda distance: np.exp(-distance / 0.07)  # noqa: E731
    votes = KNeighborsClassifier(9, metric="cosine", weights=weigh)
    assert ours.recall[1] == pytest.approx(100 * one.score(queries.double(), asked), abs=1e-9)
    assert ours.knn == pytest.approx(100 * votes.fit(gallery.double(), given).score(queries.double(), asked), abs=1e-9)


def test_votes_are_those_of_the_method_knn() -> None:
    generator = torch.Generator().manual_seed(4)
    gallery, queries = (torch.randn(size, 8, generator=generator) for size in (90, 50))
    given, asked = (torch.randint(0, 5, (size,), generator=generator) for size in (90, 50))
    kept = torch.nn.functional.normalize(gallery, dim=1).half().float()  # as the head keeps them
    head = NeighbourHead(8, 5, Neighbours(images=90, k=7, temperature=0.07))
    head.fill(kept, given)
    right = 100 * (head(queries).argmax(1) == asked).double().mean().item()
    assert score_retrieval(queries, asked, kept, given, k=7).knn == pytest.approx(right, abs=1e-9)


def test_mistakes_are_answered() -> None:
    queries, asked, gallery, given = draw(1)
    with pytest.raises(ValueError, match="give both, or neither for leave-one-out"):
        score_retrieval(queries, asked, gallery)
    with pytest.raises(ValueError, match=r"gallery: 60 features, and labels of the shape \(59,\)"):
        score_retrieval(queries, asked, gallery, given[1:])
    with pytest.raises(ValueError, match="none of 40 queries has another image of its class"):
        score_retrieval(queries, asked + 100, gallery, given)
    with pytest.raises(ValueError, match="queries have 4 numbers each, the gallery 3: of two models"):
        score_retrieval(queries, asked, gallery[:, :3], given)
    with pytest.raises(ValueError, match="queries must be finite numbers; row 2 holds NaN"):
        score_retrieval(torch.cat([queries[:2], queries[:1] * torch.nan, queries[3:]]), asked, gallery, given)
    with pytest.raises(ValueError, match=r"got at=\[1, 5, 10\], k=0, temperature=0.07"):
        score_retrieval(queries, asked, gallery, given, k=0)
    with pytest.raises(ValueError, match=r"got at=\[0\]"):
        score_retrieval(queries, asked, gallery, given, at=[0])
    with pytest.raises(ValueError, match="the gallery is empty"):
        next(iterate_nearest(queries[:1], None, 1))
    with pytest.raises(ValueError, match=r"features must be N D, a row for each image; got \(40,\)"):
        normalise(queries[:, 0])


def test_the_line_says_what_was_left_out() -> None:
    queries, asked, gallery, given = draw(2)
    line = score_retrieval(queries, asked, gallery, given, at=[1]).describe()
    absent = int((asked == 2).sum())
    assert line.startswith("R@1 ")
    assert line.endswith(f"({40 - absent} queries, {absent} more have no other of their class)")
