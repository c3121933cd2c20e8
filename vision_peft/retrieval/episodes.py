"""Few-shot episodes on features: a few images of some classes are known, others of the same classes are asked.

Every episode draws `way` classes, `shot` images of each as known ones, and up to `queries` others of each. The answers
are those of the nearest class mean (the mean of the known images' normalised features, by cosine) and of k-NN with the
votes of `method=knn`. An episode's draw comes from (seed, number of the episode) alone, so that
more episodes begin with the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vision_peft.retrieval.nearest import iterate_nearest, normalise
from vision_peft.retrieval.score import count_votes


@dataclass(frozen=True)
class EpisodeScore:
    """Accuracy in percent: the mean over episodes, and half the width of its 95 % interval (None of one episode)."""

    way: int
    shot: int
    episodes: int
    class_mean: float
    class_mean_interval: float | None
    knn: float
    knn_interval: float | None

    def describe(self) -> str:
        """Write the figures in one line."""
        around = ["" if width is None else f" ± {width:.2f}" for width in (self.class_mean_interval, self.knn_interval)]
        return (
            f"{self.way}-way {self.shot}-shot: nearest class mean {self.class_mean:.2f}{around[0]} %, "
            f"k-NN {self.knn:.2f}{around[1]} %  ({self.episodes:,} episodes)"
        )


def score_episodes(
    features: Tensor,
    labels: Tensor,
    query_features: Tensor | None = None,
    query_labels: Tensor | None = None,
    *,
    way: int | None = 5,
    shot: int = 1,
    queries: int | None = 15,
    episodes: int = 600,
    seed: int = 0,
    k: int = 20,
    temperature: float = 0.07,
) -> EpisodeScore:
    """Score episodes whose known images are drawn from `features`.

    Args:
        features: N D.
        labels: N, whole numbers.
        query_features: M D, that queries are drawn from; None: the images of `features` that are not known ones.
        query_labels: M.
        way: classes of an episode; None: all that have enough images.
        shot: known images of each.
        queries: of each class, or as many as there are; None: all.
        episodes: how many.
        seed: of the draws.
        k: known images that vote, at most all there are.
        temperature: τ of a vote.

    Raises:
        ValueError: fewer classes with enough images than `way`, or settings below 1.
    """
    least = {"way": way, "shot": shot, "queries": queries, "episodes": episodes, "k": k}
    if wrong := [f"{name}={value}" for name, value in least.items() if value is not None and value < 1]:
        raise ValueError(f"{', '.join(wrong)}: wanted whole numbers from 1 on")
    if (query_features is None) != (query_labels is None):
        raise ValueError("queries of their own need features and labels: give both")
    known, own = normalise(features), query_features is None or query_labels is None
    asked = known if query_features is None else normalise(query_features, "queries")
    known_of = _list_by_class(labels)
    asked_of = known_of if query_labels is None else _list_by_class(query_labels)
    fitting = [
        label
        for label, items in known_of.items()
        if len(items) >= shot + own and len(asked_of.get(label, ())) > 0  # of its own one is left to be asked
    ]
    if len(fitting) < max(2, way or 2):
        needed = f"{shot + own} images" if own else f"{shot} known images and one that is asked"
        wanted = "at least two" if way is None else str(max(2, way))
        raise ValueError(f"{len(fitting)} classes have {needed}, wanted {wanted}: lower way or shot")
    way = way or len(fitting)
    rights = []
    for episode in range(episodes):
        draw = np.random.default_rng([seed, episode])
        support, question, truth = [], [], []
        for number, place in enumerate(draw.choice(len(fitting), way, replace=False).tolist()):
            items = draw.permutation(known_of[fitting[place]])
            others = items[shot:] if own else draw.permutation(asked_of[fitting[place]])
            support.append(items[:shot])
            question.append(others[:queries])
            truth += [number] * len(question[-1])
        examples = known[np.concatenate(support)].unflatten(0, (way, shot))
        answers = _answer(examples, asked[np.concatenate(question)], k, temperature)
        rights.append([100 * (answer == torch.tensor(truth)).double().mean().item() for answer in answers])
    class_mean, knn = (_summarise(values) for values in zip(*rights, strict=True))
    return EpisodeScore(way, shot, episodes, *class_mean, *knn)


def _list_by_class(labels: Tensor) -> dict[int, np.ndarray]:
    array = labels.cpu().numpy()
    return {int(label): np.flatnonzero(array == label) for label in np.unique(array)}


def _answer(examples: Tensor, asked: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return what the class means and the votes of known images (way shot D) answer to those that are asked."""
    way, shot, _ = examples.shape
    by_mean = torch.cat([found.places[:, 0] for found in iterate_nearest(asked, examples.mean(1), 1)])
    label_of = torch.arange(way).repeat_interleave(shot)
    votes = [
        count_votes(label_of[found.places], found.cosines, way, temperature)
        for found in iterate_nearest(asked, examples.flatten(0, 1), k)
    ]
    return by_mean, torch.cat(votes).argmax(1)


def _summarise(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95 % interval, 1.96 s / √episodes."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, 1.96 * math.sqrt(variance / len(values))
