"""A tree of class folders: `ROOT/{train,val,test}/<class>/*`, or `ROOT/<class>/*` to be split by seed."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import EXTENSIONS, MAX_PIXELS
from vision_peft.data.item_names import name_below
from vision_peft.data.problems import raise_problems

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
Items = list[tuple[Path, int]]


@dataclass(frozen=True, kw_only=True)
class Folder(DataConfig):
    """Images sorted into one folder per class.

    The class names are those of the train folder, in the order of `sorted`. Without a val folder `val_fraction` of
    train is drawn; without any split folder `test_fraction` and `val_fraction` of all images are. What is drawn depends
    on the name of each file and on `seed` alone (`SplitByName`), so a file that comes or goes moves no other. Links
    are followed; hidden files and files without an image's extension are skipped.
    """

    name: ClassVar[str] = "folder"
    root: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        for field in ("val_fraction", "test_fraction"):
            check_fraction(field, getattr(self, field))
        if self.val_fraction + self.test_fraction >= 1:
            total = self.val_fraction + self.test_fraction
            raise ValueError(
                f"data.val_fraction and data.test_fraction add up to {total:g}: they leave nothing for train"
            )

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; raises one ValueError with every problem of the tree."""
        check_split(split)
        root = find_root(self.root, self.name)
        folders = _split_folders(root)
        problems: list[str] = []
        classes = [path.name for path in _subfolders(folders.get("train", root))]
        if not classes:
            problems.append(f"{folders.get('train', root)}: no class folders in it")
        parts = {name: _read(folder, classes, problems) for name, folder in (folders or {"all": root}).items()}
        raise_problems(f"data.root={self.root}", problems)
        draw = self._draw(root, folders, parts)
        if split == "test" and "test" not in parts:
            raise FileNotFoundError(
                f"{root} has no folder test: name one so (val is then drawn from train where there is none), "
                f"or put the class folders directly into the root to have train, val and test drawn"
            )
        items = parts["train"] + parts["val"] if split == "trainval" else parts[split]
        paths, labels = [path for path, _ in items], [label for _, label in items]
        if draw is not None:
            draw.check(split, classes)
        return ImageFiles(paths, labels, classes, max_pixels=self.max_pixels, exif_rotation=self.exif_rotation)

    def draws_by_name(self) -> bool:
        return "val" not in _split_folders(find_root(self.root, self.name))

    def _draw(self, root: Path, folders: Mapping[str, Path], parts: dict[str, Items]) -> SplitByName | None:
        """Divide what `parts` holds of the splits without a folder, by the names of the files; None: all have one."""
        shares = {} if folders else {"test": self.test_fraction}
        shares |= {} if "val" in folders else {"val": self.val_fraction}
        if not shares:
            return None
        whole = parts["train" if folders else "all"]
        names, labels = [name_below(str(path), str(root)) for path, _ in whole], [label for _, label in whole]
        draw = SplitByName(names, labels, shares, self.seed, str(root))
        parts |= {name: [whole[item] for item in items] for name, items in draw.parts.items()}
        return draw


def _split_folders(root: Path) -> dict[str, Path]:
    """Find the split folders of `root` by split; none if the class folders are directly in it."""
    found: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [name for name in names if _subfolders(root / name)]
        if len(present) > 1:
            raise ValueError(f"{root} holds {' and '.join(present)}, all of which mean {split}: keep one")
        if present:
            found[split] = root / present[0]
    if found and "train" not in found:
        listed = ", ".join(str(path) for path in found.values())
        raise FileNotFoundError(f"{root} has no folder train with class folders in it, only {listed}")
    others = [path.name for path in _subfolders(root) if path not in found.values()]
    if found and others:
        warnings.warn(
            f"{root}: read {', '.join(p.name for p in found.values())}; ignored {', '.join(others)}", stacklevel=3
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=lambda p: p.name
    )


def _read(folder: Path, classes: Sequence[str], problems: list[str]) -> Items:
    items: Items = []
    for class_folder in _subfolders(folder):
        if class_folder.name not in classes:
            problems.append(
                f"{class_folder}: class {class_folder.name!r} is not among the {len(classes)} classes of train"
            )
            continue
        label = classes.index(class_folder.name)
        images: Items = []
        skipped: Counter[str] = Counter()
        for path in sorted(class_folder.iterdir(), key=lambda p: p.name):
            if path.name.startswith("."):
                skipped["hidden"] += 1
            elif path.is_dir():
                problems.append(f"{path}: a folder inside a class folder, where only images are expected")
            elif path.suffix.lower() not in EXTENSIONS:
                skipped[path.suffix.lower() or "no extension"] += 1
            elif not path.is_file():
                problems.append(f"{path}: a broken link, or not a regular file")
            else:
                images.append((path, label))
        if not images:
            listed = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(5))
            problems.append(
                f"{class_folder}: no images in this class folder" + (f" (skipped: {listed})" if skipped else "")
            )
        items += images
    return items
