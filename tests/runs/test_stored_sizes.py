"""Every file of an item counts, so that data.json notices when one of them is another one."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checked import noise

from vision_peft.data.config import DataConfig
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.datasets.video_list import VideoLists
from vision_peft.runs.compare_data import describe_changes, describe_evaluated, describe_since, pin_data
from vision_peft.runs.data_record import DataRecord
from vision_peft.runs.saved_data import read_saved_data

STACK = ("_B1.npy", "_B2.npy")
COUNT = 20


def record(config: DataConfig) -> DataRecord:
    load = config.open_splits()
    return DataRecord({split: load(split) for split in ("train", "val")}, config)


def write_stacks(root: Path) -> DataConfig:
    for number in range(COUNT):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for ending in STACK:
            np.save(folder / f"{number:02}{ending}", np.full((4, 4), number, np.uint8))
    return Folder(root=str(root), channels=2, stack=STACK)


def write_frames(root: Path) -> DataConfig:
    for video in range(COUNT):
        (root / f"v{video}").mkdir(parents=True, exist_ok=True)
        for number in range(5):
            noise(video).save(root / f"v{video}" / f"{number}.png")
    (root / "train.txt").write_text("".join(f"v{video} 3 {video % 2}\n" for video in range(COUNT)))
    return VideoLists(root=str(root), train="train.txt", raw_frames=True)


def grow(root: Path, pattern: str) -> None:
    for path in root.rglob(pattern):
        path.write_bytes(path.read_bytes() + b"more")


def test_every_file_of_a_stack_counts(tmp_path: Path) -> None:
    config = write_stacks(tmp_path)
    before = record(config)
    size = (tmp_path / "a" / "00_B1.npy").stat().st_size
    assert {item.size for item in before.items("train")} == {2 * size}
    grow(tmp_path, "*_B2.npy")
    after = record(config)
    assert {item.size for item in after.items("train")} == {2 * size + 4}
    assert after.digest != before.digest
    (tmp_path / "a" / "00_B2.npy").unlink()  # what is left is measured, the reader says what is missing
    assert {item.size for item in DataRecord(after.splits, config).items("train")} <= {2 * size + 4, size}


def test_the_announced_frames_of_a_folder_count(tmp_path: Path) -> None:
    config = write_frames(tmp_path)
    before = record(config)
    item = next(iter(before.items("train")))
    assert item.size == sum((tmp_path / item.name / f"{number}.png").stat().st_size for number in range(3))
    grow(tmp_path, "4.png")  # a fifth frame, which no list announces
    assert record(config).digest == before.digest
    grow(tmp_path, "1.png")
    other_frames = record(config).digest
    (tmp_path / "train.txt").write_text((tmp_path / "train.txt").read_text().replace(" 3 ", " 4 "))
    assert len({before.digest, other_frames, record(config).digest}) == 3


@pytest.mark.parametrize("make", [write_stacks, write_frames])
def test_runs_of_versions_that_measured_less_are_found_again(
    tmp_path: Path, make: Callable[[Path], DataConfig]
) -> None:
    config, run = make(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    path = run / "data.json"
    record(config).measured_as(1).write(path)
    saved = read_saved_data(path)
    assert saved is not None
    assert saved.version == 1
    now = record(config)
    assert now.measured_as(1).digest == saved.digest != now.digest
    assert describe_changes(saved, now)  # if the versions were not told apart
    assert describe_since(run, lambda: record(config)) == ""
    assert describe_evaluated(run, record(config), "val", own=True) == ""
    trained = DataRecord({"test": now.splits["train"]}, config)
    with pytest.raises(ValueError, match="items of test were trained on"):
        describe_evaluated(run, trained, "test", own=False)
    pinned = pin_data(path, record(config), True, ("train", "val"))
    assert (pinned.words, pinned.digest) == ("", now.digest)
    renewed = read_saved_data(path)
    assert renewed is not None
    assert (renewed.version, renewed.digest) == (2, now.digest)  # from here on changes are noticed
    name = next(iter(now.items("train"))).name
    first = tmp_path / "data" / name
    second = first / "1.png" if first.is_dir() else Path(str(first).replace("_B1", "_B2"))
    os.truncate(second, 1)
    with pytest.raises(ValueError, match=f"train: 1 of another size .{name}"):
        pin_data(path, record(config), True, ("train", "val"))
