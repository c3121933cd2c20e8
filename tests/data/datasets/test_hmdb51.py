"""HMDB51: its official lists and layouts, and everything that can be wrong with them, reported at once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.video_files import write_audio, write_video

from vision_peft.data.datasets.hmdb51 import HMDB51, read_lists
from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.video_dataset import VideoFiles

ODD_NAMES = ["#20_Rhythm_kick_f_cm.avi", "Brush__[_NEW_AUDIO_]_!!_0.avi", "(Rad)Schlag & die_Bank!_1.avi"]


def make(root: Path, lists: str = "splits", videos: str = "videos", extension: str = ".avi") -> Path:
    """Two actions, `kick` with odd names, of ten videos each: six train, three test, one unused."""
    (root / lists).mkdir(parents=True)
    for action, odd in (("kick", ODD_NAMES), ("wave", [])):
        (root / videos / action).mkdir(parents=True)
        names = [*odd, *(f"clip_{number}_{action}.avi" for number in range(10 - len(odd)))]
        for name in names:
            (root / videos / action / name).with_suffix(extension).write_bytes(b"video")
        parts = [1, 2, 1, 1, 1, 2, 2, 1, 1, 0]
        lines = [f"{name} {part} \n" for name, part in zip(names, parts, strict=True)]
        (root / lists / f"{action}_test_split1.txt").write_text("".join(lines))
    return root


def load(root: Path, split: str, **fields: Any) -> VideoFiles:
    dataset = HMDB51(root=str(root), **fields).load(split)
    assert isinstance(dataset, VideoFiles)
    return dataset


def problems(root: Path) -> list[str]:
    with pytest.raises(ValueError, match="data=hmdb51") as caught:
        load(root, "train")
    first, *lines = str(caught.value).split("\n")
    assert f"{len(lines)} problem" in first
    return [line.strip().replace(f"{root}/", "") for line in lines]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_official_lists_have_3570_and_1530_videos_of_51_actions(shared: Path, split: int) -> None:
    found: list[str] = []
    lists = read_lists(shared / "data" / "splits" / "hmdb51", split, found)
    assert found == []
    assert len(lists.actions) == 51
    assert Counter(video.action for video in lists.parts["train"]) == dict.fromkeys(lists.actions, 70)
    assert Counter(video.action for video in lists.parts["test"]) == dict.fromkeys(lists.actions, 30)
    assert lists.actions == sorted(lists.actions)


def test_real_clips_in_the_layout_are_read(shared: Path) -> None:
    root = shared / "data" / "fight-hmdb-layout"
    assert load(root, "test").classes == ["fight", "noFight"]
    sizes = {split: len(load(root, split)) for split in ("train", "val", "trainval", "test")}
    assert sizes == {"train": 189 + 1, "val": 20, "trainval": 210, "test": 90}
    test = load(root, "test")
    test.clips = ClipSampling(8, 4)
    assert test.clip(0).shape[:2] == (8, 3)
    with pytest.raises(FileNotFoundError, match=r"test_split2.*there are those of split 1"):
        HMDB51(root=str(root), split=2).load("test")


@pytest.mark.parametrize("lists", ["splits", "testTrainMulti_7030_splits"])
@pytest.mark.parametrize("videos", ["videos", "hmdb51_org", "."])
@pytest.mark.parametrize("extension", [".avi", ".mp4"])
def test_usual_layouts_and_odd_names_are_read(tmp_path: Path, lists: str, videos: str, extension: str) -> None:
    root = make(tmp_path / "root", lists, videos, extension)
    test = load(root, "test")
    assert (test.classes, test.labels) == (["kick", "wave"], [0] * 3 + [1] * 3)
    assert Path(test.paths[0]).name == Path(ODD_NAMES[1]).stem + extension
    trainval = load(root, "trainval")
    assert Counter(trainval.labels) == {0: 6, 1: 6}
    assert all(Path(path).is_file() for path in trainval.paths)
    assert {Path(ODD_NAMES[0]).stem, Path(ODD_NAMES[2]).stem} < {Path(path).stem for path in trainval.paths}


def test_val_is_drawn_from_train_by_the_seed(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    train, val = load(root, "train"), load(root, "val")
    assert Counter(val.labels) == {0: 1, 1: 1}
    assert sorted(train.paths + val.paths) == sorted(load(root, "trainval").paths)
    assert {tuple(load(root, "val", seed=seed).paths) for seed in range(8)} != {tuple(val.paths)}


def test_all_problems_are_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "videos" / "kick" / ODD_NAMES[1]).unlink()
    (root / "videos" / "wave" / "clip_3_wave.avi").write_bytes(b"")
    write_audio(root / "videos" / "wave" / "clip_0_wave.avi")
    with (root / "splits" / "wave_test_split1.txt").open("a") as file:
        file.write("clip_0_wave.avi 2\nclip_9_wave.avi 3\nonly_a_name.avi\n../kick/clip_0_kick.avi 1\n")
    (root / "splits" / "weave_test_split1.txt").write_text("clip_0_weave.avi 1\nclip_1_weave.avi 2\n")
    (root / "videos" / "jump").mkdir()
    assert problems(root) == [
        "splits/wave_test_split1.txt:11: video 'clip_0_wave.avi' is already on line 1 with label 1",
        "splits/wave_test_split1.txt:12: wanted '<video> <0, 1 or 2>', got 'clip_9_wave.avi 3'",
        "splits/wave_test_split1.txt:13: wanted '<path> <label>', got 'only_a_name.avi'",
        "splits/wave_test_split1.txt:14: wanted the name of a video, got '../kick/clip_0_kick.avi'",
        "splits/weave_test_split1.txt: there is no folder videos/weave: unknown action 'weave' (did you mean wave?): "
        "wanted one of jump, kick, wave",
        "videos/jump: no list jump_test_split1.txt names this action's videos",
        "splits/wave_test_split1.txt:1: video 'wave/clip_0_wave.avi' has sound but no pictures",
        "splits/wave_test_split1.txt:4: video 'wave/clip_3_wave.avi' is empty (0 bytes)",
        f"splits/kick_test_split1.txt:2: video 'kick/{ODD_NAMES[1]}' is missing",
    ]


def test_wrong_fields_and_missing_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.split is the official split 1, 2 or 3, got 4"):
        HMDB51(split=4)
    with pytest.raises(ValueError, match=r"data\.val_fraction"):
        HMDB51(val_fraction=1.5)
    with pytest.raises(FileNotFoundError, match=r"no lists <action>_test_split1\.txt in splits, testTrainMulti"):
        load(tmp_path, "train")
    root = make(tmp_path / "root")
    with pytest.raises(ValueError, match="unknown video decoder 'decrod'"):
        load(root, "train", decoder="decrod")


def test_a_video_of_the_layout_becomes_a_clip(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    write_video(root / "videos" / "kick" / ODD_NAMES[1], 10, "mpeg4")
    test = load(root, "test")
    test.clips = ClipSampling(4)
    assert test[0][0].shape == (4, 3, 48, 64)
