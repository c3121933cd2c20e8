"""Reading every image once: how far ahead, how it is said, and headers with broken EXIF."""

from pathlib import Path

import pytest
from PIL import Image
from support.checked import Squares, noise

from vision_peft.data.check.contents import ProgressLine, read_contents
from vision_peft.data.decoding.images import read_header


def test_only_as_many_images_are_asked_for_as_the_threads_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    most_ahead = 0

    class Counted(Squares):
        def image(self, index: int) -> Image.Image:
            asked.append(index)
            return super().image(index)

    def note(done: int, total: int) -> None:
        nonlocal most_ahead
        assert total == 200
        most_ahead = max(most_ahead, len(asked) - done)

    contents = read_contents({"train": Counted(range(200), [0] * 200)}, workers=2, progress=note)
    assert list(contents) == [f"grey {value}" for value in range(200)]
    assert sorted(asked) == list(range(200))
    assert most_ahead <= 2 * 4 + 1


def test_the_progress_line_comes_now_and_then_and_not_for_small_sets(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line(1, 2)
    line(2, 2)
    assert capsys.readouterr().err == ""
    line.next = 0.0
    line(1000, 2000)
    line(1001, 2000)
    assert capsys.readouterr().err == "1,000 of 2,000 items read\n"


def test_a_header_with_broken_exif_is_upright(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(40)))
    assert read_header(tmp_path / "a.jpg") == ("JPEG", "RGB", (9, 7), 1)
