"""The line that says how far a verb is."""

import time

import pytest

from vision_peft.cli._progress import Countdown


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (40.0, "4 of 12 images, 10.0 s each, 80 s left\n"),
        (0.25, "4 of 12 images, 16.0 a second, 0 s left\n"),
    ],
)
def test_slow_things_are_told_by_their_length_and_fast_ones_by_their_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, line: str
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    countdown = Countdown(12, "images")
    countdown.last -= 60  # long enough ago to be shown
    clock[0] += seconds
    countdown.show(4)
    assert capsys.readouterr().err == line


def test_more_than_was_expected_leaves_no_time_below_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    countdown = Countdown(12, "images")
    clock[0] += 45
    countdown.show(15)
    assert capsys.readouterr().err == "15 of 15 images, 3.0 s each, 0 s left\n"
