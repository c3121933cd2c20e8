"""Clips by time: the seconds are pytorchvideo's, the frames those on screen then, whatever the frame rate does."""

import random
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorchvideo.data.clip_sampling import make_clip_sampler
from support.video_files import reference, write_timed, write_video

from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.clip_times import (
    MOST_VIEWS,
    Timeline,
    draw_start,
    find_start,
    list_starts,
    make_timeline,
    read_timeline,
)
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.decoding.video_index import read_index
from vision_peft.data.loading.loader import TrainLoader, eval_loader

# Half a second of 10 frames a second, a second of 40, a still of 2 seconds, half a second of 10.
VARYING = [*range(0, 500, 100), *range(500, 1500, 25), 1500, *range(3500, 4000, 100)]
SETTINGS = {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize": "squash"}
SETTINGS |= {"crop_pct": 1.0, "num_frames": 4, "sampling": "seconds", "frame_stride": 1, "views": 1, "crops": 1}
SETTINGS |= {"clip_seconds": 1.0}


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_timed(tmp_path_factory.mktemp("varying") / "varying.mp4", VARYING)


def on_screen(start: Fraction) -> list[int]:
    """Of `VARYING`, the last frames whose time has come at the middles of the four quarters of a second."""
    seconds = [start + Fraction(2 * number + 1, 8) for number in range(4)]
    return [max(number for number, time in enumerate(VARYING) if time <= 1000 * second) for second in seconds]


def greys(frames: np.ndarray) -> list[int]:
    """The numbers of the frames of `write_timed`, by their grey."""
    return [round(float(frame.mean()) / 4) for frame in frames]


@pytest.mark.parametrize("duration", [Fraction(10), Fraction(31, 12), Fraction(2), Fraction(7, 10)])
@pytest.mark.parametrize("seconds", [Fraction(2), Fraction(1, 3)])
def test_starts_are_those_of_pytorchvideos_own_samplers(duration: Fraction, seconds: Fraction) -> None:
    for drawn in (0.0, 0.25, 0.999):
        random.seed(int(drawn * 2**53))
        theirs = make_clip_sampler("random", seconds)(0, duration, {})
        assert draw_start(seconds, duration, drawn) == theirs.clip_start_sec
        assert 0 <= theirs.clip_start_sec <= max(0, duration - seconds)
    for views in (2, 3, 10):
        constant = make_clip_sampler("constant_clips_per_video", seconds, views)
        assert [find_start(seconds, duration, view, views) for view in range(views)] == [
            constant(0, duration, {}).clip_start_sec for _ in range(views)
        ]
    uniform, ends, starts = make_clip_sampler("uniform", seconds, None, True), [Fraction(0)], []
    while not starts or not starts[-1].is_last_clip:
        starts.append(uniform(ends[-1], duration, {}))
        ends.append(starts[-1].clip_end_sec)
    assert list_starts(seconds, duration) == [clip.clip_start_sec for clip in starts]
    assert len(starts) == max(1, -(-duration // seconds))
    assert ends[-1] == max(duration, seconds)  # to the end of the video


def test_a_single_view_is_the_middle_and_the_callers_generator_is_left_alone() -> None:
    assert find_start(Fraction(2), Fraction(10), 0, 1) == 4
    assert find_start(Fraction(2), Fraction(1), 0, 1) == 0
    random.seed(1)
    wanted = random.random()
    random.seed(1)
    draw_start(Fraction(2), Fraction(10), 0.5)
    assert random.random() == wanted
    drawn = [draw_start(Fraction(2), Fraction(10), number / 500) for number in range(500)]
    assert (min(drawn) < 0.1, max(drawn) > 7.9, 3.7 < sum(drawn) / 500 < 4.3) == (True, True, True)


def test_a_clip_of_a_constant_rate_is_one_by_stride(tmp_path: Path) -> None:
    path = write_video(tmp_path / "plain.mp4", 60)  # 12 frames a second, 5 seconds
    timeline = read_timeline(path)
    assert (timeline.duration, len(timeline.times)) == (5, 60)
    dense = ClipSampling(8, 1, "dense", views=2)
    by_time = ClipSampling(8, mode="seconds", seconds=8 / 12)
    assert timeline.pick(Fraction(0), Fraction(8, 12), 8) == dense.test(60, 0) == [*range(8)]
    assert timeline.pick(timeline.duration - Fraction(8, 12), Fraction(8, 12), 8) == dense.test(60, 1)
    assert by_time.test(60, 0, lambda _: timeline) == [*range(26, 34)]
    assert timeline.pick(Fraction(1), Fraction(2), 4) == [15, 21, 27, 33]  # at 1.25, 1.75, 2.25 and 2.75 s


def test_frames_are_those_on_screen_under_a_variable_rate(varying: Path) -> None:
    timeline = read_timeline(varying)
    assert [time * timeline.base for time in timeline.times] == [Fraction(time, 1000) for time in VARYING]
    assert timeline.duration == Fraction(VARYING[-1], 1000) * Fraction(len(VARYING), len(VARYING) - 1)
    for start in ("0", "0.31", "1.2", "2.9", "3.3"):
        assert timeline.pick(Fraction(start), Fraction(1), 4) == on_screen(Fraction(start))
    dataset = VideoFiles([varying], [0], ["walk"])
    dataset.clips = ClipSampling(4, mode="seconds", views=3, seconds=1.0)
    views = [on_screen((timeline.duration - 1) * view / 3) for view in range(3)]
    assert [greys(dataset.clip(view).permute(0, 2, 3, 1).numpy()) for view in range(3)] == views
    assert views[2] == [45] * 4  # the still, where a clip by number of frames would run on


@pytest.mark.parametrize("name", ["plain.avi", "stream.ts"])
def test_times_that_only_decoding_tells_are_learnt_and_change_no_clip(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, 30, "mpeg4" if name.endswith("avi") else "libx264")
    frames = reference(path)
    dataset = VideoFiles([path], [0], ["walk"])
    dataset.clips = ClipSampling(4, mode="seconds", seconds=1.0, views=2)
    assert read_index(path).frames is None
    first = dataset.clip(1)
    assert read_index(path).frames == 30
    assert torch.equal(dataset.clip(1), first)
    wanted = read_timeline(path).pick(Fraction(3, 4), Fraction(1), 4)  # half of the 1.5 s that a clip can move
    assert wanted == [10, 13, 16, 19]
    assert np.array_equal(first.permute(0, 2, 3, 1).numpy(), frames[wanted])


def test_an_animation_has_the_times_that_it_is_shown_at(tmp_path: Path) -> None:
    path, durations = tmp_path / "show.gif", [100, 700, 100, 100, 400]
    pictures = [Image.new("RGB", (32, 32), (50 * number,) * 3) for number in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations)
    timeline = read_timeline(path)
    starts = [0, *accumulate(durations)][:5]
    assert [float(time * timeline.base) for time in timeline.times] == [start / 1000 for start in starts]


def test_behind_the_end_the_last_frame_stands_still_and_short_videos_are_named(tmp_path: Path) -> None:
    short, long = write_video(tmp_path / "short.mp4", 6), write_video(tmp_path / "long.mp4", 60)
    dataset = VideoFiles([short, long], [0, 1], ["a", "b"])
    dataset.clips = ClipSampling(4, mode="seconds", seconds=1.0)
    assert read_timeline(short).pick(Fraction(0), Fraction(1), 4) == [1, 4, 5, 5]
    assert np.array_equal(dataset.clip(0).permute(0, 2, 3, 1).numpy(), reference(short)[[1, 4, 5, 5]])
    assert dataset.describe_oddities() == (
        f"1 of 2 videos looked at are shorter than a clip of 1 s (the shortest: {short}, 0.50 s): "
        "their last frame stands still for the rest of it"
    )
    dataset.clips = ClipSampling(4, mode="seconds", seconds=0.5)
    assert dataset.describe_oddities() == ""
    dataset.clips = ClipSampling(4)
    assert dataset.describe_oddities() == ""


def test_uniform_views_are_as_many_as_a_video_has_room_for(tmp_path: Path, varying: Path) -> None:
    paths = [write_video(tmp_path / f"{frames}.mp4", frames) for frames in (24, 6, 60)]
    (tmp_path / "broken.mp4").write_bytes(paths[0].read_bytes()[:500])
    dataset = VideoFiles([*paths, tmp_path / "broken.mp4"], [0, 1, 0, 1], ["a", "b"])
    dataset.set_evaluation({**SETTINGS, "views": "uniform", "resize": "shortest", "crops": 2})
    views = [4, 2, 10, 2]  # two crops of 2, 1, 5 seconds
    assert [dataset.first_item(video) for video in range(5)] == [0, *accumulate(views)]
    assert dataset.labels == [0] * 4 + [1] * 2 + [0] * 10 + [1] * 2
    assert [dataset.source_of(item) for item in range(18)] == [0] * 4 + [1] * 2 + [2] * 10 + [3] * 2
    frames = reference(paths[2])
    for view in range(5):
        wanted = frames[[12 * view + 1, 12 * view + 4, 12 * view + 7, 12 * view + 10]]
        for crop in range(2):
            item = 6 + 2 * view + crop
            assert np.array_equal(dataset.clip(item).permute(0, 2, 3, 1).numpy(), wanted)
            assert dataset.crop(item) == crop
    with pytest.raises(ImageDecodeError, match="broken"):
        dataset[16]
    loader = eval_loader(dataset, 4, 0, bad="wrong")
    seen = [index for _, _, indices in loader for index in indices.tolist()]
    assert (seen, loader.unreadable) == ([*range(16)], [16, 17])
    part = dataset.subset([17, 4])
    assert [part.first_item(video) for video in range(3)] == [0, 2, 4]


def test_clips_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match=f"more than {MOST_VIEWS} of the 1e\\+12 s of this video"):
        list_starts(Fraction(1), Fraction(10**12))


def test_a_video_without_times_has_a_constant_rate(varying: Path) -> None:
    index = read_index(varying)
    timeline = make_timeline(index, 3)  # of another number of frames than its packets
    assert (timeline.times, timeline.base) == (range(3), 1 / index.rate)
    assert Timeline(range(1), Fraction(1, 10), Fraction(1, 10)).pick(Fraction(0), Fraction(5), 3) == [0, 0, 0]


def test_training_clips_depend_on_seed_epoch_and_item_alone(tmp_path: Path, varying: Path) -> None:
    paths = [varying, *(write_video(tmp_path / f"{number}.mp4", 40 + number) for number in range(5))]

    def read(seed: int, epoch: int, workers: int = 0, start: int = 0) -> list[torch.Tensor]:
        dataset = VideoFiles(paths, [0, 1] * 3, ["a", "b"])
        dataset.set_training(SETTINGS, augment="none", random_erasing=0.0)
        return [clips for clips, _, _ in TrainLoader(dataset, 2, seed, workers).epoch(epoch, start)]

    first = read(0, 0)
    for again in (read(0, 0), read(0, 0, workers=2)):
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first[2:], read(0, 0, start=2), strict=True))
    for other in (read(0, 1), read(1, 0)):
        assert not any(torch.equal(one, next_one) for one, next_one in zip(first, other, strict=True))


@pytest.mark.parametrize(
    "settings", [SETTINGS, {**SETTINGS, "sampling": "segments"}, {**SETTINGS, "sampling": "dense"}]
)
def test_the_clip_of_the_middle_is_what_a_single_view_shows(varying: Path, settings: dict) -> None:
    train, val = (VideoFiles([varying], [0], ["a"]) for _ in range(2))
    train.set_training({**settings, "views": 3}, "none", 0.0, clip_place="middle")
    val.set_evaluation({**settings, "views": 1, "crops": 1})
    assert not train.varies
    assert torch.equal(train[0][0], train[0][0])
    assert torch.equal(train[0][0], val[0][0])
    train.set_training(settings, "none", 0.0)
    assert train.varies


def test_folders_of_frames_have_no_times(tmp_path: Path) -> None:
    dataset = VideoFiles([tmp_path], [0], ["a"], frame_counts=[3])
    with pytest.raises(ValueError, match="folders with an image per frame: take sampling=segments or dense"):
        dataset.set_training(SETTINGS, augment="none", random_erasing=0.0)


def test_clips_by_time_ask_for_seconds_and_for_times() -> None:
    with pytest.raises(ValueError, match="sampling by seconds needs clip_seconds, got None"):
        ClipSampling(4, mode="seconds")
    with pytest.raises(ValueError, match="views must be a whole number from 1, got 'uniform'"):
        ClipSampling(4, views="uniform")
    with pytest.raises(ValueError, match="needs the times of the frames"):
        ClipSampling(4, mode="seconds", seconds=1).test(10)
    with pytest.raises(IndexError, match="view 1 of 1"):
        ClipSampling(4, mode="seconds", seconds=1).test(10, 1, lambda _: Timeline(range(10), Fraction(1), Fraction(10)))
    assert ClipSampling(4, mode="seconds", seconds=0.1).length == Fraction(1, 10)
