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
parquet = pytest.importorskip("pyarrow.parquet")


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
