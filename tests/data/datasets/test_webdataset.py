"""Shards as WebDataset's writer makes them, and as `tarfile` does: splits, labels, order, damage."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.shards import png, write_shard, write_shards

from vision_peft.data.config import SPLITS
from vision_peft.data.datasets import webdataset
from vision_peft.data.datasets.webdataset import ShardImages, WebDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.find_bad_files import find_bad_files
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.problems import DataProblems
from vision_peft.runs.data_record import DataRecord


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards of train, one of val, one of test; the grey of an image is its number."""
    write_shards(tmp_path)
    return tmp_path


def load(root: Path, split: str = "train", **fields: Any) -> ShardImages:
    dataset = WebDataset(root=str(root), **fields).load(split)
    assert isinstance(dataset, ShardImages)
    return dataset


def greys(dataset: ShardImages) -> list[int]:
    return [np.asarray(dataset.image(index))[0, 0, 0] for index in range(len(dataset))]


def test_splits_are_found_by_the_names_of_shards_and_items_come_in_their_order(root: Path) -> None:
    parts = {split: load(root, split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [12, 4, 16, 4]
    assert greys(parts["train"]) == [*range(12)]
    assert greys(parts["trainval"]) == [*range(16)]
    assert greys(parts["test"]) == [*range(16, 20)]
    train = parts["train"]
    assert (train.classes, train.labels[:4]) == (["0", "1", "2"], [0, 1, 2, 0])
    assert train.path(5) == f"{root}/train-001.tar/000005.png"
    assert (train.file(5), train.stored_as(5)) == (None, train.path(5))
    assert train.stored_size(5) == len(png(5))
    assert train.header(5).format == "PNG"
    assert train.count_pixels(5) == 12 * 10


def test_they_are_the_samples_that_webdataset_itself_gives(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset, which only these tests do")
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            sample = {"__key__": f"part/{number:04d}", "png": png(number), "cls": number % 3}
            writer.write(sample | {"json": {"label": number % 3}})
    theirs = webdataset.WebDataset(
        [str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False, empty_check=False
    )
    train = load(tmp_path, "train", val_fraction=0.01, test_fraction=0.01)
    assert len(train) == 10
    for index, sample in enumerate(theirs):
        assert Path(train.path(index)).with_suffix("") == Path(sample["__url__"], sample["__key__"])
        assert train.read(index) == sample["png"]
        assert train.labels[index] == int(sample["cls"])
    assert load(tmp_path, val_fraction=0.01, test_fraction=0.01, label="json").labels == train.labels


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("train-{000..001}.tar", [*range(8)]),
        ("train-00[02].tar", [*range(4), *range(8, 12)]),
        ("train-002.tar::train-000.tar", [*range(8, 12), *range(4)]),
        ("*-{0..0}{02..02}.tar", [*range(8, 12)]),
    ],
)
def test_patterns_name_the_shards_of_a_split(root: Path, pattern: str, wanted: list[int]) -> None:
    assert greys(load(root, train=pattern, val="val-000.tar", test="test-000.tar")) == wanted


def test_a_shard_that_a_pattern_names_and_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"data\.train=train-\{000\.\.003\}\.tar: there is no shard .*train-003\.tar"
    ):
        load(root, train="train-{000..003}.tar")
    with pytest.raises(FileNotFoundError, match=r"there is no shard .*x\*\.tar"):
        load(root, train="x*.tar")
    with pytest.raises(ValueError, match=r"at most a million numbers, got \{5\.\.1\}"):
        load(root, train="{5..1}.tar")
    with pytest.raises(FileNotFoundError, match="there is no test split"):
        load(root, "test", train="train-000.tar", val="val-000.tar")
    with pytest.raises(ValueError, match=r"give data\.train=PATTERN"):
        WebDataset(root=str(root), val="val-000.tar")
    (root / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no shards \(\*\.tar\)"):
        load(root / "nothing")


def test_splits_that_are_not_there_are_drawn_and_a_new_shard_moves_no_sample(tmp_path: Path) -> None:
    for shard in range(3):
        write_shard(tmp_path / f"{shard}.tar", range(20 * shard, 20 * shard + 20))
    assert WebDataset(root=str(tmp_path)).draws_by_name()
    before = {split: {*load(tmp_path, split).names} for split in SPLITS}
    assert before["train"] | before["val"] == before["trainval"]
    assert len(before["trainval"] | before["test"]) == 60
    write_shard(tmp_path / "3.tar", range(60, 80))
    for split, names in before.items():
        after = load(tmp_path, split).names
        assert names <= {*after}
        assert all("/3.tar/" in name for name in {*after} - names)


def test_labels_are_numbers_names_or_fields_of_json(tmp_path: Path) -> None:
    names = ["cat", "ant", "bee", "ant"]
    write_shard(tmp_path / "train.tar", range(4), lambda number: {"cls": names[number].encode() + b"\n"})
    write_shard(tmp_path / "val.tar", [4], lambda _: {"cls": b"bee"})
    assert (load(tmp_path).classes, load(tmp_path).labels) == (["ant", "bee", "cat"], [2, 0, 1, 0])
    assert load(tmp_path, "val").labels == [1]
    fields = [{"label": number % 2, "species": names[number], "txt": "a caption"} for number in range(4)]
    for name, numbers in {"train": range(4), "val": [2]}.items():
        write_shard(tmp_path / f"{name}.tar", numbers, lambda number: {"json": json.dumps(fields[number]).encode()})
    assert load(tmp_path).labels == [0, 1, 0, 1]
    assert load(tmp_path, json_field="species").classes == ["ant", "bee", "cat"]
    (tmp_path / "names.txt").write_text("even\nodd\n")
    assert load(tmp_path, classes="names.txt").classes == ["even", "odd"]


def test_every_problem_of_every_shard_is_named_with_its_key(tmp_path: Path) -> None:
    bad: Mapping[int, Mapping[str, bytes]] = {
        0: {"png": png(0)},
        1: {"cls": b"1"},
        2: {"png": png(2), "jpg": png(2), "cls": b"0"},
        3: {"png": png(3), "cls": bytes(2**20 + 1)},
    }
    write_shard(tmp_path / "train-0.tar", range(4), files=bad.__getitem__)
    worse = {4: b"{", 5: b"[1]", 6: b'{"label": 1.5}', 7: b'{"label": true}', 8: b"[" * 100_000}
    write_shard(tmp_path / "train-1.tar", range(4, 9), lambda number: {"json": worse[number]})
    (tmp_path / "train-2.tar").write_bytes(b"no archive")
    with pytest.raises(DataProblems) as raised:
        load(tmp_path)
    problems = "\n".join(raised.value.problems)
    for words in (
        "train-0.tar: key '000000' has no label: wanted a file .cls or .json, got png",
        "train-0.tar: key '000001' has no image, but .cls",
        "train-0.tar: key '000002' has several images (.png, .jpg, .cls): name the one with data.image=png",
        "train-0.tar: key '000003' has a label of 1,048,577 bytes in .cls",
        "train-1.tar: key '000004' has no JSON in .json",
        "train-1.tar: key '000005' has no field 'label' in .json: name it with data.json_field",
        "train-1.tar: key '000006' has '1.5' as 'label' in .json, wanted a number or a name",
        "train-1.tar: key '000007' has 'True' as 'label'",
        "train-1.tar: key '000008' has no JSON in .json: nested too deep",
        "train-2.tar is damaged: it is not a tar archive",
    ):
        assert words in problems
    assert len(raised.value.problems) == 10


def test_labels_out_of_range_are_named(root: Path) -> None:
    write_shard(root / "test-000.tar", range(3), lambda number: {"cls": (b"7", b"-1", b"cat")[number]})
    with pytest.raises(DataProblems) as raised:
        load(root, "test")
    assert raised.value.problems == [
        f"label '7', wanted 0 to 2: test, {root}/test-000.tar/000000.png",
        f"label -1, which means that there is no label: test, {root}/test-000.tar/000001.png",
        f"label 'cat' is not like the others, which are numbers: test, {root}/test-000.tar/000002.png",
    ]


def test_a_corrupt_image_is_an_error_with_shard_and_key_and_is_found_before_training(root: Path) -> None:
    write_shard(root / "test-000.tar", range(3), lambda number: {"cls": b"1"}, damaged=[1])
    test = load(root, "test")
    with pytest.raises(ImageDecodeError, match=r"test-000\.tar/000001\.png: "):
        test.image(1)
    bad = find_bad_files({"test": test, "train": load(root)}, ["test"])
    assert [error.path for error in bad["test"]] == [f"{root}/test-000.tar/000001.png"]
    assert bad["train"] == []
    (root / "train-001.tar").write_bytes((root / "train-001.tar").read_bytes()[:1000])
    with pytest.raises(DataProblems, match=r"train-001\.tar is cut short"):
        load(root)
    write_shard(root / "train-001.tar", range(4, 8))
    train = load(root)
    (root / "train-001.tar").write_bytes(b"")
    with pytest.raises(ImageDecodeError, match=r"000005\.png: its shard is shorter than when it was opened"):
        train.image(5)


def test_the_record_of_the_data_names_members_and_notices_another_size(root: Path) -> None:
    def record() -> DataRecord:
        config = WebDataset(root=str(root))
        return DataRecord({"train": config.load("train")}, config)

    first = record()
    assert [*first.items("train")][5] == ("train-001.tar/000005.png", 2, len(png(5)))
    assert record().digest == first.digest
    write_shard(root / "train-001.tar", range(4, 8), files=lambda number: {"png": png(number, 40), "cls": b"1"})
    assert record().digest != first.digest


def test_an_epoch_that_goes_on_in_the_middle_is_the_same(root: Path) -> None:
    settings = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize": "squash"}

    def read(start: int, workers: int) -> Sequence[torch.Tensor]:
        dataset = load(root)
        dataset.set_training({**settings, "crop_pct": 1.0}, augment="crop_flip", random_erasing=0.5)
        return [images for images, _, _ in TrainLoader(dataset, 4, 3, workers).epoch(1, start)]

    for one, other in zip(read(0, 0)[1:], read(1, 2), strict=True):
        assert torch.equal(one, other)


def test_names_with_dots_in_folders_and_notes_of_webdataset_are_read_as_it_does(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name, content in {
            "./v1.0/a.b.png": png(1),
            "./v1.0/a.cls": b"0",
            "__note__.json": b"{}",
            "README": b"text",
            "v1.0/b.b.PNG": png(2),
            "v1.0/b.CLS": b"1",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "val.tar").write_bytes((tmp_path / "train.tar").read_bytes())
    dataset = load(tmp_path)
    assert [Path(name).name for name in dataset.names] == ["a.b.png", "b.b.png"]
    assert greys(dataset) == [1, 2]
    for typed in ("b.png", ".b.png", "B.PNG"):
        assert load(tmp_path, image=typed, label=".CLS").names == dataset.names
    with pytest.raises(DataProblems, match=r"has no image \.jpg, but \.b\.png, \.cls"):
        load(tmp_path, image="jpg")


def test_pictures_are_made_as_they_say(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(png(7))) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((12, 10), (7, 7, 7))
    write_shards(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.tar"))][:2] == ["test-000.tar", "train-000.tar"]


def test_shards_are_indexed_once_for_all_splits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed, real = [], webdataset.index_shard
    monkeypatch.setattr(webdataset, "index_shard", lambda path, **named: indexed.append(path) or real(path, **named))
    take = WebDataset(root=str(root)).open_splits()
    found = [greys(take(split)) for split in SPLITS]  # pyright: ignore[reportArgumentType]
    assert len(indexed) == 5
    assert found == [greys(load(root, split)) for split in SPLITS]


def test_deep_grey_is_warned_of(tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(grey, "PNG")
    write_shard(tmp_path / "train-0.tar", range(8), files=lambda _: {"png": grey.getvalue(), "cls": b"0"})
    with pytest.warns(UserWarning, match=r"greyscale of more than 8 bits: .* data.value_range=\[0,4095\] uses all"):
        WebDataset(root=str(tmp_path)).open_splits()
