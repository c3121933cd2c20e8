"""Videos that take far more memory than their files do: refused, or decoded into one array."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.peak_memory import RESET, measure_memory
from support.video_files import reference, write_sizes, write_video

from vision_peft.data.decoding import video_file
from vision_peft.data.decoding.frame_folders import decode_frame_folder
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video import decode_all, decode_clip, frame_count
from vision_peft.data.decoding.video_backends import usable_backends


def write_gif(path: Path, width: int, height: int, frames: int = 8) -> Path:
    """Write a screen of this size on which one pixel changes in each frame: some 200 bytes."""
    frame = b"\x21\xf9\x04\x04\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(b"GIF89a" + screen + frame * frames + b";")
    return path


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (65_535, 1_000)])
def test_a_gif_of_a_huge_screen_is_refused_unread(tmp_path: Path, width: int, height: int) -> None:
    path = write_gif(tmp_path / "bomb.gif", width, height)
    started = time.process_time()
    for read in (frame_count, lambda path: decode_clip(path, [0]), lambda path: next(decode_all(path))):
        with pytest.raises(ImageDecodeError, match=f"its frames are {width:,} x {height:,}: wanted at most 36,000,000"):
            read(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("name", "codec", "known"),
    [
        ("a.mp4", "libx264", True),
        ("a.mkv", "libvpx", True),
        ("a.ts", "libx264", True),
        ("a.gif", "gif", True),
        ("a.mp4", "mpeg4", False),
        ("a.ts", "mpeg2video", False),
        ("a.avi", "mjpeg", False),
    ],
)
def test_larger_frames_than_the_most_are_refused_in_every_container(
    tmp_path: Path, name: str, codec: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / name, 3, codec)
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    size = "its frames are 64 x 48: wanted at most 3,071 pixels; make it smaller"
    with pytest.raises(ImageDecodeError, match=size if known else "its frames may be of more than 3,071 pixels"):
        decode_clip(path, [0])


def test_frames_that_grow_beyond_the_most_on_the_way_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sizes(tmp_path / "grows.ts", (64, 48), (640, 480))
    with pytest.raises(ImageDecodeError, match="the size changes from 64x48 to 640x480"):
        frame_count(path, decode=True)
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 64 * 48)
    with pytest.raises(ImageDecodeError) as error:
        frame_count(path, decode=True)
    assert "640x480" not in str(error.value)


@pytest.mark.parametrize("backend", ["auto", *usable_backends()])
def test_a_clip_beyond_the_most_bytes_is_refused_once(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_video(tmp_path / "a.mp4", 12), write_video(tmp_path / "a.avi", 12, "mpeg4")]
    monkeypatch.setattr(video_file, "MAX_CLIP_BYTES", 4 * 3 * 64 * 48)
    for path in paths if backend in ("auto", "pyav") else paths[:1]:
        assert np.array_equal(decode_clip(path, [1, 0, 1, 5], backend), reference(path)[[1, 0, 1, 5]])
        with pytest.raises(ImageDecodeError, match="5 frames of 3,072 pixels at a time would take") as error:
            decode_clip(path, range(5), backend)
        assert str(error.value).count("at a time") == 1


def test_a_folder_of_frames_has_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(video_file, "MAX_CLIP_BYTES", 4 * 3 * 8 * 6)
    assert decode_frame_folder(str(tmp_path), 5, lambda _: [3, 0, 3, 1])[:, 0, 0, 0].tolist() == [3, 0, 3, 1]
    with pytest.raises(ImageDecodeError, match="5 frames of 48 pixels at a time would take"):
        decode_frame_folder(str(tmp_path), 5, range)


@pytest.mark.skipif(not RESET.exists(), reason="the high-water mark of memory is reset on Linux only")
def test_a_clip_is_decoded_into_one_array(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "large.gif", 2_000, 2_000, frames=12)
    frame_count(path, decode=True)
    for read in (lambda: decode_clip(path, range(12), "pyav"), lambda: next(decode_all(path, at_once=12))):
        with measure_memory() as taken:
            size = read().nbytes / 2**20
            assert taken() < 1.7 * size
