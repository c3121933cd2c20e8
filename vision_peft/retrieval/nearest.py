"""Find the nearest of a gallery for every query by cosine, exactly, in pieces that fit into memory.

Cosines are computed in double precision. Equally near items come in the order of the gallery: rows of the gallery that
are the same have the same cosine to the last bit, wherever they stand.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CELLS = 2**23  # cosines that are held at a time; 67 MB


class Nearest(NamedTuple):
    """The nearest of the gallery for some queries, the nearest first."""

    queries: slice  # which they are
    places: Tensor  # B most, int64: rows of the gallery
    cosines: Tensor  # B most, double


def iterate_nearest(
    queries: Tensor,
    gallery: Tensor | None,
    most: int,
    *,
    device: str | torch.device = "cpu",
    cells: int = CELLS,
) -> Iterator[Nearest]:
    """Yield the `most` nearest of the gallery for every query, some queries at a time, in order.

    Args:
        queries: N D, of any length.
        gallery: M D; None: the queries themselves, each of which is compared with all others.
        most: as many, or as there are.
        device: computes the cosines; it must have double precision.
        cells: cosines held at a time, at least one row of them.

    Raises:
        ValueError: an empty gallery, other widths, or values that are NaN or infinite.
    """
    alone = gallery is None
    asked = normalise(queries, "queries")
    given = asked if gallery is None else normalise(gallery, "gallery")
    available = len(given) - alone
    if available < 1:
        raise ValueError("the gallery is empty: wanted features of at least one other image")
    if asked.shape[1] != given.shape[1]:
        raise ValueError(f"queries have {asked.shape[1]} numbers each, the gallery {given.shape[1]}: of two models?")
    distinct, copies = _find_copies(given)
    columns, most = distinct.T.to(device), min(most, available)
    rows = max(1, cells // len(given))
    for start in range(0, len(asked), rows):
        part = slice(start, min(start + rows, len(asked)))
        cosines = asked[part].to(device) @ columns
        cosines = cosines if copies is None else cosines[:, copies.to(device)]
        if alone:
            own = torch.arange(part.start, part.stop, device=device)
            cosines[own - part.start, own] = -torch.inf
        yield Nearest(part, *_choose_largest(cosines, most))


def normalise(features: Tensor, what: str = "features") -> Tensor:
    """Return features (N D) in double precision with length 1; zeros stay zeros.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    if features.ndim != 2:
        raise ValueError(f"{what} must be N D, a row for each image; got {tuple(features.shape)}")
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"{what} must be finite numbers; row {row} holds NaN or infinity")
    double = features.double().cpu()
    lengths = double.norm(dim=1, keepdim=True)
    return double / torch.where(lengths > 0, lengths, 1.0) + 0.0  # no -0, which has other bytes than 0


def _find_copies(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the distinct rows and where each row is among them; None where all are distinct."""
    array = np.ascontiguousarray(rows.numpy())
    whole = array.view(np.dtype((np.void, array.itemsize * array.shape[1]))).ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return rows, None
    return rows[torch.from_numpy(first)], torch.from_numpy(inverse)


def _choose_largest(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return places and values of the `most` largest of each row (B M), the largest first, equal ones by place."""
    largest, places = values.topk(most, dim=1)  # equal ones in any order
    cut = (values >= largest[:, -1:]).sum(1) > most  # of equal ones any were left out
    places, order = places.sort(dim=1)
    largest, again = largest.gather(1, order).sort(dim=1, descending=True, stable=True)
    places = places.gather(1, again)
    for row in cut.nonzero().flatten().tolist():
        ordered, where = values[row].sort(descending=True, stable=True)
        largest[row], places[row] = ordered[:most], where[:most]
    return places.cpu(), largest.cpu()
