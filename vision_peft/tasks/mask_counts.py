"""Counts of the pixels of masks, whole numbers, so that figures do not depend on how images are shared or ordered.

IoU of a class is TP / (TP + FP + FN) over the pixels of all images together, pixels without a class left out. The
boundary F of a class (Csurka et al., BMVC 2013, over all images together) is the harmonic mean of two shares: of the
predicted boundary that lies near the true one, and of the true one that lies near the predicted one. Near is within
`TOLERANCE` of the diagonal, in rows and in columns. A boundary is where a pixel of the class has a neighbour, above,
below or beside it, that is of another class; what touches a pixel without a class is none.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.0075  # of the diagonal of the image
IGNORE = 255


class MaskCounts:
    """What predicted masks come to beside true ones.

    Attributes:
        confusion: pixels (classes classes) by true and predicted class.
        boundary: boundary pixels (4 classes): predicted ones, of these near a true one; true ones, of these near a
            predicted one.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.boundary = torch.zeros(4, classes, dtype=torch.int64)

    def add(self, predicted: Tensor, true: Tensor) -> None:
        """Count an image by its predicted and true classes (H W); `IGNORE` among the true ones does not count."""
        classes = len(self.confusion)
        counts = true != IGNORE
        pairs = true[counts] * classes + predicted[counts]
        self.confusion += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        radius = math.ceil(TOLERANCE * math.hypot(*true.shape))
        seen = torch.where(counts, predicted, IGNORE)
        edges_seen, edges_true = find_edges(seen), find_edges(true)
        for number in torch.cat([seen[edges_seen], true[edges_true]]).unique().tolist():
            mine, theirs = edges_seen & (seen == number), edges_true & (true == number)
            rows, columns = ((mine | theirs).any(1 - axis).nonzero()[:, 0] for axis in (0, 1))
            box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
            mine, theirs = mine[box], theirs[box]  # most classes fill a small part of an image
            near_mine, near_theirs = widen(mine, radius), widen(theirs, radius)
            found = [mine.sum(), (mine & near_theirs).sum(), theirs.sum(), (theirs & near_mine).sum()]
            self.boundary[:, number] += torch.stack(found)

    def iou(self) -> Tensor:
        """Return the IoU of every class (0..1, float64); NaN where neither truth nor prediction has it."""
        right, true, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return right.double() / (true + predicted - right)

    def accuracy(self) -> float:
        """Return the share of the pixels with a class that are predicted right."""
        return self.confusion.diagonal().sum().item() / max(int(self.confusion.sum()), 1)

    def class_accuracy(self) -> Tensor:
        """Return the share of the pixels of every class that are predicted right; NaN where there are none."""
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    def boundary_f(self) -> Tensor:
        """Return the boundary F of every class (0..1, float64); NaN where neither mask has a boundary of it."""
        seen, seen_near, true, true_near = self.boundary.double()
        precision, recall = seen_near / seen, true_near / true
        score = 2 * precision * recall / (precision + recall)
        there = (seen > 0) | (true > 0)
        return torch.where(there, torch.nan_to_num(score), torch.nan)


def find_edges(classes: Tensor) -> Tensor:
    """Find the pixels (H W, bool) that have a neighbour of another class, where both have one."""
    edges = torch.zeros_like(classes, dtype=torch.bool)
    for axis in (0, 1):
        size = classes.shape[axis] - 1
        first, second = classes.narrow(axis, 0, size), classes.narrow(axis, 1, size)
        differ = (first != second) & (first != IGNORE) & (second != IGNORE)
        edges.narrow(axis, 0, size).logical_or_(differ)
        edges.narrow(axis, 1, size).logical_or_(differ)
    return edges


def widen(marked: Tensor, radius: int) -> Tensor:
    """Mark all pixels (H W, bool) within so many rows and columns of a marked one."""
    for axis in (0, 1):  # sums from the start cost the same for any radius
        ends = (0, 0, radius + 1, radius) if axis == 0 else (radius + 1, radius)
        sums = F.pad(marked.int(), ends).cumsum(axis, dtype=torch.int32)
        size = marked.shape[axis]
        marked = sums.narrow(axis, 2 * radius + 1, size) > sums.narrow(axis, 0, size)
    return marked
