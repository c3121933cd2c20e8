"""A check of videos: their own sizes and lengths, every frame decoded, tiles that show four frames."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.video_files import reference, write_timed, write_video

from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.contact_sheet import TILE, draw_sheet
from vision_peft.data.check.report import TaskReport, summarise, to_json
from vision_peft.data.datasets.video_list import VideoLists


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of videos: five in train, one in val, two in test."""
    write_video(tmp_path / "a" / "0.mp4", 24)
    write_video(tmp_path / "a" / "1.mp4", 36, size=(128, 64))
    write_video(tmp_path / "b" / "2.avi", 12, "mpeg4", size=(96, 96))
    write_timed(tmp_path / "b" / "3.mkv", [0, 100, 1900])
    write_video(tmp_path / "b" / "4.gif", 12, "gif", size=(32, 32))
    write_video(tmp_path / "b" / "val.mp4", 30)
    write_video(tmp_path / "a" / "test.mp4", 18)
    write_video(tmp_path / "b" / "test.mp4", 6, size=(48, 48))
    lists = {"train": ["a/0.mp4", "a/1.mp4", "b/2.avi", "b/3.mkv", "b/4.gif"], "val": ["b/val.mp4"]}
    lists |= {"test": ["a/test.mp4", "b/test.mp4"]}
    for split, names in lists.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{name} {name[0]}\n" for name in names))
    return tmp_path


def check(root: Path) -> TaskReport:
    data = VideoLists(root=str(root), train="train.txt", val="val.txt", test="test.txt")
    (report,) = check_tasks(data, workers=1)
    return report


def test_videos_are_reported_as_what_they_are(root: Path) -> None:
    report = check(root)
    lines = summarise(report).splitlines()
    assert lines[0] == f"video_list: 2 classes, 8 videos below {root}"
    columns = ["split", "videos", "per class", "empty classes", "width", "height", "sizes"]
    assert re.split("  +", lines[1]) == [*columns, "frames", "rate", "seconds", "containers and codecs"]
    assert "6 to 18, median 12" in lines[5]
    assert lines[5].endswith("MP4/MOV, h264")
    (task,) = to_json([report])["tasks"]
    train = task["splits"]["train"]
    assert (train["images"], train["unreadable"]) == (5, 0)
    assert train["width"] == {"min": 32, "median": 64, "max": 128}
    assert train["height"] == {"min": 32, "median": 48, "max": 96}
    assert train["sizes"] == 4
    assert train["frames"] == {"min": 3, "median": 12, "max": 36}
    assert train["rate"]["max"] == pytest.approx(12, abs=0.1)
    assert train["rate"]["min"] == pytest.approx(3 / 2.85, abs=0.01)  # 1.9 s and half of it for the last frame
    assert train["seconds"]["max"] == 3
    assert train["containers"] == {"MP4/MOV": 2, "AVI": 1, "Matroska/WebM": 1, "GIF": 1}
    assert train["codecs"] == {"h264": 3, "mpeg4": 1, "gif": 1}
    assert report.findings == []


def test_damage_anywhere_in_a_video_and_copies_in_two_splits_are_problems(root: Path) -> None:
    (root / "a" / "test.mp4").write_bytes((root / "a" / "1.mp4").read_bytes())
    late = root / "a" / "0.mp4"
    with av.open(str(late)) as container:
        place, size = max((packet.pos, packet.size) for packet in container.demux(video=0) if packet.pos is not None)
    content = bytearray(late.read_bytes())
    content[place : place + size] = b"\x55" * size
    late.write_bytes(content)
    report = check(root)
    unreadable, shared = report.of("problem")
    assert (unreadable.kind, unreadable.text.partition(": ")[0]) == ("unreadable", str(late))
    assert shared.text.startswith("train and test share a video (the same file): ")


def test_a_tile_of_a_video_shows_four_frames(root: Path, tmp_path: Path) -> None:
    report = check(root)
    sheet = np.asarray(Image.open(draw_sheet(report.datasets, "videos", tmp_path / "sheet.png")))
    left, top, step = 230, 104, TILE + 4
    tile = sheet[top + step : top + step + TILE, left : left + TILE]  # b/2.avi: four squares of 96 pixels
    frames = reference(root / "b" / "2.avi")[[1, 4, 7, 10]]
    rows = [np.concatenate(frames[[first, first + 1]], axis=1) for first in (0, 2)]
    wanted = Image.fromarray(np.concatenate(rows)).resize((TILE, TILE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    assert np.array_equal(tile, np.asarray(wanted))
