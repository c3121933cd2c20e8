"""Points of one number of parameters stand side by side, where they cover no other point."""

import pytest

from vision_peft.results.plots.spread import ASIDE, spread_points


def test_points_of_one_number_are_side_by_side_about_it_and_others_stay() -> None:
    found = spread_points({"a": (0.5, 0.2), "b": (0.5, 0.8), "alone": (0.7, 0.2)})
    assert found == {"a": pytest.approx(0.5 - ASIDE / 2), "b": pytest.approx(0.5 + ASIDE / 2), "alone": 0.7}


def test_a_row_that_would_cover_another_point_moves_aside() -> None:
    points = {"a": (0.5, 0.3), "b": (0.5, 0.6), "c": (0.5, 0.9), "alone": (0.5 - ASIDE, 0.31)}
    found = spread_points(points)
    assert found["alone"] == 0.5 - ASIDE
    assert [found[name] - 0.5 for name in "abc"] == pytest.approx([0, ASIDE, 2 * ASIDE])
    points["alone"] = (0.5 - ASIDE, 0.5)  # beside no point of its height
    assert [spread_points(points)[name] - 0.5 for name in "abc"] == pytest.approx([-ASIDE, 0, ASIDE])


def test_two_rows_do_not_cover_each_other() -> None:
    points = {"a": (0.5, 0.3), "b": (0.5, 0.6), "c": (0.5 + ASIDE, 0.6), "d": (0.5 + ASIDE, 0.3)}
    found = spread_points(points)
    assert abs(found["b"] - found["c"]) > 0.9 * ASIDE
    assert abs(found["a"] - found["d"]) > 0.9 * ASIDE
