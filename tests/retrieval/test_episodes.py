"""Few-shot episodes: deterministic, apart from their queries, and as a reference has them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vision_peft.retrieval.episodes import EpisodeScore, score_episodes


def draw(seed: int, number: int = 120, classes: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (number,), generator=generator)
    return torch.randn(classes, 6, generator=generator)[labels] + torch.randn(number, 6, generator=generator), labels


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def score_written_out(
    features: np.ndarray, labels: np.ndarray, way: int, shot: int, queries: int, episodes: int, seed: int, k: int
) -> list[list[float]]:
    names = [name for name in np.unique(labels) if (labels == name).sum() > shot]
    found = []
    for episode in range(episodes):
        draw = np.random.default_rng([seed, episode])
        known, asked = {}, []
        for place in draw.choice(len(names), way, replace=False):
            items = draw.permutation(np.flatnonzero(labels == names[place]))
            known[names[place]] = unit(features[items[:shot]])
            asked += [(item, names[place]) for item in items[shot : shot + queries]]
        right = [0, 0]
        for item, truth in asked:
            row = unit(features[item])
            by_mean = max(known, key=lambda name: float(unit(known[name].mean(0)) @ row))
            cosines = sorted(((float(each @ row), name) for name in known for each in known[name]), reverse=True)[:k]
            votes = {name: sum(math.exp(c / 0.07) for c, own in cosines if own == name) for name in known}
            right[0] += by_mean == truth
            right[1] += max(votes, key=lambda name: votes[name]) == truth
        found.append([100 * count / len(asked) for count in right])
    return found


@pytest.mark.parametrize(("way", "shot", "k"), [(5, 1, 20), (3, 4, 3), (8, 2, 5)])
def test_the_figures_are_those_of_the_reference(way: int, shot: int, k: int) -> None:
    features, labels = draw(way)
    ours = score_episodes(features, labels, way=way, shot=shot, queries=4, episodes=12, seed=3, k=k)
    expected = np.array(score_written_out(features.double().numpy(), labels.numpy(), way, shot, 4, 12, 3, k))
    width = 1.96 * expected.std(0, ddof=1) / math.sqrt(12)
    found = [ours.class_mean, ours.knn, ours.class_mean_interval, ours.knn_interval]
    np.testing.assert_allclose(found, [*expected.mean(0), *width], rtol=0, atol=1e-9)
    assert shot == 1 or ours.class_mean != ours.knn


def test_the_same_seed_gives_the_same_figures_and_another_others() -> None:
    features, labels = draw(0)
    first, again, other = (score_episodes(features, labels, episodes=20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    one, two, both = (score_episodes(features, labels, episodes=n, seed=1) for n in (1, 2, 2))
    assert (one.class_mean_interval, two) == (None, both)
    assert one.class_mean != two.class_mean


def test_queries_are_never_the_known_images() -> None:
    """Noise tells nothing of its class, so that only an image that is known itself would be found."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 200, generator=generator), torch.arange(60) % 10
    assert score_episodes(features, labels, way=10, shot=3, queries=None, episodes=30).class_mean < 25
    theirs = score_episodes(features, labels, features, labels, way=10, shot=6, queries=None, episodes=3)
    assert theirs == EpisodeScore(10, 6, 3, 100.0, 0.0, 100.0, 0.0)


def test_queries_of_their_own_are_asked_and_classes_without_any_are_left_out() -> None:
    features, labels = draw(5)
    few = labels < 3
    ours = score_episodes(features, labels, features[few], labels[few], way=None, shot=2, queries=None, episodes=5)
    assert (ours.way, ours.episodes) == (3, 5)
    with pytest.raises(ValueError, match="3 classes have 2 known images and one that is asked, wanted 4"):
        score_episodes(features, labels, features[few], labels[few], way=4, shot=2)


def test_mistakes_are_answered() -> None:
    features, labels = draw(0)
    with pytest.raises(ValueError, match="way=0, episodes=-1: wanted whole numbers from 1 on"):
        score_episodes(features, labels, way=0, episodes=-1)
    with pytest.raises(ValueError, match="8 classes have 2 images, wanted 9: lower way or shot"):
        score_episodes(features, labels, way=9)
    with pytest.raises(ValueError, match="0 classes have 501 images, wanted at least two"):
        score_episodes(features, labels, way=None, shot=500)
    with pytest.raises(ValueError, match="give both"):
        score_episodes(features, labels, features)


def test_the_line_has_the_intervals() -> None:
    assert EpisodeScore(5, 1, 600, 50.574, 0.764, 40.0, None).describe() == (
        "5-way 1-shot: nearest class mean 50.57 ± 0.76 %, k-NN 40.00 %  (600 episodes)"
    )
