"""Numbers on the command line: what is not one is an error that says what would be."""

import pytest

from vision_peft.cli._numbers import parse_seeds
from vision_peft.cli.main import main

POSITIVE, WHOLE = "must be a whole number of at least 1", "must be a whole number of at least 0"
SEEDS = "must be different whole numbers from 0 on, such as 0,1,2"


@pytest.mark.parametrize(
    ("verb", "flag", "value", "message"),
    [
        ("sweep", "--jobs", "0", POSITIVE),
        ("sweep", "--jobs", "two", POSITIVE),
        ("sweep", "--seeds", "0,0", SEEDS),
        ("sweep", "--seeds", "-1", SEEDS),
        ("tune", "--seeds", "", SEEDS),
        ("tune", "--seeds", "0,", SEEDS),
        ("tune", "--optuna", "1.5", POSITIVE),
        ("submit", "--nodes", "0", POSITIVE),
        ("submit", "--gpus", "-1", WHOLE),
        ("submit", "--minutes", "x", POSITIVE),
        ("embed", "--way", "some", WHOLE),
    ],
)
def test_what_is_no_such_number_is_refused(
    verb: str, flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([verb, f"{flag}={value}"])
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: argument {flag}: {message}, got {value}")


def test_seeds_are_numbers_in_their_order() -> None:
    assert parse_seeds("2,0,1") == [2, 0, 1]
