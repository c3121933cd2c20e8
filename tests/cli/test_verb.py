"""What is said to be next."""

import pytest

from vision_peft.cli._verb import MOST_SUGGESTED, suggest_next


def test_a_command_that_would_fill_the_screen_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    many = [f"runs/{number}" for number in range(MOST_SUGGESTED)]
    suggest_next(["report", *many], ["plot", "runs"])
    said = capsys.readouterr().out
    assert "plot runs" in said
    assert "report" not in said
    suggest_next(["report", *many])
    assert capsys.readouterr().out == ""
