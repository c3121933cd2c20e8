"""Videos that prepare-video encodes anew have the colours of their source, and frames that are shown when they were."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from vision_peft.cli._encode_video import encode, list_times, scaled
from vision_peft.data.decoding.clip_times import read_timeline
from vision_peft.data.decoding.video import decode_clip
from vision_peft.data.decoding.video_backends import usable_backends
from vision_peft.data.decoding.video_index import read_index

GREEN = (40, 180, 120)
# Codec and format of pixels, ffmpeg's numbers of the matrix (1: BT.709, 6: BT.601) and the range (1: 16..235, 2: all).
COLOURS = {
    "bt601.mp4": ("libx264", "yuv420p", 6, 1),
    "bt709.mp4": ("libx264", "yuv420p", 1, 1),
    "full.mp4": ("libx264", "yuvj420p", 6, 2),
    "full_bt709.mp4": ("libx264", "yuvj420p", 1, 2),
    "bt709_444.mp4": ("libx264", "yuv444p", 1, 1),
    "photographs.avi": ("mjpeg", "yuvj420p", 6, 2),
    "rgb.mov": ("png", "rgb24", 0, 2),
}


def write_coloured(path: Path, codec: str, pixels: str, matrix: int, values: int) -> Path:
    """Write three frames of one colour, converted as the file says."""
    with av.open(str(path), "w") as made:
        stream: Any = made.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, values
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), GREEN, np.uint8), format="rgb24")
        for _ in range(3):
            space = Colorspace.ITU709 if matrix == 1 else Colorspace.ITU601
            made.mux(stream.encode(picture.reformat(64, 48, pixels, None, space, None, None, ColorRange(values))))
        made.mux(stream.encode(None))
    return path


def write_timed(path: Path, times: Sequence[int], base: Fraction, codec: str = "libx264") -> Path:
    """Write frames that are shown at these times, in units of `base` seconds."""
    with av.open(str(path), "w") as made:
        stream: Any = made.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.max_b_frames = base, 0
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, base
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return path


def list_seconds(path: Path) -> list[float]:
    timeline = read_timeline(path)
    return [round(float((time - timeline.times[0]) * timeline.base), 3) for time in timeline.times]


@pytest.mark.parametrize("name", COLOURS)
def test_the_colours_are_those_of_the_source(tmp_path: Path, name: str) -> None:
    source, target = write_coloured(tmp_path / name, *COLOURS[name]), tmp_path / "small.mp4"
    assert encode(source, target, 32, 12, 18) == 3
    before = decode_clip(source, [1])[0].mean((0, 1))
    assert np.abs(before - GREEN).max() < 5
    for backend in usable_backends():
        assert np.abs(decode_clip(target, [1], backend)[0].mean((0, 1)) - before).max() < 4, backend
    with av.open(str(target)) as made:
        frame = next(made.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (6, 1)


def test_colours_that_cannot_be_converted_are_an_error(tmp_path: Path) -> None:
    source = write_coloured(tmp_path / "ycgco.mp4", "libx264", "yuv420p", 8, 1)
    with pytest.raises(ValueError, match=r"no conversion of its colours to those of BT\.601 \(yuv420p, matrix 8\)"):
        encode(source, tmp_path / "small.mp4", 32, 12, 18)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mkv", "mpeg4")])
def test_frames_of_a_varying_rate_are_shown_when_they_were(tmp_path: Path, name: str, codec: str) -> None:
    times = [500, 600, 700, 800, 1800, 2800, 2833, 6000]
    source, target = write_timed(tmp_path / name, times, Fraction(1, 1000), codec), tmp_path / "small.mp4"
    assert read_index(source).proven == (codec == "libx264")
    assert encode(source, target, 32, 12, 18) == len(times)
    assert list_seconds(source) == list_seconds(target) == [(time - 500) / 1000 for time in times]
    assert read_timeline(source).duration == read_timeline(target).duration
    assert decode_clip(target, range(8))[:, 5, 5, 0].tolist() == pytest.approx([10 * n for n in range(8)], abs=4)


@pytest.mark.parametrize(("name", "step"), [("a.mp4", 1), ("slow.mp4", 40), ("a.avi", 1)])
def test_a_steady_rate_stays_what_it_is(tmp_path: Path, name: str, step: int) -> None:
    source, target = tmp_path / name, tmp_path / "small.mp4"
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    write_timed(source, [step * number for number in range(6)], Fraction(1, 10), codec)
    assert list_times(source) == (range(6), Fraction(step, 10))
    assert encode(source, target, 32, 12, 18) == 6
    assert list_seconds(target) == [number * step / 10 for number in range(6)]
    assert read_timeline(target).duration == read_timeline(source).duration == Fraction(6 * step, 10)


def test_a_single_frame_has_a_length(tmp_path: Path) -> None:
    source, target = write_timed(tmp_path / "one.mp4", [0], Fraction(1, 10)), tmp_path / "small.mp4"
    assert encode(source, target, 32, 12, 18) == 1
    assert read_timeline(target).duration == read_timeline(source).duration == Fraction(1, 10)


def test_only_large_frames_become_smaller() -> None:
    assert scaled(1920, 1080, 256) == (456, 256)
    assert scaled(50, 90, 32) == (32, 58)
    assert scaled(64, 41, 256) == (64, 40)
