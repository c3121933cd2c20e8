"""Moving digits: real files, made once, whose single frames say nothing about the class."""

import hashlib
import multiprocessing
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision_peft.data.datasets.digits import Digits
from vision_peft.data.datasets.moving_digits import DIRECTIONS, MovingDigits, moving
from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.video_dataset import VideoFiles

FEW: dict[str, Any] = {"train_clips": 24, "val_clips": 8, "test_clips": 16}


def load(cache: Path, split: str = "train", **fields: Any) -> VideoFiles:
    dataset = MovingDigits(cache=str(cache), **{**FEW, **fields}).load(split)
    assert isinstance(dataset, VideoFiles)
    dataset.clips = ClipSampling(8)
    return dataset


def digit() -> Image.Image:
    return Digits().load("train").image(0)


def test_the_clips_are_files_that_show_what_was_drawn(tmp_path: Path) -> None:
    train = load(tmp_path)
    assert train.classes == list(DIRECTIONS)
    assert Counter(train.labels) == dict.fromkeys(range(8), 3)
    digits = Digits(seed=0).load("train")
    state = np.random.RandomState([0, 0])
    for index in range(24):
        drawn = digits.image(state.randint(len(digits)))
        across, down = state.randint(56, size=2)
        direction = list(DIRECTIONS.values())[train.labels[index]]
        wanted = moving(drawn, direction, (across, down), 8, 56).astype(float)
        clip = train.clip(index).permute(0, 2, 3, 1).numpy()
        assert clip.shape == (8, 56, 56, 3)
        assert np.abs(clip - wanted).mean() < 3  # the codec loses a little
    sizes = [len(load(tmp_path, split)) for split in ("train", "val", "trainval", "test")]
    assert sizes == [24, 8, 32, 16]


def test_digits_move_by_four_pixels_and_come_back_at_the_other_side() -> None:
    clip = moving(digit(), DIRECTIONS["down_left"], (3, 50), 8, 56)
    assert all(np.array_equal(clip[t + 1], np.roll(clip[t], (4, -4), (0, 1))) for t in range(7))
    assert clip[0].sum() > 0


@pytest.mark.parametrize("time", [0, 5])
def test_the_frames_of_a_time_are_the_same_for_every_class(time: int) -> None:
    """Over all starts, each of which is as likely, every class shows the same frames equally often."""
    small, size = digit(), 28
    shown = {}
    for name, direction in DIRECTIONS.items():
        frames = Counter()
        for across in range(size):
            for down in range(size):
                frame = moving(small, direction, (across, down), time + 1, size)[time]
                frames[hashlib.blake2b(frame.tobytes(), digest_size=8).digest()] += 1
        shown[name] = frames
    assert len(shown["right"]) == size * size
    assert all(frames == shown["right"] for frames in shown.values())


def test_the_mean_brightness_of_decoded_frames_says_nothing_about_the_class(tmp_path: Path) -> None:
    train = load(tmp_path, train_clips=400)
    levels = np.array([train.clip(index).float().mean() for index in range(400)])
    labels = np.array(train.labels)
    means = np.array([levels[labels == label].mean() for label in range(8)])
    assert np.abs(means - means.mean()).max() < 4 * levels.std() / np.sqrt(50)


def test_the_files_are_made_once_and_depend_on_the_fields_alone(tmp_path: Path) -> None:
    first = load(tmp_path / "one")
    written = {path: Path(path).stat().st_mtime_ns for path in first.paths}
    again = load(tmp_path / "one")
    assert {path: Path(path).stat().st_mtime_ns for path in again.paths} == written
    other = load(tmp_path / "two")
    assert [Path(path).read_bytes() for path in other.paths] == [Path(path).read_bytes() for path in first.paths]
    assert load(tmp_path / "one", seed=1).paths[0] != first.paths[0]
    assert load(tmp_path / "one", train_clips=32).paths[0] != first.paths[0]
    assert [path.name for path in (tmp_path / "two").iterdir() if path.name.startswith(".") and path.is_dir()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="processes do not fork there")
def test_processes_that_start_together_make_the_files_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        paths = pool.map(_paths, [tmp_path] * 2)
    assert paths[0] == paths[1]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def _paths(cache: Path) -> list[str]:
    return list(load(cache, val_clips=8).paths)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vision_peft.data.datasets.moving_digits.write_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert len(load(tmp_path)) == 24


def test_a_damaged_cache_says_what_to_do(tmp_path: Path) -> None:
    path = Path(load(tmp_path).paths[3])
    path.unlink()
    with pytest.raises(ValueError, match=r"delete this folder, and the clips are made again") as caught:
        load(tmp_path)
    assert "train.txt:4: video 'train/00003.mp4' is missing" in str(caught.value)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "here"))
    assert MovingDigits(**FEW).load("val").path(0).startswith(str(tmp_path / "here" / "moving_digits-v1-"))


def test_wrong_fields_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"data\.frames must be at least 2, got 1\ndata\.size must be even"):
        MovingDigits(frames=1, size=57)
