"""Datasets of Hugging Face `datasets`: names of the hub, or a folder of parquet, arrow or class folders.

https://huggingface.co/docs/datasets. The library finds and converts the files; images are decoded here, with the limits
of all other readers, and never by it. No code of a dataset runs: versions of the library that could do that are
refused, and a folder is read as what its files are, whatever script lies in it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.labelled_parts import LabelledParts, Value, find_classes
from vision_peft.data.annotations.split_names import SPLIT_NAMES, SPLITS
from vision_peft.data.annotations.table_files import TableFolder, as_one_error, open_table_folder
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.deep_grey import check_value_range, choose_few, warn_of_deep_grey_in
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.decoding.table_images import TableImages
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import unknown
from vision_peft.home_paths import expand_home
from vision_peft.printable import name_some, warn

LABEL_NAMES = ("label", "labels", "class")
OLDEST = 4  # version of datasets; older ones can run code of a dataset


@dataclass(frozen=True, kw_only=True)
class HuggingFace(DataConfig):
    """A dataset with a column of images and one of labels: a ClassLabel, numbers from 0, or names.

    Without names the classes are numbers, or the names that occur in train in the order of `sorted`. Splits that are
    not there are drawn by `seed` and the number of each row, or the name of its file where it is one.
    """

    name: ClassVar[str] = "hf"
    root: str | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    cache: str | None = None
    streaming: bool = False
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False
    value_range: str | tuple[float, float] = "full"

    def __post_init__(self) -> None:
        check_value_range(self.value_range)
        for field in ("val_fraction", "test_fraction"):
            check_fraction(field, getattr(self, field))
        if self.root and self.hub:
            raise ValueError("data.root is a folder, data.hub a repository of the hub: give only one of them")
        if self.streaming:
            raise ValueError(
                "data.streaming=true: a stream has no order of all its items that a shuffle could draw from and a "
                "resumed run continue; give streaming=false, which downloads once to data.cache"
            )

    def draws_by_name(self) -> bool:
        return "val" not in self._name_splits([*self._open().tables])

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; one ValueError names every label that is missing or wrong, with its row."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        """Open the tables and read the labels once for all splits; errors are those of `load`."""
        where, opened = self._source, self._open()
        tables = opened.tables
        given = self._name_splits([*tables])
        rows = {part: tables[name] for part, name in given.items()}
        features = rows["train"].features
        image, label = self._find_image_column(features), self._find_label_column(features)
        files = {part: self._list_files(table, image) for part, table in rows.items()}
        numbered = {part: [f"{name}[{row}]" for row in range(len(tables[name]))] for part, name in given.items()}
        names = {part: [*map(to_nfc, files[part])] or numbered[part] for part in rows}
        values = {part: _read_values(table, label) for part, table in rows.items()}
        classes, labels = find_classes(values, names, getattr(features[label], "names", None) or [], where)
        parts = LabelledParts(names, labels, self.val_fraction, self.test_fraction, self.seed, where)
        source = self.hub or str(find_root(self.root, self.name))
        in_files, folders = [part for part in rows if files[part]], self._list_folders()
        paths = {part: files[part] or numbered[part] for part in rows}
        self._warn_of_unread(given, tables)
        unread = [self._list_files(table, image) for name, table in tables.items() if name not in given.values()]
        opened.warn_of_left_out(where, {path for found in (*files.values(), *unread) for path in found})

        def take(halves: Sequence[tuple[str, Sequence[int]]]) -> TableImages:
            places = [(part, item) for part, items in halves for item in items]
            return TableImages(
                rows,
                image,
                places,
                [str(PurePath(source, paths[part][item])) for part, item in places],
                [labels[part][item] for part, item in places],
                classes,
                folders=folders,
                in_files=in_files,
                max_pixels=self.max_pixels,
                exif_rotation=self.exif_rotation,
                value_range=self.value_range,
            )

        few = take([("train", choose_few(len(rows["train"])))])
        warn_of_deep_grey_in(few.yield_few(), where, self.value_range, self.max_pixels)
        return lambda split: take(parts.find(split, classes))

    def _open(self) -> TableFolder:
        """Open all splits as tables of datasets, by the names that they have there."""
        root = None if self.hub else find_root(self.root, self.name)
        datasets = _import_datasets()
        if root is not None:
            return open_table_folder(datasets, root, self.cache, self._source)
        with as_one_error(self._source):
            tables = datasets.load_dataset(self.hub, self.subset, revision=self.revision, cache_dir=self.cache)
        return TableFolder(tables, "hub")

    @property
    def _source(self) -> str:
        return f"data.hub={self.hub}" if self.hub else f"data.root={self.root}"

    def _name_splits(self, there: Sequence[str]) -> dict[str, str]:
        """Return the name of train, and of val and test where there are such, in the dataset."""
        found = {part: name for part in SPLITS if (name := getattr(self, part))}
        for name in found.values():
            if name not in there:
                raise unknown(f"split of {self._source}", name, there)
        free = {name.lower(): name for name in sorted(there) if name not in found.values()}
        for part, usual in SPLIT_NAMES.items():
            if part not in found and (name := next((free[word] for word in usual if word in free), None)):
                found[part] = name
        found = {part: found[part] for part in SPLITS if part in found}
        if "train" not in found:
            raise ValueError(f"{self._source} has the splits {', '.join(there)}: name one with data.train=")
        if len({*found.values()}) < len(found):
            raise ValueError(f"{self._source}: data.train, val and test must be different splits, got {found}")
        return found

    def _find_image_column(self, features: Mapping[str, Any]) -> str:
        named = self.image_column
        if named and named not in features:
            raise unknown(f"column of {self._source}", named, [*features])
        found = [named] if named else [name for name, feature in features.items() if _holds_images(feature)]
        if len(found) != 1 or not _holds_images(features[found[0]]):
            kinds = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
            raise ValueError(f"{self._source}: data.image_column must name a column of images; there are {kinds}")
        return found[0]

    def _find_label_column(self, features: Mapping[str, Any]) -> str:
        named = self.label_column
        if named and named not in features:
            raise unknown(f"column of {self._source}", named, [*features])
        marked = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        usual = [name for name in LABEL_NAMES if name in features]
        found = named or (marked[0] if len(marked) == 1 else next(iter(usual), None))
        if found is None or getattr(features[found], "dtype", "") not in _LABEL_TYPES:
            kinds = ", ".join(f"{name} ({getattr(feature, 'dtype', '-')})" for name, feature in features.items())
            raise ValueError(
                f"{self._source}: data.label_column must name a column of numbers or names; there are {kinds}"
            )
        return found

    def _list_files(self, table: Any, column: str) -> list[str]:
        """List the files of the images, as they are spelt below the root, where each is one; else nothing."""
        if self.hub or column not in table.column_names:
            return []
        images = table.data.column(column)
        if not len(images) or not hasattr(images[0], "keys"):
            return []
        parts = {field.name: values for field, values in zip(images.type, images.flatten(), strict=True)}
        paths = parts["path"].to_pylist() if parts["bytes"].null_count == len(images) else []
        base = os.path.join(find_root(self.root, self.name).resolve(), "")  # noqa: PTH118  datasets follows links
        return [path.removeprefix(base) for path in paths] if all(paths) else []

    def _warn_of_unread(self, given: Mapping[str, str], tables: Mapping[str, Any]) -> None:
        """Warn of splits that are there and none of train, val and test."""
        unread = [f"{name} ({len(table):,} rows)" for name, table in tables.items() if name not in given.values()]
        drawn = [part for part in ("val", "test") if part not in given and (part == "val" or "val" not in given)]
        if unread:
            drawn_by = f", and {' and '.join(drawn)} drawn from train" if drawn else ""
            few = "s are" if len(unread) > 1 else " is"
            warn(
                f"{self._source}: the split{few} not read: {name_some(unread)}{drawn_by}; data.val= and data.test= "
                "name another",
                stacklevel=3,
            )

    def _list_folders(self) -> list[Path]:
        """List the folders that rows may name files in."""
        datasets = _import_datasets()
        own = [] if self.hub else [self.root]
        caches = [self.cache or datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME]
        return [expand_home(folder).resolve() for folder in (*own, *caches) if folder]


_LABEL_TYPES = ("string", "large_string", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError("data=hf needs the package datasets: pip install 'vision_peft[hf]'") from None
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise ImportError(f"datasets {datasets.__version__} can run code from a dataset: pip install 'vision_peft[hf]'")
    return datasets


def _holds_images(feature: Any) -> bool:
    """Whether a column is one of images: as such, as bytes with a path, or as bytes."""
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys()
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _read_values(table: Any, column: str) -> list[Value]:
    return table.data.column(column).to_pylist()
