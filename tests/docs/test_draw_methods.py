"""The pictures of docs/concepts are what the script beside them draws."""

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "concepts"
PICTURES = sorted(path.name for path in FOLDER.glob("*.svg"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    runpy.run_path(str(FOLDER / "draw_methods.py"), run_name="draw_methods")["draw"](folder)
    return folder


def test_every_picture_is_drawn_and_shown(drawn: Path) -> None:
    shown = re.findall(r"\]\((\w+\.svg)\)", (FOLDER / "index.md").read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in drawn.iterdir()) == PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(drawn: Path, name: str) -> None:
    (words, numbers), (expected_words, expected_numbers) = _read(FOLDER / name), _read(drawn / name)
    assert words == expected_words
    assert numbers == pytest.approx(expected_numbers, abs=0.3)


def _read(picture: Path) -> tuple[list[str], list[float]]:
    """Return a picture's text and numbers apart, without the fonts, which versions of matplotlib write otherwise."""
    text = re.sub(r'<text style="[^"]*(fill: #\w+)[^"]*"', r"<text \1", picture.read_text("utf-8"))
    return re.split(r"\d+\.\d+|\b\d+\b", text), [float(number) for number in re.findall(r"\d+\.\d+|\b\d+\b", text)]


@pytest.mark.parametrize("name", PICTURES)
def test_lines_are_drawn_on_top_of_the_card(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8")
    assert text.index("fill: #ffffff") < text.index('id="line2d_1"')
