"""What lies in a folder of data=hf beside what is read of it: caches, other splits, links, kinds that are not read."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shards import png

from vision_peft.data.config import SPLITS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.hf import HuggingFace
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.runs.data_record import DataRecord

datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'vision_peft[hf]'")
pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra test")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def make_table(numbers: Sequence[int]) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = [{"bytes": png(number), "path": None} for number in numbers]
    return datasets.Dataset.from_dict({"image": images, "label": [n % 2 for n in numbers]}, features=features)


def save(folder: Path, **splits: Sequence[int]) -> Path:
    datasets.DatasetDict({name: make_table(numbers) for name, numbers in splits.items()}).save_to_disk(folder)
    return folder


def write_photos(root: Path, folders: Sequence[str], number: int = 10) -> Path:
    for first, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for count in range(number):
            (root / folder / f"{count:02}.png").write_bytes(png(20 * first + count))
    return root


def configure(root: Path | str, **fields: Any) -> HuggingFace:
    return HuggingFace(root=str(root), **fields)


def greys(dataset: ImageDataset) -> list[int]:
    return [np.asarray(dataset.image(index))[0, 0, 0] for index in range(len(dataset))]


def read(root: Path | str, **fields: Any) -> dict[str, list[int]]:
    take = configure(root, **fields).open_splits()
    return {split: greys(take(split)) for split in SPLITS}


@pytest.mark.parametrize("whole", [True, False])
def test_rows_that_map_or_a_shuffle_left_beside_a_saved_dataset_are_no_rows(tmp_path: Path, whole: bool) -> None:
    if whole:
        make_table(range(30)).save_to_disk(tmp_path / "saved", num_shards=2)
    else:
        save(tmp_path / "saved", train=range(30))
    before = read(tmp_path / "saved")
    table = datasets.load_from_disk(tmp_path / "saved")
    table = table if whole else table["train"]
    table.map(lambda row: {"label": 1 - row["label"]})
    table.shuffle(seed=0)
    left = sorted(path.name for path in (tmp_path / "saved").rglob("cache-*.arrow"))
    assert len(left) == 2
    with pytest.warns(UserWarning, match=rf"2 files of tables left out: .*{left[0]}"):
        after = read(tmp_path / "saved")
    assert after == before
    assert sorted(after["trainval"] + after["test"]) == [*range(30)]


def test_a_cache_without_the_state_of_a_saved_dataset_is_left_out_and_an_order_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "saved", train=range(30))
    before = read(tmp_path / "saved")
    datasets.load_from_disk(tmp_path / "saved")["train"].map(lambda row: {"label": 1 - row["label"]})
    for name in ("dataset_dict.json", "train/state.json"):
        (tmp_path / "saved" / name).unlink()
    with pytest.warns(UserWarning, match=r"1 file of tables left out: train/cache-.*\.arrow"):
        assert read(tmp_path / "saved") == before
    datasets.load_from_disk(save(tmp_path / "other", train=range(9)))["train"].shuffle(
        seed=0, indices_cache_file_name=str(tmp_path / "saved/train/order.arrow")
    )
    with pytest.raises(ValueError, match=r"train/order\.arrow holds no rows, but the order that datasets keeps"):
        read(tmp_path / "saved")


def test_half_a_copy_of_a_saved_dataset_is_told(tmp_path: Path) -> None:
    root = save(tmp_path / "saved", train=range(9), test=range(9, 12))
    (root / "test/data-00000-of-00001.arrow").unlink()
    with pytest.raises(ValueError, match=r"dataset_dict\.json names the split test, not there: copy the whole folder"):
        read(root)
    (root / "train/data-00000-of-00001.arrow").rename(root / "train/other.arrow")
    with pytest.raises(ValueError, match=r"train/state\.json names train/data-00000-of-00001\.arrow, not there"):
        read(root)
    for content in ("{", "[]", '{"_data_files": [{"filename": 3}]}', '{"_data_files": []}'):
        (root / "train/state.json").write_text(content)
        with pytest.raises(ValueError, match=r"train/state\.json (cannot be read|names no files of a saved dataset)"):
            read(root)


def test_saved_datasets_in_deeper_folders_are_splits_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "saved/v1", train=range(9), test=range(9, 12))
    with pytest.raises(ValueError, match=r"has the splits v1/test, v1/train: name one with data\.train="):
        read(tmp_path / "saved")
    assert read(tmp_path / "saved", train="v1/train", test="v1/test")["test"] == [9, 10, 11]


def test_arrow_files_of_several_splits_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name, numbers in {"train": range(9), "test": range(9, 12)}.items():
        folder = tmp_path / name
        make_table(numbers).save_to_disk(folder)
        (tmp_path / "root").mkdir(exist_ok=True)
        (folder / "data-00000-of-00001.arrow").rename(tmp_path / "root" / f"parquet-{name}.arrow")
    with pytest.raises(ValueError, match=r"train would be files of several splits \(parquet-test\.arrow, parquet-tra"):
        read(tmp_path / "root")


def test_a_linked_split_of_a_saved_dataset_is_read(tmp_path: Path) -> None:
    root = save(tmp_path / "saved", train=range(9), test=range(9, 12))
    (root / "test").rename(tmp_path / "elsewhere")
    (root / "test").symlink_to(tmp_path / "elsewhere")
    assert read(root, val_fraction=0.3)["test"] == [9, 10, 11]


def test_splits_that_are_not_read_are_named(tmp_path: Path) -> None:
    root = save(tmp_path / "saved", train=range(40), extra=range(40, 50), evaluation=range(50, 54))
    wanted = r"the splits are not read: evaluation \(4 rows\), extra \(10 rows\), and val and test drawn from train"
    with pytest.warns(UserWarning, match=wanted):
        read(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(root, val="extra", test="evaluation")["test"] == [*range(50, 54)]


def test_tables_that_datasets_does_not_take_for_a_split_are_named(tmp_path: Path) -> None:
    root = tmp_path / "tables"
    for name in ("train", "validation", "extra"):
        make_table(range(9)).to_parquet(root / f"{name}.parquet")
    with pytest.warns(UserWarning, match=r"1 file of tables left out: extra\.parquet"):
        assert read(root, test="validation", val_fraction=0.3)["test"] == [*range(9)]
    (root / "extra.parquet").rename(root / "Test.parquet")
    with pytest.raises(ValueError, match=r"Test\.parquet would not be read as a split of its own: .* small letters"):
        read(root)


def test_what_class_folders_hold_beside_images_is_counted(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", ["a", "b"])
    write_photos(tmp_path, ["far"])
    before = read(root)
    (root / "c").symlink_to(tmp_path / "far")
    (root / "a/x.heic").write_bytes(b"x")
    (root / "a/image").write_bytes(png(1))
    (root / "b/._00.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match="left out") as warned:
        assert read(root) == before
    listed = next(str(warning.message) for warning in warned if "left out" in str(warning.message))
    assert listed.startswith(f"data.root={root}: 13 files left out: 10 .png behind links, 1 ")
    for kind in ("1 .heic", "1 hidden", "1 no extension", "(links to folders: c)"):
        assert kind in listed


@pytest.mark.parametrize("folders", [["Train/a", "Train/b", "Test/a", "Test/b"], ["train/a", "train/b", "Test/a"]])
def test_split_folders_in_capitals_are_not_mixed_into_train(tmp_path: Path, folders: list[str]) -> None:
    root = write_photos(tmp_path / "photos", folders)
    with pytest.raises(ValueError, match=r"Test.* would not be read as a split of its own: write its name in small"):
        read(root)
    write_photos(tmp_path / "vehicles", ["Car", "Train"])
    assert configure(tmp_path / "vehicles").load("train").classes == ["Car", "Train"]


def test_a_linked_split_folder_is_refused(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", ["train/a", "train/b"])
    write_photos(tmp_path, ["far/a", "far/b"])
    (root / "test").symlink_to(tmp_path / "far")
    with pytest.raises(
        ValueError, match=r"photos/test is a link to a folder, which datasets does not follow: .*data=f"
    ):
        read(root)


@pytest.mark.parametrize("below", ["", "cache", "a/cache"])
def test_a_cache_in_the_data_is_refused(tmp_path: Path, below: str) -> None:
    root = write_photos(tmp_path / "photos", ["a", "b"])
    with pytest.raises(ValueError, match=r"data\.cache=.*photos.* lies in the data, .*: give another data\.cache"):
        read(root, cache=str(root / below))
    assert read(root, cache=str(root / ".cache"))["test"] == read(root)["test"]


@pytest.mark.parametrize("name", ["photos [1]", "what?*", "a=b, c"])
def test_a_root_with_letters_of_patterns_is_read(tmp_path: Path, name: str) -> None:
    root = write_photos(tmp_path / name, ["train/a", "train/b", "test/a", "test/b"], 3)
    assert read(root)["test"] == [40, 41, 42, 60, 61, 62]
    make_table(range(9)).to_parquet(tmp_path / f"tables {name}/train.parquet")
    make_table(range(9, 12)).to_parquet(tmp_path / f"tables {name}/test.parquet")
    assert read(tmp_path / f"tables {name}", val_fraction=0.3)["test"] == [9, 10, 11]


def test_names_and_splits_are_the_same_by_a_link_and_by_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_photos(tmp_path / "photos", ["a", "b"], 30)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root / "a")

    def list_items(typed: Path | str) -> dict[str, list[tuple[int, int | None]]]:
        config = configure(typed)
        record = DataRecord({split: config.load(split) for split in SPLITS}, config)
        return {split: [(item.label, item.size) for item in record.items(split)] for split in SPLITS}

    wanted = read(root)
    for typed in (tmp_path / "link", "..", root / ".." / "photos"):
        assert read(typed) == wanted
        assert list_items(typed) == list_items(root)
        assert None not in {size for items in list_items(typed).values() for _, size in items}
    config = configure(tmp_path / "link")
    assert next(DataRecord({"test": config.load("test")}, config).items("test")).name[:2] in ("a/", "b/")


def test_the_record_notices_other_images_behind_a_linked_root_and_under_decomposed_names(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", ["a", "b"], 30)
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name(f"e\u0301{path.name}"))
    (tmp_path / "link").symlink_to(root)

    def record(typed: Path) -> DataRecord:
        config = configure(typed)
        return DataRecord({split: config.load(split) for split in SPLITS}, config)

    item = next(record(root).items("train"))
    assert (item.name[2], item.size is None) == ("\u00e9", False)
    before = [record(typed).digest for typed in (root, tmp_path / "link")]
    assert before[0] == before[1]
    for path in [*root.rglob("*.png")]:
        path.write_bytes(png(1, 40))
    assert {*before}.isdisjoint(record(typed).digest for typed in (root, tmp_path / "link"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes, which Windows has not")
def test_a_row_that_names_a_pipe_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "tables"
    root.mkdir()
    os.mkfifo(root / "pipe.png")
    rows = {"image": [{"bytes": None, "path": str(root / "pipe.png")}], "label": [0]}
    schema = make_table([0]).features.arrow_schema
    parquet.write_table(pyarrow.Table.from_pydict(rows, schema=schema), root / "test.parquet")
    make_table(range(9)).to_parquet(root / "train.parquet")
    with pytest.raises(ImageDecodeError, match=r"pipe\.png is a pipe, wanted a file"):
        configure(root, val_fraction=0.3).load("test").image(0)
