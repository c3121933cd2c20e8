"""Place points with the same number of parameters side by side, so that none covers another."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

ASIDE = 0.014  # of the width, from one point to the next of the same number
MOST_ASIDE = 0.12  # of it, from that number to the outermost
SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)  # of a row of points, in steps; the first of the best is taken
COVERED = (0.9 * ASIDE, 0.03)  # of width and height: nearer than that in both, one point covers the other

Point = tuple[float, float]  # as shares of the width and the height of a panel


def spread_points(points: Mapping[str, Point]) -> dict[str, float]:
    """Return where across the panel points are drawn, by their labels; one that is alone at its number stays."""
    groups: dict[float, list[str]] = defaultdict(list)
    for label, (across, _) in points.items():
        groups[across].append(label)
    taken = [points[labels[0]] for labels in groups.values() if len(labels) == 1]
    found = {labels[0]: across for across, labels in groups.items() if len(labels) == 1}
    for across, labels in groups.items():
        if len(labels) == 1:
            continue
        heights = [points[label][1] for label in labels]
        rows = [[*zip(_line_up(across, len(labels), shift), heights, strict=True)] for shift in SHIFTS]
        counts = [sum(_covers(one, other) for one in row for other in taken) for row in rows]
        chosen = rows[counts.index(min(counts))]
        taken += chosen
        found |= {label: place for label, (place, _) in zip(labels, chosen, strict=True)}
    return found


def _line_up(middle: float, number: int, shift: float) -> Sequence[float]:
    step = min(ASIDE, 2 * MOST_ASIDE / (number - 1))
    return [middle + step * (place - (number - 1) / 2 + shift) for place in range(number)]


def _covers(one: Point, other: Point) -> bool:
    return all(abs(a - b) < near for a, b, near in zip(one, other, COVERED, strict=True))
