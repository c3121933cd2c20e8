"""A path in a list never leads out of the data root, whatever the list: refused with the list and the line or entry."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from support import fgvc_miniatures as fgvc

from vision_peft.data.datasets import food101, oxford_pets
from vision_peft.data.datasets.fgvc import FGVC
from vision_peft.data.datasets.food101 import Food101
from vision_peft.data.datasets.hmdb51 import HMDB51
from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.datasets.oxford_pets import OxfordPets
from vision_peft.data.datasets.ssv2 import SomethingV2
from vision_peft.data.datasets.video_list import VideoLists
from vision_peft.data.datasets.vtab1k import VTAB1k

Listed = tuple[Callable[[], Any], str, Path]  # loads the data, the list at fault, the folder its paths start from


@pytest.fixture(autouse=True)
def small(small_fgvc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures have fewer classes than what is published."""
    monkeypatch.setattr(food101, "NUM_CLASSES", 1)
    monkeypatch.setattr(oxford_pets, "NUM_CLASSES", 1)


def text_list(root: Path, path: str) -> Listed:
    (root / "train.txt").write_text(f"a.jpg 0\n{path} 0\n")
    return lambda: ImageLists(root=str(root), train="train.txt").load("train"), "train.txt:2", root


def csv_list(root: Path, path: str) -> Listed:
    (root / "train.csv").write_text(f'path,label\na.jpg,0\n"{path}",0\n')
    return lambda: ImageLists(root=str(root), train="train.csv").load("train"), "train.csv:3", root


def vtab(root: Path, path: str) -> Listed:
    (root / "task").mkdir()
    (root / "task" / "train800.txt").write_text(f"{path} 0\n")
    (root / "task" / "test.txt").write_text(f"{path} 0\n")
    return lambda: VTAB1k(root=str(root), task="task").load("train"), "train800.txt:1", root / "task"


def video_list(root: Path, path: str) -> Listed:
    (root / "train.csv").write_text(f"a.jpg 0\n{path} 0\n")
    return lambda: VideoLists(root=str(root), train="train.csv").load("train"), "train.csv:2", root


def frame_list(root: Path, path: str) -> Listed:
    (root / "train.txt").write_text(f"folder 1 0\n{path} 1 0\n")
    data = VideoLists(root=str(root), train="train.txt", raw_frames=True)
    return lambda: data.load("train"), "train.txt:2", root


def fgvc_json(root: Path, path: str) -> Listed:
    folder = fgvc.vpt(root / "task", {"train": {"x/1.jpg": 0, "x/2.jpg": 0}, "test": {"x/3.jpg": 0}})
    content = {"x/1.jpg": 0, "x/2.jpg": 0, path: 0}
    (folder / "train.json").write_text(json.dumps(content))
    return lambda: FGVC(root=str(root), task="task").load("train"), "train.json: ", folder / "images"


def cub(root: Path, path: str) -> Listed:
    folder = fgvc.cub(root / "cub").folder
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join([f"1 {path}", *lines[1:]]) + "\n")
    return lambda: FGVC(root=str(root), task="cub").load("trainval"), "images.txt:1", folder / "images"


def dogs(root: Path, path: str) -> Listed:
    folder = fgvc.dogs(root / "dogs").folder
    content = {name: value for name, value in loadmat(folder / "train_list.mat").items() if name[0] != "_"}
    content["file_list"][0, 0] = np.array([path])
    savemat(folder / "train_list.mat", content)
    data = FGVC(root=str(root), task="dogs")
    return lambda: data.load("trainval"), r"train_list.mat: file_list\(1\)", folder / "Images"


def food(root: Path, path: str) -> Listed:
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    (root / "food-101" / "images" / "x").mkdir(parents=True)
    for name in ("train", "test"):
        (meta / f"{name}.json").write_text(json.dumps({"x": [path.removesuffix(".jpg")]}))
    return lambda: Food101(root=str(root)).load("trainval"), "train.json: class 'x', image 1", meta.parent / "images"


def pets(root: Path, path: str) -> Listed:
    base, image = root / "oxford-iiit-pet", path.removesuffix(".jpg")
    (base / "annotations").mkdir(parents=True)
    (base / "images" / "x").mkdir(parents=True)
    for number, half in enumerate(("trainval", "test")):
        (base / "annotations" / f"{half}.txt").write_text(f"{image}_{number} 1 1 1\n")
    return lambda: OxfordPets(root=str(root)).load("trainval"), "trainval.txt:1", base / "images"


def hmdb(root: Path, path: str) -> Listed:
    for folder in ("splits", "videos/kick"):
        (root / folder).mkdir(parents=True)
    (root / "videos" / "kick" / "a.avi").write_bytes(b"video")
    (root / "splits" / "kick_test_split1.txt").write_text(f"a.avi 2\n{path} 1\n")
    return lambda: HMDB51(root=str(root)).load("train"), "kick_test_split1.txt:2", root / "videos" / "kick"


def ssv2(root: Path, path: str) -> Listed:
    (root / "videos").mkdir()
    for name, content in (("labels", {"Holding something": "0"}), ("train", None), ("validation", None)):
        entries = [{"id": path.removesuffix(".jpg"), "template": "Holding [something]"}]
        (root / f"something-something-v2-{name}.json").write_text(json.dumps(content or entries))
    return lambda: SomethingV2(root=str(root)).load("train"), "train.json, entry 1", root / "videos"


LISTS = [text_list, csv_list, vtab, video_list, frame_list, fgvc_json, cub, dogs, food, pets, hmdb, ssv2]
PATHS = {
    "absolute": "{outside}",
    "up": "{up}outside.jpg",
    "up and down": "x/../{up}outside.jpg",
    "link": "link.jpg",
    "linked folder": "linked/outside.jpg",
    "nul": "x/a\0.jpg",
    "nul behind a real one": "{outside}\0.jpg",
    "new line": "x/a\nb.jpg",
    "unc": r"\\server\share\a.jpg",
    "drive": r"C:\a.jpg",
    "home": "~/outside.jpg",
    "dots": "..",
    "device": "/dev/zero",
}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that every dataset could read, were it inside, and a folder of frames of the same name."""
    Image.new("RGB", (8, 6)).save(tmp_path / "outside.jpg")
    (tmp_path / "outside.webm").write_bytes(b"video")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "outside.jpg"


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("make", LISTS)
def test_a_path_that_leads_out_is_refused(make: Callable[[Path, str], Listed], name: str, outside: Path) -> None:
    root = outside.parent / "root"
    (root / "folder").mkdir(parents=True)
    for place in (root / "a.jpg", root / "folder" / "1.jpg"):
        Image.new("RGB", (8, 6)).save(place)
    if make is frame_list:  # its outside.jpg is a folder of frames
        outside.rename(outside.with_name("1.jpg"))
        outside.mkdir()
        outside.with_name("1.jpg").rename(outside / "1.jpg")
    depth = 1 if make in (text_list, csv_list, video_list, frame_list) else 2 if make in (vtab, ssv2) else 3
    path = PATHS[name].format(outside=outside, up="../" * depth)
    load, place, base = make(root, path)
    for link, target in (("link.jpg", outside), ("linked", outside.parent), ("x/1.jpg", outside)):
        if not (base / link).exists() and (base / link).parent.is_dir():
            (base / link).symlink_to(target)
    with pytest.raises(ValueError, match=r"\d+ problems?") as refused:
        load()
    problems = [line for line in str(refused.value).splitlines() if re.search(rf"{place}\b|{place}", line)]
    assert problems, str(refused.value)
    assert all(len(line) < 1000 for line in problems)


@pytest.mark.parametrize("path", ["..", "linked", "x/../.."])
def test_folders_of_frames_do_not_lead_out_either(path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "1.jpg")
    (root / "linked").symlink_to(tmp_path)
    load = frame_list(root, path)[0]
    (root / "train.txt").write_text(f"{path} 1 0\n")
    with pytest.raises(ValueError, match=r"train\.txt:1: path .* leads out of"):
        load()
