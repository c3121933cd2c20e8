"""All files that cannot be decoded are found before a run starts, each once, whoever looks."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.counting import Counting
from support.video_files import write_video

from vision_peft.data import ImageDataset
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.loading.find_bad_files import find_bad_files

PARTS = {"train": range(300), "val": range(300, 340), "test": range(340, 400)}


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, ImageDataset]:
    """Images in three splits, of which val is a part of trainval as well."""
    paths = [tmp_path / f"{number:03}.jpg" for number in range(400)]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for path in paths:
        Image.fromarray(pixels).save(path)
    found = {
        name: ImageFiles([paths[number] for number in part], [0] * len(part), ["a"]) for name, part in PARTS.items()
    }
    found["trainval"] = ImageFiles(found["train"].paths + found["val"].paths, [0] * 340, ["a"])
    return {**found}


def damage(folder: Path) -> None:
    (folder / "007.jpg").write_bytes(b"")
    (folder / "299.jpg").write_bytes(b"<html>404 not found</html>")
    (folder / "310.jpg").unlink()
    for number in (20, 320, 399):  # headers are good, what follows is cut
        path = folder / f"{number:03}.jpg"
        path.write_bytes(path.read_bytes()[:-40])


def names(bad: dict[str, list[ImageDecodeError]]) -> dict[str, list[str]]:
    return {split: [Path(error.path).name for error in errors] for split, errors in bad.items()}


def test_starts_of_all_files_and_the_whole_of_those_that_are_evaluated(
    splits: dict[str, ImageDataset], tmp_path: Path
) -> None:
    assert names(find_bad_files(splits, ["val", "test"])) == {split: [] for split in splits}
    damage(tmp_path)
    assert names(find_bad_files(splits, ["val", "test"])) == {
        "train": ["007.jpg", "299.jpg"],
        "val": ["310.jpg", "320.jpg"],
        "test": ["399.jpg"],
        "trainval": [],  # the same files, said once
    }
    assert names(find_bad_files(splits, [])) == {
        "train": ["007.jpg", "299.jpg"],
        "val": ["310.jpg"],
        "test": [],
        "trainval": [],
    }


def test_processes_share_the_files(splits: dict[str, ImageDataset], tmp_path: Path) -> None:
    damage(tmp_path)
    alone = names(find_bad_files(splits, ["test"]))
    done: list[tuple[int, int]] = []
    shares = [find_bad_files(splits, ["test"], rank, 3, lambda *both: done.append(both)) for rank in range(3)]
    found = {split: sorted(name for share in shares for name in names(share)[split]) for split in splits}
    assert found == alone
    assert [total for at, total in done if at == total] == [134, 133, 133]


def test_what_has_no_file_is_not_looked_at() -> None:
    assert find_bad_files({"test": Digits().load("test")}, ["test"]) == {"test": []}
    counting = Counting(9)
    assert find_bad_files({"test": counting}, ["test"]) == {"test": []}
    assert counting.decoded == []


def test_the_first_and_the_last_frame_of_a_video_are_decoded(tmp_path: Path) -> None:
    for name in ("good", "cut"):
        write_video(tmp_path / f"{name}.mp4", 12)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "list.mp4").write_bytes(b"#EXTM3U\n")
    paths = [tmp_path / f"{name}.mp4" for name in ("good", "cut", "list")]
    videos = VideoFiles(paths, [0, 0, 0], ["a"])
    assert names(find_bad_files({"train": videos}, [])) == {"train": ["list.mp4"]}
    assert names(find_bad_files({"test": videos}, ["test"])) == {"test": ["cut.mp4", "list.mp4"]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(find_bad_files({"train": ImageFiles([tmp_path / "pipe.jpg"], [0], ["a"])}, [])) == {
        "train": ["pipe.jpg"]
    }
