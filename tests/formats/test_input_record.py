"""What an adapter says of its input is checked before anything is made of it."""

from typing import Any

import pytest

from vision_peft.formats.input_record import input_problems

RGB: dict[str, Any] = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
BANDS: dict[str, Any] = {"size": [8, 8], "mean": [5.0] * 4, "std": [1.0] * 4, "channels": 4}


@pytest.mark.parametrize("recorded", [{}, RGB, BANDS, {**BANDS, "show_bands": [3, 0, 1]}, {**RGB, "show_bands": [2]}])
def test_what_a_run_records_has_no_problem(recorded: dict[str, Any]) -> None:
    assert input_problems(recorded) == []


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        ({**RGB, "size": [8, 10**9]}, "input.size is [8, 1000000000], wanted [height, width] of 1 to 4096 pixels"),
        ({**RGB, "std": [0.5, 0.5, 0]}, "input.std is [0.5, 0.5, 0], wanted a number above 0 for each channel"),
        ({**BANDS, "mean": [5.0] * 3}, "input.mean has 3 entries, wanted 4"),
        ({**BANDS, "show_bands": [4]}, "input.show_bands is [4], wanted numbers of the channels, from 0"),
        ({**RGB, "show_bands": [0, 1]}, "input.show_bands is [0, 1], wanted one or three numbers of bands, from 0"),
        ({**BANDS, "show_bands": "0"}, "input.show_bands is 0, wanted one or three numbers of bands, from 0"),
        ({**RGB, "views": 0}, "input.views is 0, wanted a whole number from 1 to 1000, or uniform"),
    ],
)
def test_what_is_wrong_is_said(recorded: dict[str, Any], problem: str) -> None:
    assert input_problems(recorded) == [problem]
