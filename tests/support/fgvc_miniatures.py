"""Miniatures of the five official archives, their metadata in the real file formats, and of VPT's json layout.

Each gives what a reader has to find: image path below the task folder -> class name, for the published train (and val)
and test images.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat


class Miniature(NamedTuple):
    folder: Path
    classes: list[str]
    splits: dict[str, dict[str, str]]  # "train", "test" and, where public, "val": image path -> class name


def write_images(folder: Path, paths: Iterable[str]) -> None:
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number % 256, 0, 0)).save(folder / path)


def write_lines(file: Path, rows: Iterable[Sequence[object]], end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(" ".join(map(str, row)) + end for row in rows).encode())


def cub(folder: Path) -> Miniature:
    """3 classes with 10, 4 and 4 train images and 2 test images each."""
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    rows = [(name, k, k >= count) for name, count in zip(classes, (10, 4, 4), strict=True) for k in range(count + 2)]
    paths = [f"{name}/{name[4:]}_{k:04d}_7.jpg" for name, k, _ in rows]
    write_images(folder / "images", paths)
    write_lines(folder / "images.txt", enumerate(paths, start=1))
    labels = [classes.index(name) + 1 for name, _, _ in rows]
    write_lines(folder / "image_class_labels.txt", enumerate(labels, start=1))
    write_lines(folder / "train_test_split.txt", enumerate((int(not test) for *_, test in rows), start=1))
    write_lines(folder / "classes.txt", enumerate(classes, start=1))
    found = {f"images/{path}": (name, test) for path, (name, _, test) in zip(paths, rows, strict=True)}
    return Miniature(folder, classes, _halves(found))


def nabirds(folder: Path) -> Miniature:
    """3 leaf classes with ids 295, 817, 1010, below inner classes without images; images have UUIDs as their ids."""
    names = {
        0: "Birds",
        1: "Ducks, Geese, and Swans",
        295: "Common Eider (Adult male)",
        817: "Oak Titmouse",
        1010: "Oak Titmouse",  # a name that stands twice
    }
    ids = {int(key): uuid.UUID(int=key * 7919) for key in range(12)}
    class_ids = [(295, 817, 1010)[key % 3] for key in ids]
    paths = [f"{class_id:04d}/{ids[key].hex}.jpg" for key, class_id in zip(ids, class_ids, strict=True)]
    write_images(folder / "images", paths)
    order = list(ids)
    write_lines(folder / "images.txt", [(ids[key], paths[key]) for key in order])
    write_lines(folder / "image_class_labels.txt", [(ids[key], class_ids[key]) for key in reversed(order)])
    write_lines(folder / "train_test_split.txt", [(ids[key], int(key < 9)) for key in order])
    write_lines(folder / "classes.txt", names.items())
    write_lines(folder / "hierarchy.txt", [(295, 1), (1, 0)])
    classes = ["Common Eider (Adult male)", "Oak Titmouse [817]", "Oak Titmouse [1010]"]
    found = {f"images/{paths[key]}": (classes[key % 3], key >= 9) for key in order}
    return Miniature(folder, classes, _halves(found))


def flowers(folder: Path) -> Miniature:
    """3 classes, 12 images: 3 of train, 3 of val, 6 of test, as 1 x N arrays of small integers."""
    labels = [2, 3, 1, 1, 2, 3, 3, 2, 1, 1, 2, 3]
    sets = {"trnid": [2, 3, 5], "valid": [7, 4, 8], "tstid": [1, 6, 9, 10, 11, 12]}
    write_images(folder / "jpg", [f"image_{k:05d}.jpg" for k in range(1, 13)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(folder / "setid.mat", {name: np.array([ids], np.uint16) for name, ids in sets.items()})
    splits = {
        split: {f"jpg/image_{k:05d}.jpg": str(labels[k - 1]) for k in sets[name]}
        for split, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }
    return Miniature(folder, ["1", "2", "3"], splits)


def dogs(folder: Path, lists: str = "") -> Miniature:
    """3 classes, 4 train and 2 test images each: cells of text as N x 1 object arrays, labels as N x 1 doubles."""
    classes = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02116738-African_hunting_dog"]
    splits = {}
    for split, places in (("train", range(4)), ("test", range(4, 6))):
        rows = [(f"{name}/{name.split('-')[0]}_{k}.jpg", name) for name in classes for k in places]
        write_images(folder / "Images", [path for path, _ in rows])
        (folder / lists).mkdir(exist_ok=True)
        content = {
            "file_list": cell([path for path, _ in rows], column=True),
            "annotation_list": cell([path.removesuffix(".jpg") for path, _ in rows], column=True),
            "labels": np.array([[classes.index(name) + 1.0] for _, name in rows]),
        }
        savemat(folder / lists / f"{split}_list.mat", content)
        splits[split] = {f"Images/{path}": name for path, name in rows}
    return Miniature(folder, classes, splits)


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]


def cars(folder: Path, devkit: str = "devkit", test: str = "cars_test_annos_withlabels.mat") -> Miniature:
    """3 classes, 6 train and 3 test images; both folders number their images from 00001."""
    splits, files = {}, {"train": folder / devkit / "cars_train_annos.mat", "test": folder / test}
    for split, count in (("train", 6), ("test", 3)):
        names = [f"{k:05d}.jpg" for k in range(1, count + 1)]
        write_images(folder / f"cars_{split}", names)
        files[split].parent.mkdir(parents=True, exist_ok=True)
        rows = [{**BOX, "class": np.uint8(k % 3 + 1), "fname": name} for k, name in enumerate(names)]
        savemat(files[split], {"annotations": structs(rows)})
        splits[split] = {f"cars_{split}/{name}": CARS[k % 3] for k, name in enumerate(names)}
    savemat(folder / devkit / "cars_meta.mat", {"class_names": cell(CARS)})
    return Miniature(folder, CARS, splits)


def joint_cars(folder: Path) -> Miniature:
    """The later release: one folder of images and one file with a test flag."""
    paths = [f"car_ims/{k:06d}.jpg" for k in range(1, 10)]
    write_images(folder, paths)
    rows = [
        {"relative_im_path": path, **BOX, "class": np.uint8(k % 3 + 1), "test": np.uint8(k % 9 > 5)}
        for k, path in enumerate(paths)
    ]
    savemat(folder / "cars_annos.mat", {"annotations": structs(rows), "class_names": cell(CARS)})
    return Miniature(folder, CARS, _halves({path: (CARS[k % 3], k > 5) for k, path in enumerate(paths)}))


BOX = {"bbox_x1": np.uint8(39), "bbox_y1": np.uint16(116), "bbox_x2": np.uint16(569), "bbox_y2": np.uint16(375)}


def vpt(folder: Path, lists: Mapping[str, Mapping[str, int]], images: str = "images") -> Path:
    """VPT's json lists with an image for every path in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in lists.items():
        write_images(folder / images, content)
        (folder / f"{split}.json").write_text(json.dumps(content, indent=0))
    return folder


def cell(texts: Sequence[Any], column: bool = False) -> np.ndarray:
    """A MATLAB cell array, 1 x N or N x 1."""
    array = np.empty((1, len(texts)), dtype=object)
    array[0] = texts
    return array.T if column else array


def structs(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A MATLAB struct array, 1 x N."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        array[0, place] = tuple(row.values())
    return array


def _halves(found: Mapping[str, tuple[str, bool]]) -> dict[str, dict[str, str]]:
    return {
        split: {path: name for path, (name, is_test) in found.items() if is_test is test}
        for split, test in (("train", False), ("test", True))
    }
