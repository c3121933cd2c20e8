"""What a training says about the time that it will take."""

import pytest

from vision_peft.protocols import CHOICES, PHASES
from vision_peft.training.progress import FORWARD_SHARE, Timing


def test_the_median_update_counts_and_an_evaluation_as_a_forward_pass_until_one_is_measured() -> None:
    timing = Timing([90.0, 2.0, 2.0])  # the first one compiles
    assert timing.seconds_left(10, items=0, batch_size=32) == 20
    assert timing.seconds_left(10, items=320, batch_size=32) == pytest.approx(20 + 10 * FORWARD_SHARE * 2)
    timing.evaluated += [0.5, 0.1, 0.1]
    assert timing.seconds_left(10, items=320, batch_size=32) == pytest.approx(20 + 32)


def test_every_protocol_is_described_in_words() -> None:
    assert set(CHOICES) == set(PHASES)
