"""Frames of some 200 videos against those of ffmpeg's command: containers, codecs, structures, edits, colours.

A few run by default, all of them by `pytest -m frames`.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from support.frame_matrix import RECIPES, make_video, read_reference

from vision_peft.data.decoding.video import decode_clip, frame_count
from vision_peft.data.decoding.video_backends import usable_backends
from vision_peft.data.decoding.video_file import VideoDecodeError
from vision_peft.data.decoding.video_index import read_index

SHORT = (
    *("h264.mp4", "h264 open.mkv", "h264 interlaced.mkv", "hevc.mp4", "vp9.webm", "h264 10 bit.mp4", "cut.mp4"),
    *(
        "h264.asf",
        "mpeg1.mpg",
        "mpeg2.ts",
        "mpeg4 B.avi",
        "times twice.mkv",
        "90.mp4",
        "cropped.mp4",
        "rate varies.mp4",
    ),
)


REFUSED = {  # that ffmpeg's command shows something of, and why nothing is shown here
    "no first key.webm": "Invalid data found",
    "packets missing.mp4": "frame 9 of 28 is missing",
    "packets missing.mkv": "frame 10 ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("name", SHORT)
def test_frames_are_those_of_ffmpeg(folder: Path, name: str) -> None:
    check(make_video(folder, name), singles=6)


def test_a_missing_key_frame_is_an_error_whichever_decoder_is_asked(folder: Path) -> None:
    """decord's ffmpeg says so as a remark for developers only, and shows the last frame again for those behind it."""
    path = make_video(folder, "packets missing.mkv")
    for backend in ("auto", *usable_backends()):
        with pytest.raises(VideoDecodeError):
            decode_clip(path, range, backend)


@pytest.mark.frames
@pytest.mark.parametrize("name", RECIPES)
def test_all_frames_of_all_videos_are_those_of_ffmpeg(folder: Path, name: str) -> None:
    path = make_video(folder, name)
    if name not in REFUSED:
        check(path, singles=30)
        return
    with pytest.raises(VideoDecodeError, match=REFUSED[name]):
        frame_count(path, decode=True)
    with pytest.raises(VideoDecodeError, match=REFUSED[name]):
        decode_clip(path, range)


def check(path: Path, singles: int) -> None:
    """Ask for frames in all ways, of every decoder that gets the file, and compare each with ffmpeg's."""
    frames = read_reference(path)
    count = len(frames)
    assert frame_count(path) == frame_count(path, decode=True) == count
    drawn = random.Random(path.name)
    asked = [[number] for number in drawn.sample(range(count), min(singles, count))]
    asked += [drawn.choices(range(count), k=8), [*range(count)], [*range(count // 2, count)]]  # dense
    asked += [[(2 * part + 1) * count // 16 for part in range(8)]]  # segments
    for backend in ("auto", *usable_backends()):
        if backend in read_index(path).refusals or cannot_open(path, backend):
            with pytest.raises(VideoDecodeError, match=f"{backend}: "):
                decode_clip(path, [0], backend)
            continue
        for indices in asked:
            clip = decode_clip(path, indices, backend)
            wrong = [index for index, frame in zip(indices, clip, strict=True) if not equal(frame, frames[index])]
            assert not wrong, f"{backend}: frames {wrong} of {indices} are not those of ffmpeg"


def cannot_open(path: Path, backend: str) -> bool:
    """Whether a decoder itself refuses a file whose frames are known: decord wants to be told how long a video is."""
    return backend == "decord" and path.stem == "live"


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other)


def test_decoders_that_jump_get_the_files_they_answer_rightly(folder: Path) -> None:
    both = ("h264.mp4", "h264 closed.mkv", "h264 pyramid.mkv", "hevc closed.mp4", "90.mp4", "fragments.mp4")
    assert {name: read_index(make_video(folder, name)).refusals for name in both} == {name: {} for name in both}
    assert read_index(make_video(folder, "hevc.mp4")).refusals.keys() == {"decord"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("h264.asf", "the container does not say when its frames are shown"),
        ("h264 closed.avi", "the container does not say when its frames are shown"),
        ("mpeg4.mp4", "a packet of mpeg4 need not be one frame"),
        ("cut.mp4", "an edit list hides frames"),
        ("times twice.mkv", "several frames have the same time"),
        ("begins below 0.mkv", "some frames have no time"),
        ("no first key.mkv", "it does not begin with a key frame"),
        ("h264 interlaced.mkv", "it is interlaced"),
        ("h264 open.mp4", "a key frame is not a new start"),
        ("h264 intra refresh.mp4", "a key frame is not a new start"),
        ("h264 10 bit.mp4", "libraries differ in colours of yuv420p10le"),
        ("h264 bt2020.mp4", "libraries differ in colours of yuv420p, matrix 9"),
        ("vp9.webm", "damage in vp9 goes unnoticed"),
        ("two.mkv", "it holds several video streams"),
        ("cropped.mp4", "its header says another size"),
    ],
)
def test_what_is_not_proven_is_named(folder: Path, name: str, why: str) -> None:
    refusals = read_index(make_video(folder, name)).refusals
    assert [refusal.startswith(why) for refusal in refusals.values()] == [True, True]
