"""VTAB-1k in the list layout of NOAH, also read by SSF, FacT, Convpass, RepAdapter and V-PETL-Bench.

`ROOT/TASK/{train800,val200,train800val200,test}.txt`, lines `images/train800/000000.jpg 307`, paths below the task
folder. Any folder of this form is a task, whether or not VTAB knows its name. Zhai et al., "A Large-scale Study of
Representation Learning with the Visual Task Adaptation Benchmark", https://arxiv.org/abs/1910.04867; lists:
https://github.com/ZhangYuanhan-AI/NOAH.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.dataset import DataConfig, ImageDataset, check_split, existing_root, raise_problems, unknown
from vision_peft.data.images import MAX_PIXELS, ImageFiles
from vision_peft.data.list_files import read_lines, read_list

LISTS = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}

CLASS_COUNTS = {
    "cifar": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
    "patch_camelyon": 2,
    "eurosat": 10,
    "resisc45": 45,
    "diabetic_retinopathy": 5,
    "clevr_count": 8,
    "clevr_dist": 6,
    "dmlab": 6,
    "kitti": 4,
    "dsprites_loc": 16,
    "dsprites_ori": 16,
    "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}

ALIASES = {
    "cifar100": "cifar",
    "flowers102": "oxford_flowers102",
    "oxford_pet": "oxford_iiit_pet",
    "camelyon": "patch_camelyon",
    "retinopathy": "diabetic_retinopathy",
    "norb_azi": "smallnorb_azi",
    "norb_ele": "smallnorb_ele",
}


@dataclass(frozen=True, kw_only=True)
class VTAB1k(DataConfig):
    """One task of VTAB-1k, `root/task`: 800 train, 200 val, both together as trainval, and its own test set.

    A known task has its published number of classes. Another folder has the classes of its `classes.txt` (a name a
    line) or, without that, as many as the largest label of the train and val lists says.
    """

    name: ClassVar[str] = "vtab1k"
    root: str | None = None
    task: str | None = None
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def load(self, split: str) -> ImageDataset:
        """The images of `split`; one ValueError names every problem of its list, a warning classes without images."""
        check_split(split)
        folder = find_task(existing_root(self.root, self.name), self.task)
        problems: list[str] = []
        names = _class_names(folder, problems)
        known = CLASS_COUNTS.get(ALIASES.get(folder.name, folder.name))
        if known and names and len(names) != known:
            problems.append(
                f"{folder / 'classes.txt'}: {len(names)} names; the VTAB task {folder.name} has {known} classes"
            )
        count = known or len(names) or _largest_train_label(folder) + 1
        items = read_list(folder / LISTS[split], folder, problems, num_classes=count)
        raise_problems(f"data.task={self.task}, split {split}", problems)
        classes = names or [str(label) for label in range(count)]
        labels = [label for _, label in items]
        if split in ("train", "trainval"):
            _warn_of_empty_classes(folder / LISTS[split], classes, labels)
        paths = [path for path, _ in items]
        return ImageFiles(paths, labels, classes, max_pixels=self.max_pixels, exif_rotation=self.exif_rotation)


def find_task(root: Path, task: str | None) -> Path:
    """Folder of `task` below `root`, under its own name or an alias; the ValueError for another names those found."""
    folders = {path.name: path for path in sorted(root.iterdir()) if _is_task(path)}
    if not folders:
        if _is_task(root):
            raise ValueError(
                f"data.root={root} is itself a task folder: give data.root={root.parent} data.task={root.name}"
            )
        raise ValueError(
            f"data.root={root} holds no task folder, that is one with {LISTS['train']} and {LISTS['test']}"
        )
    if not task:
        raise ValueError(f"data=vtab1k needs data.task; {root} holds: {', '.join(folders)}")
    for name in folders:
        if name == task:
            return folders[name]
    for name in folders:
        if ALIASES.get(name, name) == ALIASES.get(task, task):
            return folders[name]
    raise unknown("data.task", task, folders)


def _is_task(folder: Path) -> bool:
    return any((folder / file).is_file() for file in LISTS.values())


def _class_names(folder: Path, problems: list[str]) -> list[str]:
    file = folder / "classes.txt"
    if not file.is_file():
        return []
    names = [line.strip() for line in read_lines(file, problems)]
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            problems.append(f"{file}:{number}: empty class name")
        elif first.setdefault(name, number) != number:
            problems.append(f"{file}:{number}: class name {name!r} stands in line {first[name]} already")
    return names


def _largest_train_label(folder: Path) -> int:
    files = [folder / LISTS[split] for split in ("train", "val", "trainval")]
    items = [item for file in files if file.is_file() for item in read_list(file, folder, [], check_images=False)]
    return max((label for _, label in items), default=0)


def _warn_of_empty_classes(file: Path, classes: list[str], labels: list[int]) -> None:
    present = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        listed = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
        warnings.warn(f"{file}: {len(empty)} of {len(classes)} classes have no training image: {listed}", stacklevel=3)
