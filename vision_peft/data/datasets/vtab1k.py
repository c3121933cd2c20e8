"""VTAB-1k in the list layout of NOAH, also read by SSF, FacT, Convpass, RepAdapter and V-PETL-Bench.

`ROOT/TASK/{train800,val200,train800val200,test}.txt`, lines `images/train800/000000.jpg 307`, paths below the task
folder. Any folder of this form is a task, whether or not VTAB knows its name. Zhai et al., "A Large-scale Study of
Representation Learning with the Visual Task Adaptation Benchmark", https://arxiv.org/abs/1910.04867; lists:
https://github.com/ZhangYuanhan-AI/NOAH.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.list_files import find_overlaps, read_class_names, read_list, warn_of_empty_classes
from vision_peft.data.annotations.tasks import choose_task, task_as_root_error
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.problems import raise_problems

LISTS = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}
PARTS = (("train", "trainval"), ("val", "trainval"))  # splits that share images by design

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

_NATURAL = ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397")
_SPECIALIZED = ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy")


@dataclass(frozen=True, kw_only=True)
class VTAB1k(DataConfig):
    """One task of VTAB-1k, `root/task`: 800 train, 200 val, both together as trainval, and its own test set.

    `task` may be an alias that other repositories use; it is kept under VTAB's own name. A known task has its published
    number of classes. Another folder has the classes of its `classes.txt` (a name a line) or, without that, as many as
    the largest label of the train and val lists says.
    """

    name: ClassVar[str] = "vtab1k"
    protocol: ClassVar[str] = "val_select_retrain"
    suite: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "natural": _NATURAL,
        "specialized": _SPECIALIZED,
        "structured": tuple(task for task in CLASS_COUNTS if task not in _NATURAL + _SPECIALIZED),
    }
    root: str | None = None
    task: str | None = None
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        if self.task:
            object.__setattr__(self, "task", _unify_name(self.task))

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; a warning names classes without training images.

        One ValueError names every problem of the list and every image that it shares with the list of another split.
        """
        check_split(split)
        folder = find_task(find_root(self.root, self.name), self.task)
        problems: list[str] = []
        names_file = folder / "classes.txt"
        names = read_class_names(names_file, problems) if names_file.is_file() else []
        known = CLASS_COUNTS.get(_unify_name(folder.name))
        if known and names and len(names) != known:
            problems.append(f"{names_file}: {len(names)} names; the VTAB task {folder.name} has {known} classes")
        count = known or len(names) or _largest_train_label(folder) + 1
        items = read_list(folder / LISTS[split], folder, problems, num_classes=count)
        find_overlaps({name: folder / file for name, file in LISTS.items()}, PARTS, problems)
        raise_problems(f"data.task={self.task}, split {split}", problems)
        classes = names or [str(label) for label in range(count)]
        labels = [label for _, label in items]
        if split in ("train", "trainval"):
            warn_of_empty_classes(folder / LISTS[split], classes, labels)
        paths = [path for path, _ in items]
        return ImageFiles(paths, labels, classes, max_pixels=self.max_pixels, exif_rotation=self.exif_rotation)


def find_task(root: Path, task: str | None) -> Path:
    """Find the folder of `task` below `root` by any of its names; the UnknownTask for another lists those found."""
    folders = {path.name: path for path in sorted(root.iterdir()) if _is_task(path)}
    if not folders:
        if _is_task(root):
            raise task_as_root_error(root)
        if next(root.glob("*/**/*.tfrecord*"), None):
            raise ValueError(
                f"data.root={root} is a tree of TensorFlow Datasets, which data=vtab1k does not read: write the images "
                f"once with  vision-peft prepare-vtab vtab-1k --tfds {root}  and give data.root=vtab-1k"
            )
        raise ValueError(
            f"data.root={root} holds no task folder, that is one with {LISTS['train']} and {LISTS['test']}"
        )
    return choose_task(VTAB1k, root, task, folders, _unify_name)


def _unify_name(task: str) -> str:
    return ALIASES.get(task, task)


def _is_task(folder: Path) -> bool:
    return any((folder / file).is_file() for file in LISTS.values())


def _largest_train_label(folder: Path) -> int:
    files = [folder / LISTS[split] for split in ("train", "val", "trainval")]
    items = [item for file in files if file.is_file() for item in read_list(file, folder, [], check_images=False)]
    return max((label for _, label in items), default=0)
