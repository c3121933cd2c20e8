"""Points of one number of parameters stand side by side about it, where they cover no other point."""

import statistics

import pytest

from vision_peft.results.plots.spread import ASIDE, COVERED, spread_points


def test_points_of_one_number_are_side_by_side_about_it_and_others_stay() -> None:
    found = spread_points({"a": (0.5, 0.2), "b": (0.5, 0.8), "alone": (0.7, 0.2)})
    assert found == {"a": pytest.approx(0.5 - ASIDE / 2), "b": pytest.approx(0.5 + ASIDE / 2), "alone": 0.7}


def test_points_that_would_cover_another_one_change_places_and_stay_about_their_number() -> None:
    points = {"a": (0.5, 0.3), "b": (0.5, 0.6), "c": (0.5, 0.9), "alone": (0.5 - ASIDE, 0.31)}
    found = spread_points(points)
    assert found["alone"] == 0.5 - ASIDE
    assert found["a"] >= 0.5
    assert statistics.fmean(found[name] for name in "abc") == pytest.approx(0.5)
    points["alone"] = (0.5 - ASIDE, 0.5)  # beside no point of its height
    assert [spread_points(points)[name] - 0.5 for name in "abc"] == pytest.approx([-ASIDE, 0, ASIDE])


def test_two_rows_do_not_cover_each_other() -> None:
    points = {"a": (0.5, 0.3), "b": (0.5, 0.6), "c": (0.5 + ASIDE, 0.6), "d": (0.5 + ASIDE, 0.3)}
    found = spread_points(points)
    assert abs(found["b"] - found["c"]) > COVERED[0]
    assert abs(found["a"] - found["d"]) > COVERED[0]


def test_points_stand_on_either_side_of_that_of_a_line_which_stays() -> None:
    points = {"a": (0.5, 0.3), "b": (0.5, 0.31)}
    assert sorted(spread_points(points, [(0.5, 0.3)]).values()) == pytest.approx([0.5 - ASIDE, 0.5 + ASIDE])
    aside = spread_points({"a": (0.5, 0.3)}, [(0.5, 0.3), (0.5 - ASIDE, 0.3)])
    assert aside == {"a": pytest.approx(0.5 + ASIDE)}, "where it covers no other one"
    assert spread_points({"a": (0.4, 0.3)}, [(0.5, 0.3)]) == {"a": 0.4}
