"""data.json: what it holds, that it does not tell where the data is mounted, and that nothing but itself is read."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.datasets.digits import Digits
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.runs.data_record import DataRecord, Item
from vision_peft.runs.saved_data import read_saved_data


def record(root: Path, *splits: str) -> DataRecord:
    config = Folder(root=str(root))
    return DataRecord({split: config.load(split) for split in splits or ("train", "val", "test")}, config)


def write(data: DataRecord, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    data.write(folder / "data.json")
    assert [path.name for path in folder.iterdir()] == ["data.json"]
    return folder / "data.json"


def test_the_file_lists_every_item_with_label_and_size(photos: Path, tmp_path: Path) -> None:
    raw = json.loads(write(record(photos), tmp_path / "run").read_text())
    assert raw["classes"] == ["blue", "green", "red"]
    assert {split: len(raw[split]) for split in ("train", "val", "test")} == dict.fromkeys(("train", "val", "test"), 24)
    assert raw["test"][0] == ["test/blue/0.png", 0, (photos / "test/blue/0.png").stat().st_size]
    assert raw["splits"]["test"]["items"] == 24


def test_what_was_written_is_read_back_item_by_item(photos: Path, tmp_path: Path) -> None:
    data = record(photos, "train", "val", "trainval", "test")
    saved = read_saved_data(write(data, tmp_path / "run"))
    assert saved is not None
    assert (saved.digest, saved.classes) == (data.digest, data.classes)
    assert {split: entry.digest for split, entry in saved.splits.items()} == data.digests
    for split in data.splits:
        assert list(saved.items(split)) == list(data.items(split))
    assert saved.splits["trainval"].of == ("train", "val")  # and is not written again
    assert "trainval" not in json.loads(saved.path.read_text())


def test_the_same_tree_elsewhere_is_the_same_data(photos: Path, tmp_path: Path) -> None:
    there = shutil.copytree(photos, tmp_path / "there")
    (tmp_path / "link").symlink_to(photos)
    assert record(photos).digest == record(there).digest == record(tmp_path / "link").digest


def test_the_digest_is_that_of_the_data_however_a_protocol_divides_it(photos: Path) -> None:
    whole = record(photos, "trainval", "test")
    assert whole.digest == record(photos, "train", "val", "test").digest
    assert whole.digest == record(photos, "train", "val", "trainval", "test").digest
    assert whole.digest != record(photos, "train", "test").digest
    swapped = record(photos, "train", "val", "test")
    swapped.splits = {**swapped.splits, "train": swapped.splits["test"], "test": swapped.splits["train"]}
    assert whole.digest != swapped.digest


@pytest.mark.parametrize("change", ["content", "name", "class", "order"])
def test_whatever_changes_the_run_changes_the_digest(photos: Path, tmp_path: Path, change: str) -> None:
    there = shutil.copytree(photos, tmp_path / "there")
    before, image = record(there), there / "train" / "red" / "3.png"
    assert before.digest
    if change == "content":
        image.write_bytes(image.read_bytes() + b"more")
    elif change == "name":
        image.rename(image.with_name("9.png"))
    elif change == "class":
        image.rename(there / "train" / "blue" / "9.png")
    config = Folder(root=str(there))
    after = DataRecord({split: config.load(split) for split in before.splits}, config)
    if change == "order":
        after.splits = {**after.splits, "train": after.splits["train"].subset([1, 0, *range(2, 24)])}
    assert {split for split in before.splits if before.digests[split] != after.digests[split]} == {"train"}
    assert (before.digest == after.digest) == (change == "order")


def test_items_in_memory_have_a_name_and_no_size() -> None:
    config = Digits()
    data = DataRecord({"test": config.load("test")}, config)
    first = next(iter(data.items("test")))
    assert first == Item(config.load("test").path(0), first.label, None)
    assert data.digest != DataRecord({"test": Digits(seed=1).load("test")}, Digits(seed=1)).digest


def test_a_video_is_one_item_however_many_views_it_has(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.mp4").write_bytes(b"video")
    config = Folder(root=str(tmp_path))

    def items(paths: Sequence[str], **fields: Any) -> list[Item]:
        dataset = VideoFiles([tmp_path / path for path in paths], [1, 0], ["x", "y"], **fields)
        plain = list(DataRecord({"test": dataset}, config).items("test"))
        dataset.clips = ClipSampling(4, views=3)
        assert list(DataRecord({"test": dataset}, config).items("test")) == plain
        return plain

    assert items(["c.mp4", "a"]) == [Item("c.mp4", 1, 5), Item("a", 0, None)]
    for number in range(3):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"-" * 10**number)
    assert items(["a", "b"], frame_counts=[2, 4]) == [Item("a", 1, 11), Item("b", 0, 0)]


def test_names_of_any_characters_survive(tmp_path: Path) -> None:
    names = ['quote".png', "line\nbreak.png", "tab\t.png", "é,].png", "\udce9.png"]
    for name in names:
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"12")
    config = Folder(root=str(tmp_path / "tree"))
    dataset = ImageFiles([f"{tmp_path}/tree/{name}" for name in names], [0] * 5, ["a", "b"])
    data = DataRecord({"train": dataset}, config)
    saved = read_saved_data(write(data, tmp_path / "run"))
    assert saved is not None
    assert [item.name for item in saved.items("train")] == names


def read_items(path: Path) -> list[Item]:
    saved = read_saved_data(path)
    assert saved is not None
    return list(saved.items("train"))


def damage(text: str, what: str) -> str:
    lines = text.split("\n")
    return {
        "cut in the head": text[:60],
        "cut in the items": "\n".join(lines[:10]),
        "an item is missing": "\n".join(line for line in lines if '"train/red/3.png"' not in line),
        "an item is no item": text.replace('["train/red/3.png"', '[{"a": 1}'),
        "not text": text.replace('"classes": ["blue"', '"classes": [7'),
        "later": text.replace('"version": 2', '"version": 3'),
        "nested": "[" * 100_000,
        "a circle": text.replace(
            '"splits": {', '"splits": {"trainval": {"items": 1, "digest": "", "of": ["trainval"]}, '
        ),
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "cut in the head",
        "cut in the items",
        "an item is missing",
        "an item is no item",
        "not text",
        "later",
        "nested",
        "a circle",
    ],
)
def test_a_damaged_file_is_one_clear_error(photos: Path, tmp_path: Path, what: str) -> None:
    path = write(record(photos), tmp_path / "run")
    path.write_text(damage(path.read_text(), what))
    with pytest.raises(
        ValueError, match=r"data\.json cannot be read \(.*remove it, and the data is not compared$"
    ) as e:
        read_items(path)
    assert len(str(e.value).splitlines()) == 1


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_saved_data(tmp_path / "data.json") is None
