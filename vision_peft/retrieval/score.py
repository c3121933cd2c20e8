"""How good a search for images of the same class is: recall@k, mAP@R, R-precision, k-NN accuracy.

With r(i) = 1 where the i-th nearest of the gallery has the class of the query, R the number of items of that class in
the gallery, and P(i) = Σ_{j ≤ i} r(j) / i, for one query

    recall@k     1 where any r(i) = 1 for i ≤ k
    R-precision  P(R)
    mAP@R        1/R Σ_{i ≤ R} P(i) r(i)    (Musgrave et al., A Metric Learning Reality Check, ECCV 2020)
    k-NN         1 where the class has most votes, exp(cosine / τ) of each of the k nearest, as in method=knn

and the figures are means over queries, in percent. Equally near items are taken in the order of the gallery, and of
classes with equally many votes the one with the smallest number. A query whose class the gallery does not have cannot
be answered: it is left out of all figures and counted in `unanswerable`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vision_peft.retrieval.nearest import CELLS, iterate_nearest


@dataclass(frozen=True)
class RetrievalScore:
    """Figures in percent over the queries that can be answered."""

    recall: dict[int, float]  # by k
    map_at_r: float
    r_precision: float
    knn: float  # accuracy of `k` votes
    k: int
    queries: int  # that can be answered
    unanswerable: int  # whose class the gallery does not have

    def describe(self) -> str:
        """Write the figures in one line."""
        recall = "  ".join(f"R@{k} {value:.2f} %" for k, value in self.recall.items())
        left_out = f", {self.unanswerable:,} more have no other of their class" if self.unanswerable else ""
        return (
            f"{recall}  mAP@R {self.map_at_r:.2f} %  R-precision {self.r_precision:.2f} %  "
            f"{self.k}-NN {self.knn:.2f} %  ({self.queries:,} queries{left_out})"
        )


def score_retrieval(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    at: Sequence[int] = (1, 5, 10),
    k: int = 20,
    temperature: float = 0.07,
    device: str | torch.device = "cpu",
    cells: int = CELLS,
) -> RetrievalScore:
    """Search the gallery for every query, or among all other queries where there is no gallery (leave one out).

    Args:
        queries: features N D; of any length, since cosines are compared.
        query_labels: N, whole numbers.
        gallery: features M D, or None.
        gallery_labels: M.
        at: the k of recall@k.
        k: neighbours that vote.
        temperature: τ of a vote.
        device, cells: as in `iterate_nearest`.

    Raises:
        ValueError: numbers of labels that do not fit, an empty gallery, or no query that can be answered.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("a gallery needs features and labels: give both, or neither for leave-one-out")
    known = query_labels if gallery_labels is None else gallery_labels
    for what, features, labels in (("queries", queries, query_labels), ("gallery", gallery, known)):
        if features is not None and labels.shape != features.shape[:1]:
            raise ValueError(f"{what}: {len(features)} features, and labels of the shape {tuple(labels.shape)}")
    if k < 1 or temperature <= 0 or not at or min(at) < 1:
        got = f"got at={[*at]}, k={k}, temperature={temperature}"
        raise ValueError(f"at and k are whole numbers from 1 on, temperature is above 0; {got}")
    classes, numbers = torch.unique(torch.cat([known, query_labels]), return_inverse=True)
    known, asked = numbers[: len(known)], numbers[len(known) :]
    relevant = torch.bincount(known, minlength=len(classes))[asked] - int(gallery is None)
    answerable = relevant > 0
    if not answerable.any():
        raise ValueError(f"none of {len(queries)} queries has another image of its class to be found")
    found: list[Tensor] = []
    longest = max(int(relevant.max()), k, *at)
    for part, places, cosines in iterate_nearest(queries, gallery, longest, device=device, cells=cells):
        labels, wanted, same = known[places], asked[part, None], relevant[part].clamp_min(1).double()
        right = labels == wanted
        ranks = torch.arange(1, right.shape[1] + 1)
        precision = right.cumsum(1) / ranks.double()
        counted = right & (ranks <= same[:, None])
        votes = count_votes(labels[:, :k], cosines[:, :k], len(classes), temperature)
        figures = [
            *(right[:, :most].any(1) for most in at),
            (precision * counted).sum(1) / same,
            counted.sum(1) / same,
            votes.argmax(1) == wanted[:, 0],
        ]
        found.append(torch.stack([figure.double() for figure in figures], dim=1))
    means = (100 * torch.cat(found)[answerable].mean(0)).tolist()
    recall = dict(zip(at, means, strict=False))
    map_at_r, r_precision, knn = means[len(at) :]
    total = int(answerable.sum())
    return RetrievalScore(recall, map_at_r, r_precision, knn, k, total, len(queries) - total)


def count_votes(labels: Tensor, cosines: Tensor, classes: int, temperature: float) -> Tensor:
    """Return the votes (B classes) of neighbours with these labels (B k) at these cosines."""
    weights = ((cosines - 1) / temperature).exp()  # the factor e^(1/τ) cancels
    return torch.zeros(len(labels), classes, dtype=torch.double).scatter_add_(1, labels, weights)
