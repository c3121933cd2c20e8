"""Pictures of masks say what is in their columns and which colour is which class, for few classes and for many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_peft.tasks.overlays import HEADINGS, MOST_NAMED, draw_legend, draw_rows, make_palette


def list_colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("classes", [1, 2, 11, 150])
@pytest.mark.parametrize("width", [40, 368, 1500])
def test_a_legend_has_the_first_classes_in_their_colours_and_counts_the_rest(classes: int, width: int) -> None:
    palette = make_palette(classes)
    picture = draw_legend([(f"class {number}", colour) for number, colour in enumerate(palette)], width)
    assert picture.width == width
    assert set(palette[: min(classes, MOST_NAMED)]) <= list_colours(picture)
    entries = min(classes, MOST_NAMED) + (classes > MOST_NAMED)
    assert picture.height <= entries * 18 + 4
    edges = [np.asarray(picture)[:, -2:], np.asarray(picture)[-2:]]
    assert all((edge == 255).all() for edge in edges)  # nothing is cut off


def test_long_names_are_shortened() -> None:
    picture = draw_legend([("a" * 5000, (200, 0, 0)), ("b\x1b[2K" * 9, (0, 200, 0))], 200)
    assert (np.asarray(picture)[:, -2:] == 255).all()
    assert picture.height == 2 * 18 + 4


def test_headings_stand_above_and_the_legend_below_the_pictures(tmp_path: Path) -> None:
    tile = Image.new("RGB", (160, 90), (10, 20, 30))
    draw_rows(tmp_path / "plain.png", [[tile] * 3] * 2)
    draw_rows(tmp_path / "full.png", [[tile] * 3] * 2, HEADINGS, [("land", (200, 0, 0)), ("water", (0, 0, 200))])
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "full.png") as full:
        assert full.size == (plain.width, plain.height + 20 + 26)
        assert np.array_equal(np.asarray(full)[20:-26], np.asarray(plain))
        for column in range(3):
            above = np.asarray(full)[:20, column * 164 : column * 164 + 160]
            assert above.min() < 100  # a heading
        assert {(200, 0, 0), (0, 0, 200)} <= list_colours(full.crop((0, full.height - 26, full.width, full.height)))
