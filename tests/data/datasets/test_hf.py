"""Data of Hugging Face `datasets`: parquet, arrow, class folders and (without a network) the hub."""

import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.shards import png

from vision_peft.data.config import SPLITS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.hf import HuggingFace
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.find_bad_files import find_bad_files
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.problems import DataProblems
from vision_peft.runs.data_record import DataRecord

datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'vision_peft[hf]'")
pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra test")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra test")
NAMES = ["cat", "ant", "bee"]  # of a ClassLabel, in its order


def make_table(numbers: Sequence[int], label: Any = None, damaged: Sequence[int] = ()) -> Any:
    """A table of pictures of one grey each, with a ClassLabel or with `label` of each number."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    columns = {
        "image": [{"bytes": png(n)[:50] if n in damaged else png(n), "path": f"{n}.png"} for n in numbers],
        "label": [n % 3 if label is None else label(n) for n in numbers],
    }
    if label is None:
        return datasets.Dataset.from_dict(columns, features=features)
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Parquet files of train, validation and test."""
    for name, numbers in (("train", range(12)), ("validation", range(12, 16)), ("test", range(16, 20))):
        make_table(numbers).to_parquet(tmp_path / "table" / f"{name}-00000-of-00001.parquet")
    return tmp_path / "table"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def load(root: Path, split: str = "train", **fields: Any) -> ImageDataset:
    return HuggingFace(root=str(root), cache=str(root.parent / "cache"), **fields).load(split)


def greys(dataset: ImageDataset) -> list[int]:
    return [np.asarray(dataset.image(index))[0, 0, 0] for index in range(len(dataset))]


def test_parquet_files_of_three_splits_are_read_in_their_order(root: Path) -> None:
    parts = {split: load(root, split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [12, 4, 16, 4]
    assert greys(parts["train"]) == [*range(12)]
    assert greys(parts["trainval"]) == [*range(16)]
    train = parts["train"]
    assert (train.classes, [*train.labels[:4]]) == (NAMES, [0, 1, 2, 0])
    assert train.path(5) == f"{root}/train[5]"
    assert (train.file(5), train.stored_as(5), train.stored_size(5)) == (None, train.path(5), len(png(5)))
    assert train.header(5) is not None


def test_a_folder_of_arrow_files_is_what_save_to_disk_leaves(tmp_path: Path) -> None:
    splits = {"train": make_table(range(9)), "test": make_table(range(9, 12))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
    assert greys(load(tmp_path / "saved", "test")) == [9, 10, 11]
    both = load(tmp_path / "saved", "trainval", val_fraction=0.4)
    assert greys(both) != [*range(9)]  # val behind train, drawn by row
    assert sorted(greys(both)) == [*range(9)]


def write_photos(root: Path, split: str, number: int) -> None:
    for label, name in enumerate(("ant", "bee")):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for count in range(number):
            (folder / f"{count:02}.png").write_bytes(png(100 * label + count))


def test_class_folders_are_read_with_the_paths_of_their_files(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", "train", 4)
    write_photos(tmp_path / "photos", "test", 2)
    test = load(tmp_path / "photos", "test")
    assert (test.classes, [*test.labels], greys(test)) == (["ant", "bee"], [0, 0, 1, 1], [0, 1, 100, 101])
    path = str(tmp_path / "photos" / "test" / "bee" / "01.png")
    assert (test.path(3), test.file(3), test.stored_as(3)) == (path, path, path)
    record = DataRecord({"test": test}, HuggingFace(root=str(tmp_path / "photos")))
    assert [*record.items("test")][3] == ("test/bee/01.png", 1, len(png(101)))


def test_a_file_that_comes_moves_no_other_to_another_split(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", "train", 20)
    before = {split: [*map(load(tmp_path / "photos", split).path, range(3))] for split in ("train", "val", "test")}
    (tmp_path / "photos" / "train" / "ant" / "00a.png").write_bytes(png(50))
    for split, paths in before.items():
        dataset = load(tmp_path / "photos", split)
        assert {*paths} <= {dataset.path(index) for index in range(len(dataset))}


def test_labels_are_numbers_or_names_where_there_is_no_class_label(tmp_path: Path) -> None:
    make_table(range(6), lambda number: NAMES[number % 3]).to_parquet(tmp_path / "names" / "train.parquet")
    make_table([6], lambda _: "bee").to_parquet(tmp_path / "names" / "validation.parquet")
    assert load(tmp_path / "names").classes == ["ant", "bee", "cat"]
    assert [*load(tmp_path / "names").labels] == [2, 0, 1, 2, 0, 1]
    make_table(range(6), lambda number: number % 2).to_parquet(tmp_path / "numbers" / "train.parquet")
    make_table([6], lambda _: 1).to_parquet(tmp_path / "numbers" / "validation.parquet")
    assert load(tmp_path / "numbers").classes == ["0", "1"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    table = make_table(range(6)).rename_columns({"image": "left", "label": "kind"})
    table = table.add_column("right", [{"bytes": png(100 + n), "path": None} for n in range(6)])
    table = table.add_column("score", [0.5] * 6)
    table.to_parquet(tmp_path / "two" / "train.parquet")
    table.to_parquet(tmp_path / "two" / "validation.parquet")
    with pytest.raises(ValueError, match=r"data\.image_column must name a column of images; there are left \(Image\)"):
        load(tmp_path / "two")
    assert greys(load(tmp_path / "two", image_column="left"))[0] == 0
    assert greys(load(tmp_path / "two", image_column="right"))[0] == 100
    with pytest.raises(ValueError, match=r"unknown column of data\.root=.* 'lef' \(did you mean left\?\)"):
        load(tmp_path / "two", image_column="lef")
    with pytest.raises(
        ValueError, match=r"data\.label_column must name a column of numbers or names; there are .*float64"
    ):
        load(tmp_path / "two", image_column="left", label_column="score")


def test_splits_are_found_or_named_and_what_is_not_there_is_drawn(tmp_path: Path) -> None:
    make_table(range(40)).to_parquet(tmp_path / "one" / "train.parquet")
    parts = {split: greys(load(tmp_path / "one", split)) for split in SPLITS}
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == [*range(40)]
    assert HuggingFace(root=str(tmp_path / "one"), cache=str(tmp_path / "cache")).draws_by_name()
    make_table(range(40, 44)).to_parquet(tmp_path / "one" / "validation.parquet")
    with pytest.raises(FileNotFoundError, match="there is no test split"):
        load(tmp_path / "one", "test")
    assert greys(load(tmp_path / "one", "test", test="validation", val_fraction=0.2)) == [*range(40, 44)]
    with pytest.raises(ValueError, match=r"unknown split of data\.root=.* 'validaton' \(did you mean validation\?\)"):
        load(tmp_path / "one", "val", val="validaton")


def test_labels_that_are_not_given_are_named_with_their_rows(root: Path) -> None:
    features = make_table([0]).features
    rows = {"image": [{"bytes": png(0), "path": None}] * 5, "label": [0, -1, -1, None, 2]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "test-00000-of-00001.parquet")
    with pytest.raises(DataProblems) as raised:
        load(root, "test")
    assert raised.value.problems == [
        "label -1, which means that there is no label: test, test[1], test[2]",
        "no label: test, test[3]",
    ]


def test_a_corrupt_image_is_an_error_with_split_and_row_and_is_found_before_training(root: Path) -> None:
    make_table(range(3), damaged=[1]).to_parquet(root / "test-00000-of-00001.parquet")
    test = load(root, "test")
    with pytest.raises(ImageDecodeError, match=r"test\[1\]: "):
        test.image(1)
    bad = find_bad_files({"test": test, "train": load(root)}, ["test"])
    assert ([error.path for error in bad["test"]], bad["train"]) == ([f"{root}/test[1]"], [])


def test_a_row_that_names_a_file_elsewhere_reads_nothing(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(1))
    features = make_table([0]).features
    for path, problem in ((str(outside), "names a file outside the dataset"), (None, "the row holds no image")):
        rows = {"image": [{"bytes": None, "path": path}, {"bytes": png(0), "path": None}], "label": [0, 1]}
        table = pyarrow.Table.from_pydict(rows, schema=features.arrow_schema)
        parquet.write_table(table, root / "test-00000-of-00001.parquet")
        with pytest.raises(ImageDecodeError, match=problem):
            load(root, "test").image(0)


def test_no_script_of_a_folder_runs(root: Path) -> None:
    (root / "table.py").write_text("raise SystemExit('the script ran')\n")
    assert len(load(root)) == 12


def test_a_stream_two_sources_and_none_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a stream has no order of all its items"):
        HuggingFace(root="photos", streaming=True)
    with pytest.raises(ValueError, match="give only one of them"):
        HuggingFace(root="photos", hub="owner/photos")
    with pytest.raises(ValueError, match=r"give data\.root=FOLDER"):
        HuggingFace().load("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, OSError), match=r"data\.root=.*empty: datasets cannot read it"):
        load(tmp_path / "empty")


def test_a_name_of_the_hub_is_asked_for_by_name_subset_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(*words: Any, **named: Any) -> Any:
        asked.append((words, named))
        return datasets.DatasetDict({"train": make_table(range(9)), "test": make_table(range(9, 12))})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    config = HuggingFace(hub="owner/photos", subset="small", revision="abc", cache="there")
    test = config.load("test")
    assert asked == [(("owner/photos", "small"), {"revision": "abc", "cache_dir": "there"})]
    assert (test.path(1), greys(test), config.base()) == ("owner/photos/test[1]", [9, 10, 11], None)
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ImportError, match=r"datasets 3\.6\.0 can run code from a dataset"):
        config.load("test")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"data=hf needs the package datasets: pip install 'vision_peft\[hf\]'"):
        HuggingFace(root=str(tmp_path)).load("train")


def test_the_record_of_the_data_notices_another_image(root: Path) -> None:
    def record() -> DataRecord:
        config = HuggingFace(root=str(root), cache=str(root.parent / "cache"))
        return DataRecord({"train": config.load("train")}, config)

    first = record()
    assert [*first.items("train")][5] == ("train[5]", 2, len(png(5)))
    assert record().digest == first.digest
    table = make_table(range(12)).to_dict()
    table["image"][5]["bytes"] = png(5, 40)
    changed = datasets.Dataset.from_dict(table, features=make_table([0]).features)
    changed.to_parquet(root / "train-00000-of-00001.parquet")
    assert record().digest != first.digest


def test_an_epoch_that_goes_on_in_the_middle_is_the_same(root: Path) -> None:
    settings = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize": "squash"}

    def read(start: int, workers: int) -> Sequence[torch.Tensor]:
        dataset = load(root)
        dataset.set_training({**settings, "crop_pct": 1.0}, augment="crop_flip", random_erasing=0.5)
        return [images for images, _, _ in TrainLoader(dataset, 4, 3, workers).epoch(1, start)]

    for one, other in zip(read(0, 0)[1:], read(1, 2), strict=True):
        assert torch.equal(one, other)


def test_worker_processes_that_are_started_anew_get_the_tables(root: Path) -> None:
    assert greys(pickle.loads(pickle.dumps(load(root, "test")))) == [*range(16, 20)]


def test_bytes_alone_are_images_too(tmp_path: Path) -> None:
    rows = {"image": [png(3), png(4)] * 3, "label": ["a", "b"] * 3}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "raw" / "train.parquet")
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "raw" / "validation.parquet")
    dataset = load(tmp_path / "raw")
    assert greys(dataset) == [3, 4] * 3
    with Image.open(io.BytesIO(png(3))) as picture:
        assert dataset.image(0).tobytes() == picture.tobytes()


def test_tables_are_opened_once_for_all_splits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], HuggingFace._open
    monkeypatch.setattr(HuggingFace, "_open", lambda self: opened.append(self) or real(self))
    config = HuggingFace(root=str(root), cache=str(root.parent / "cache"))
    take = config.open_splits()
    assert [greys(take(split)) for split in SPLITS] == [greys(config.load(split)) for split in SPLITS]
    assert len(opened) == 1 + len(SPLITS)
    with pytest.raises(ValueError, match="split"):
        take("vall")


def test_deep_grey_is_warned_of(tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(grey, "PNG")
    columns = {"image": [grey.getvalue()] * 4, "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "table" / "train.parquet")
    with pytest.warns(UserWarning, match=r"greyscale of more than 8 bits: .* data.value_range=\[0,4095\] uses all"):
        HuggingFace(root=str(tmp_path / "table"), cache=str(tmp_path / "cache"), val_fraction=0.5).open_splits()
