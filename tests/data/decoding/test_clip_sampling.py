"""Which frames make a clip, against indices worked out by hand and against pytorchvideo's clip samplers."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from pytorchvideo.data.clip_sampling import make_clip_sampler

from vision_peft.data.decoding.clip_sampling import (
    ClipSampling,
    find_last_start,
    pick_dense,
    pick_random_segments,
    pick_segments,
    spread_starts,
)


@pytest.mark.parametrize(
    ("frames", "length", "stride", "start", "wanted"),
    [
        (40, 8, 4, 0, [0, 4, 8, 12, 16, 20, 24, 28]),
        (40, 8, 4, 11, [11, 15, 19, 23, 27, 31, 35, 39]),
        (20, 8, 4, 0, [0, 4, 8, 12, 16, 19, 19, 19]),
        (6, 8, 1, 0, [0, 1, 2, 3, 4, 5, 5, 5]),
        (1, 4, 2, 0, [0, 0, 0, 0]),
    ],
)
def test_dense_clips_step_by_the_stride_and_repeat_the_last_frame(
    frames: int, length: int, stride: int, start: int, wanted: list[int]
) -> None:
    assert pick_dense(frames, length, stride, start) == wanted


@pytest.mark.parametrize(("frames", "last"), [(40, 11), (30, 1), (29, 0), (28, 0), (1, 0)])
def test_the_last_start_of_eight_frames_four_apart_leaves_room_for_29(frames: int, last: int) -> None:
    assert find_last_start(frames, 8, 4) == last


def test_views_start_evenly_from_the_first_to_the_last_place_and_one_view_in_the_middle() -> None:
    assert spread_starts(11, 4) == [0, 3, 7, 11]
    assert spread_starts(10, 2) == [0, 10]
    assert spread_starts(11, 1) == [5]
    assert spread_starts(0, 3) == [0, 0, 0]
    sampling = ClipSampling(8, 4, views=4, crops=3)
    assert [sampling.test(40, view)[0] for view in range(4)] == [0, 3, 7, 11]
    assert sampling.test(40, 3) == [11, 15, 19, 23, 27, 31, 35, 39]
    with pytest.raises(IndexError, match="view 4 of 4"):
        sampling.test(40, 4)


@pytest.mark.parametrize(
    ("frames", "length", "wanted"),
    [
        (40, 8, [2, 7, 12, 17, 22, 27, 32, 37]),
        (10, 4, [1, 3, 6, 8]),  # parts of 2.5 frames, middles 1.25, 3.75, 6.25, 8.75
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_segments_take_the_middle_of_equal_parts(frames: int, length: int, wanted: list[int]) -> None:
    assert pick_segments(frames, length) == wanted
    tick = frames / length  # as TSN and VideoMAE write it
    assert wanted == [int(tick / 2 + tick * number) for number in range(length)]


def test_two_views_of_segments_are_those_of_videomae() -> None:
    sampling = ClipSampling(16, mode="segments", views=2)
    tick = 49 / 16
    assert sampling.test(49, 0) == [int(tick * number) for number in range(16)]
    assert sampling.test(49, 1) == [int(tick / 2 + tick * number) for number in range(16)]


def test_random_segments_reach_every_frame_of_their_part_and_no_other() -> None:
    assert pick_random_segments(10, 4, [0.0] * 4) == [0, 2, 5, 7]
    assert pick_random_segments(10, 4, [0.999] * 4) == [1, 4, 6, 9]
    assert pick_random_segments(5, 8, [0.999] * 8) == [0, 0, 1, 1, 2, 3, 3, 4]
    assert pick_random_segments(1, 3, [0.5] * 3) == [0, 0, 0]


@pytest.mark.parametrize("mode", ["dense", "segments"])
def test_training_clips_depend_on_the_drawn_numbers_alone_and_reach_all_places(mode: str) -> None:
    sampling = ClipSampling(4, 2, mode)
    torch.manual_seed(0)
    seen = Counter()
    for _ in range(600):
        drawn = sampling.draw()
        clip = sampling.train(12, drawn)
        assert clip == sampling.train(12, drawn)
        assert clip == sorted(clip)
        assert set(clip) <= set(range(12))
        seen[clip[0]] += 1
    assert set(seen) == (set(range(6)) if mode == "dense" else set(range(3)))
    assert min(seen.values()) > 600 / len(seen) / 2


def test_a_clip_always_draws_as_many_numbers_so_that_the_augmentation_behind_it_stays_the_same() -> None:
    after = []
    for sampling in (ClipSampling(4, 2, "dense"), ClipSampling(4, 9, "segments")):
        torch.manual_seed(0)
        sampling.draw()
        after.append(torch.rand(3).tolist())
    assert after[0] == after[1]


def test_starts_are_those_of_pytorchvideos_constant_clips() -> None:
    """It divides the way to the last start by the number of clips, and does not take the last start itself."""
    rate, frames, length = 10, 100, 16
    for clips in (1, 2, 5, 10):
        sampler = make_clip_sampler("constant_clips_per_video", Fraction(length, rate), clips)
        theirs = [sampler(0, Fraction(frames, rate), {}).clip_start_sec * rate for _ in range(clips)]
        ours = spread_starts(find_last_start(frames, length, 1), clips + 1)[:-1]
        assert [int(start) for start in theirs] == ours


def test_random_starts_have_the_range_of_pytorchvideos_random_clips() -> None:
    rate, frames, length = 10, 30, 16
    sampler = make_clip_sampler("random", Fraction(length, rate))
    theirs = [float(sampler(0, Fraction(frames, rate), {}).clip_start_sec) * rate for _ in range(300)]
    last = find_last_start(frames, length, 1)
    assert 0 <= min(theirs) < 1
    assert last - 1 < max(theirs) <= last
    assert ClipSampling(length).train(frames, [0.0] * length)[0] == 0
    assert ClipSampling(length).train(frames, [1 - 2**-53] * length)[0] == last


@pytest.mark.parametrize("field", ["num_frames", "stride", "views", "crops"])
def test_numbers_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be a whole number from 1, got 0"):
        replace(ClipSampling(8), **{field: 0})
    with pytest.raises(ValueError, match=r"unknown clip sampling 'dnese' \(did you mean dense\?\)"):
        ClipSampling(8, mode="dnese")
