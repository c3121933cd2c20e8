"""The commands of docs/segmentation.md can be composed."""

import re
import shlex
from pathlib import Path

from vision_peft.training import compose_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "segmentation.md"


def test_the_trainings_of_the_page_can_be_composed():
    lines = re.findall(r"^vision-peft train (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert compose_config(shlex.split(line, comments=True)).recipe.answers_maps


def test_values_of_masks_arrive_from_a_command_line():
    config = compose_config(
        [
            "data=segmentation",
            "data.root=x",
            "recipe.head=seg_linear",
            "data.values={7: road, 0/0/142: car, 0: ignore}",
        ]
    )
    expected = (("7", "road"), ("0/0/142", "car"), ("0", "ignore"))
    assert config.data.values == expected  # pyright: ignore[reportAttributeAccessIssue]
