"""Place points with the same number of parameters side by side about it, so that none covers another."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

ASIDE = 0.009  # of the width, from one point to the next of the same number
MOST_ASIDE = 0.06  # of it, from that number to the outermost
COVERED = (0.0085, 0.03)  # of width and height: nearer than that in both, one point covers the other
MOST_ORDERS = 120  # of a row of points that are tried

Point = tuple[float, float]  # as shares of the width and the height of a panel


def spread_points(points: Mapping[str, Point], fixed: Sequence[Point] = ()) -> dict[str, float]:
    """Return where across the panel points are drawn, by their labels; one that is alone at its number stays.

    The middle of a row of points is their number. Their order is the one in which they cover fewest others.

    Args:
        points: by label.
        fixed: others that stay where they are, those of lines.
    """
    groups: dict[float, list[str]] = defaultdict(list)
    for label, (across, _) in points.items():
        groups[across].append(label)
    alone = {labels[0]: across for across, labels in groups.items() if len(labels) == 1}
    occupied = {across for across, _ in fixed}
    found = {label: across for label, across in alone.items() if across not in occupied}
    taken = [*fixed, *(points[label] for label in found)]
    for across, labels in groups.items():
        if labels[0] in found:
            continue
        places = _line_up(across, len(labels), across in occupied)
        orders = itertools.islice(itertools.permutations(places, len(labels)), MOST_ORDERS)
        rows = [{label: (place, points[label][1]) for label, place in zip(labels, row, strict=True)} for row in orders]
        chosen = min(rows, key=lambda row: sum(_covers(one, other) for one in row.values() for other in taken))
        taken += chosen.values()
        found |= {label: place for label, (place, _) in chosen.items()}
    return found


def _line_up(middle: float, number: int, is_occupied: bool) -> Sequence[float]:
    """Return places for a number of points about `middle`, one more where it is occupied and the number odd."""
    number += is_occupied
    number += is_occupied and number % 2 == 0
    step = min(ASIDE, 2 * MOST_ASIDE / (number - 1))
    steps = [place - (number - 1) / 2 for place in range(number)]
    return [middle + step * each for each in steps if each or not is_occupied]


def _covers(one: Point, other: Point) -> bool:
    return all(abs(a - b) < near for a, b, near in zip(one, other, COVERED, strict=True))
