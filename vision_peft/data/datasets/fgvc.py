"""FGVC, the five fine-grained sets of VPT: CUB-200-2011, NABirds, Oxford Flowers, Stanford Dogs, Stanford Cars.

`ROOT/TASK/` holds VPT's `{train,val,test}.json` (any folder with those is a task, whether or not FGVC knows its name),
else an official archive as it was extracted: `fgvc_lists.py` and `fgvc_matlab.py` say which files. Where neither gives
a validation split, VPT's rule makes one: `data.val_fraction` (a tenth) of train, here drawn class by class from
`data.seed`, since VPT's own seed is not known; "trainval" is then the published train set. Deviation from VPT: class
indices come from train alone, sorted by class id, so a split that lacks a class cannot shift the labels of the others.
Jia et al., "Visual Prompt Tuning", https://arxiv.org/abs/2203.12119, https://github.com/KMnP/vpt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, NamedTuple

from vision_peft.data.annotations.draw_split import check_fraction, draw
from vision_peft.data.annotations.fgvc_checks import check_classes, check_repeated, list_gaps, name_classes
from vision_peft.data.annotations.fgvc_lists import Archive, Sample, read_json, read_lists
from vision_peft.data.annotations.fgvc_matlab import CAR_FOLDERS, DOG_FOLDERS, read_cars, read_dogs, read_flowers
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.tasks import choose_task, task_as_root_error
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.problems import UnknownTask, raise_problems
from vision_peft.printable import warn

CLASS_COUNTS = {"cub": 200, "nabirds": 555, "flowers": 102, "dogs": 120, "cars": 196}
SIZES = {  # images of trainval and of test
    "cub": (5994, 5794),
    "nabirds": (23929, 24633),
    "flowers": (2040, 6149),
    "dogs": (12000, 8580),
    "cars": (8144, 8041),
}
_SPELLINGS = {  # of tasks and of their folders, in small letters and digits alone
    "cub": ("cub200", "cub2002011", "cubbirds", "caltechucsdbirds2002011"),
    "nabirds": ("nabird",),
    "flowers": ("flowers102", "102flowers", "oxfordflowers", "oxfordflowers102", "oxford102flowers", "oxfordflower"),
    "dogs": ("stanforddogs", "stanforddog"),
    "cars": ("stanfordcars", "stanfordcar", "cars196"),
}
ALIASES = {spelling: task for task, spellings in _SPELLINGS.items() for spelling in (task, *spellings)}
TRAIN_FILE = "train.json"


class _Format(NamedTuple):
    """A layout, known by any of the files `marks` below the task folder."""

    marks: tuple[str, ...]
    read: Callable[[Path, list[str]], Archive]


_JSON = _Format((TRAIN_FILE, "test.json"), read_json)
_FORMATS = (
    _JSON,
    _Format(("train_test_split.txt", "image_class_labels.txt"), read_lists),
    _Format(("setid.mat", "imagelabels.mat"), read_flowers),
    _Format(tuple(f"{folder}{part}_list.mat" for folder in DOG_FOLDERS for part in ("train", "test")), read_dogs),
    _Format(("cars_annos.mat", *(f"{folder}cars_train_annos.mat" for folder in CAR_FOLDERS)), read_cars),
)


@dataclass(frozen=True, kw_only=True)
class FGVC(DataConfig):
    """One task of FGVC, `root/task`; a task and its folder go by any usual spelling and are kept under one name.

    A known task has its published number of classes; another number of images than published is warned of. Class names
    come from the archive, else from the class folders, else they are the class ids.
    """

    name: ClassVar[str] = "fgvc"
    protocol: ClassVar[str] = "val_select_retrain"
    suite: ClassVar[Mapping[str, tuple[str, ...]]] = {"fgvc": tuple(CLASS_COUNTS)}
    root: str | None = None
    task: str | None = None
    train_file: str = TRAIN_FILE
    val_fraction: float = 0.1
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        if PurePath(self.train_file).name != self.train_file:
            raise ValueError(f"data.train_file wants the name of a file in the task folder, got {self.train_file!r}")
        if self.task:
            object.__setattr__(self, "task", _unify_name(self.task))

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; warns of classes without images and of unusual numbers of images.

        One ValueError names every problem of the metadata of all splits (labels, class counts, repeated images, images
        in two splits) and of the image files of this split.
        """
        check_split(split)
        folder, form = find_task(find_root(self.root, self.name), self.task)
        if form is not _JSON and self.train_file != TRAIN_FILE:
            raise ValueError(f"data.train_file={self.train_file} is for VPT's json lists; {folder} holds none")
        problems: list[str] = []
        archive = read_json(folder, problems, self.train_file) if form is _JSON else form.read(folder, problems)
        class_ids = sorted({sample.class_id for sample in archive.parts["train"]})
        check_classes(folder, archive, class_ids, CLASS_COUNTS.get(self.task or ""), problems)
        check_repeated(archive.parts, problems)
        samples = _select_split(archive, split)
        images = PathCheck(folder)
        troubles = [(sample.where, images.find_problem(sample.path)) for sample in samples]
        problems.extend(f"{where}: {trouble}" for where, trouble in troubles if trouble)
        raise_problems(f"data.task={self.task}, split {split}", problems)
        self._warn_of_size(folder, archive.parts, split)
        if split in ("train", "val") and "val" not in archive.parts:
            train, val = draw([sample.class_id for sample in samples], (self.val_fraction,), self.seed)
            samples = [samples[place] for place in (train if split == "train" else val)]
        if not samples:
            raise ValueError(f"{folder}: the split {split} is empty: every class has too few images to split")
        index = {class_id: label for label, class_id in enumerate(class_ids)}
        labels = [index[sample.class_id] for sample in samples]
        classes = name_classes(class_ids, archive)
        _warn_of_empty_classes(f"{folder}, split {split}", classes, labels)
        if self.task not in CLASS_COUNTS and (gaps := list_gaps(archive, class_ids, None)):
            warn(f"{folder}: no image of class id {gaps} in train, so there is no such class", stacklevel=2)
        paths = [folder / sample.path for sample in samples]
        return ImageFiles(paths, labels, classes, max_pixels=self.max_pixels, exif_rotation=self.exif_rotation)

    def _warn_of_size(self, folder: Path, parts: Mapping[str, Sequence[Sample]], split: str) -> None:
        part = "test" if split == "test" else "trainval"
        if self.task not in SIZES or (part == "trainval" and self.train_file != TRAIN_FILE):
            return
        wanted = SIZES[self.task][part == "test"]
        got = len(parts["test"]) if part == "test" else len(parts["train"]) + len(parts.get("val", ()))
        if got != wanted:
            warn(f"{folder}: {got:,} images of {part}; {self.task} was published with {wanted:,}", stacklevel=3)


def find_task(root: Path, task: str | None) -> tuple[Path, _Format]:
    """Find the folder of `task` below `root` and its layout; the UnknownTask for another names those found."""
    subfolders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    found = {path.name: place for path in subfolders if (place := _find_content(path))}
    if task and task not in ("all", *FGVC.suite, *map(_unify_name, found)):
        if bare := next((path for path in subfolders if _unify_name(path.name) == task), None):
            marks = ", ".join(form.marks[0] for form in _FORMATS)
            raise FileNotFoundError(
                f"{bare} holds no labels: wanted VPT's json lists or an official archive, with {marks}"
            )
        if _recognise_format(root):
            raise task_as_root_error(root)
        if not found:
            raise UnknownTask(
                f"data.root={root} holds no task folder, neither one with VPT's train.json nor an official archive"
            )
    return choose_task(FGVC, root, task, found, _unify_name)


def _unify_name(task: str) -> str:
    return ALIASES.get(re.sub(r"[^a-z0-9]", "", task.lower()), task)


def _recognise_format(folder: Path) -> _Format | None:
    return next((form for form in _FORMATS if any((folder / mark).is_file() for mark in form.marks)), None)


def _find_content(folder: Path) -> tuple[Path, _Format] | None:
    """Return `folder` with its layout, or the folder of the same task in it that unpacking an archive there leaves."""
    if form := _recognise_format(folder):
        return folder, form
    if _unify_name(folder.name) not in CLASS_COUNTS:
        return None
    for inner in sorted(folder.iterdir()):
        if (
            inner.is_dir()
            and _unify_name(inner.name) == _unify_name(folder.name)
            and (form := _recognise_format(inner))
        ):
            return inner, form
    return None


def _select_split(archive: Archive, split: str) -> list[Sample]:
    """List the images that `split` has or, if no val is published, is drawn from."""
    parts = archive.parts
    if split == "test" or (split in ("train", "val") and "val" in parts):
        return list(parts[split])
    return [*parts["train"], *parts.get("val", ())]


def _warn_of_empty_classes(where: str, classes: Sequence[str], labels: Sequence[int]) -> None:
    present = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        listed = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
        warn(f"{where}: {len(empty)} of {len(classes)} classes have no image: {listed}", stacklevel=3)
