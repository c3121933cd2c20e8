"""`vision-peft prepare-vtab` against a stand-in for TensorFlow Datasets, and what it writes against our reader."""

import hashlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vision_peft.data.datasets.vtab1k import CLASS_COUNTS, VTAB1k
from vision_peft.data.decoding.image_dataset import ImageFiles

Examples = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tool(repository: Path) -> SimpleNamespace:
    return SimpleNamespace(
        **runpy.run_path(str(repository / "vision_peft/cli/prepare_vtab.py"), run_name="prepare_vtab")
    )


def images(count: int, channels: int = 3, top: int = 256, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, top, (count, 3, 2, channels), dtype=np.uint8))


class Builder:
    """What the tool uses of a TFDS builder."""

    def __init__(self, examples: Examples, features: dict[str, Any]) -> None:
        counts = {split: SimpleNamespace(num_examples=len(items)) for split, items in examples.items()}
        self.info = SimpleNamespace(splits=counts, features=features)
        self.version, self.examples, self.read = "3.0.2", examples, 0

    def download_and_prepare(self) -> None:
        pass

    def as_dataset(self, split: str, shuffle_files: bool) -> list[dict[str, Any]]:
        assert shuffle_files is False
        self.read += 1
        found = re.fullmatch(r"(\w+)(?:\[(\d*%?):(\d*)\])?", split)
        assert found
        items = self.examples[found[1]]
        start = found[2] or "0"
        first = len(items) * int(start[:-1]) // 100 if start.endswith("%") else int(start)
        return items[first : int(found[3]) if found[3] else None]


def labels(count: int, **features: int) -> dict[str, Any]:
    """A class feature with so many classes, or several."""
    named = {"label": count} if count else features
    return {
        key: SimpleNamespace(num_classes=number, names=[f"{key}_{i}" for i in range(number)])
        for key, number in named.items()
    }


@pytest.fixture
def tfds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Builder]:
    """A module tensorflow_datasets whose builders are those of this dict, by name with version."""
    builders: dict[str, Builder] = {}
    module = ModuleType("tensorflow_datasets")
    module.__dict__.update(
        __version__="4.9.9", builder=lambda name, data_dir=None: builders[name], as_numpy=lambda data: data
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return builders


@pytest.fixture
def prepare(tool: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = tool.main(list(map(str, arguments)))
        shown, errors = capsys.readouterr()
        return code, shown, errors

    return run


def cifar(count: int = 2000, test: int = 7) -> Builder:
    def part(number: int, seed: int) -> list[dict[str, Any]]:
        return [{"image": image, "label": i * 7 % 100} for i, image in enumerate(images(number, seed=seed))]

    return Builder({"train": part(count, 1), "test": part(test, 2)}, labels(100))


def check_split(root: Path, task: str, split: str, pixels: list[np.ndarray], wanted: list[int]) -> list[str]:
    dataset = VTAB1k(root=str(root), task=task).load(split)
    assert isinstance(dataset, ImageFiles)
    assert dataset.labels == wanted
    for index in {0, len(wanted) // 2, len(wanted) - 1}:
        array = np.broadcast_to(pixels[index], (3, 2, 3))
        assert np.array_equal(np.asarray(dataset.image(index)), array)
    return dataset.classes


def test_what_is_written_is_read_back_pixel_by_pixel_with_the_official_splits(tfds, prepare, tmp_path: Path) -> None:
    builder = tfds["cifar100:3.*.*"] = cifar()
    code, shown, errors = prepare(tmp_path, "--tasks", "cifar")
    assert (code, errors) == (0, "")
    assert shown == "cifar: train800 800, val200 200, test 7, train800val200 1000\n"
    train, test = builder.examples["train"], builder.examples["test"]
    parts = {"train": train[:800], "val": train[1800:], "trainval": train[:800] + train[1800:], "test": test}
    for split, part in parts.items():
        classes = check_split(tmp_path, "cifar", split, [e["image"] for e in part], [e["label"] for e in part])
        assert classes == [f"label_{i}" for i in range(100)]

    manifest = json.loads((tmp_path / "cifar" / "manifest.json").read_text())
    assert manifest["source"] == {"builder": "cifar100:3.*.*", "version": "3.0.2", "tfds": "4.9.9"}
    assert manifest["splits"] == {"train800": "train[:800]", "val200": "train[1800:2000]", "test": "test"}
    assert manifest["images"] == {"train800": 800, "val200": 200, "test": 7, "train800val200": 1000}
    written = {str(path.relative_to(tmp_path / "cifar")) for path in (tmp_path / "cifar").rglob("*") if path.is_file()}
    assert written == {*manifest["files_sha256"], "manifest.json"}
    content = b"".join(b"(2, 3) RGB %d\n" % e["label"] + e["image"].tobytes() for e in test)
    assert manifest["pixels_sha256"]["test"] == hashlib.sha256(content).hexdigest()


def test_a_complete_task_is_left_alone_a_damaged_one_is_found_and_mended(tfds, prepare, tmp_path: Path) -> None:
    builder = tfds["cifar100:3.*.*"] = cifar()
    assert prepare(tmp_path, "--tasks", "cifar")[0] == 0
    folder = tmp_path / "cifar"
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = folder / "images" / "test" / "000001.png"
    before = kept.stat().st_mtime_ns
    assert prepare(tmp_path, "--tasks", "cifar")[1] == "cifar: complete already\n"
    assert builder.read == 3
    assert prepare(tmp_path, "--tasks", "cifar", "--verify")[:2] == (0, "cifar: every file is as it was written\n")

    (folder / "images" / "test" / "000000.png").write_bytes(b"half")
    (folder / "images" / "val200" / "000199.png").unlink()
    (folder / "images" / "val200" / "000198.png.tmp").touch()
    code, _, errors = prepare(tmp_path, "--tasks", "cifar", "--verify")
    assert code == 2
    for words in ("000199.png is missing", "000000.png is not the file", "000198.png.tmp does not belong there"):
        assert words in errors
    assert prepare(tmp_path, "--tasks", "cifar")[0] == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole
    assert kept.stat().st_mtime_ns == before


def test_kitti_is_the_distance_of_the_nearest_vehicle(tool: SimpleNamespace) -> None:
    def label(*objects: tuple[int, float]) -> int:
        types, depths = [kind for kind, _ in objects], [[0.0, 0.0, depth] for _, depth in objects]
        example = {"objects": {"type": np.array(types, int), "location": np.array(depths).reshape(-1, 3)}}
        return tool.TASKS["kitti"].label(example, {})

    assert [label((0, depth)) for depth in (5.0, 8.0, 8.1, 20.0, 20.5, 90.0)] == [0, 0, 1, 1, 2, 2]
    assert label((0, 30.0), (2, 12.0), (1, 25.0)) == 1
    assert label((3, 4.0), (2, 30.0)) == 2  # a pedestrian does not count
    assert label((3, 4.0)) == label() == 3


def test_clevr_is_the_number_of_objects_and_the_distance_of_the_nearest(tool: SimpleNamespace) -> None:
    def example(*depths: float) -> dict[str, Any]:
        return {"objects": {"size": np.zeros(len(depths)), "pixel_coords": np.array([[1, 1, d] for d in depths])}}

    count, distance = tool.TASKS["clevr_count"].label, tool.TASKS["clevr_dist"].label
    assert [count(example(*[9.0] * number), {}) for number in (3, 10)] == [0, 7]
    nearest = (7.9, 8.2, 8.7, 9.2, 9.9, 10.5)
    assert [distance(example(12.0, depth, 11.0), {}) for depth in nearest] == [0, 1, 2, 3, 4, 5]


def test_dsprites_joins_neighbouring_values_and_norb_takes_its_own(tool: SimpleNamespace) -> None:
    features = labels(0, label_x_position=32, label_orientation=40, label_azimuth=18, label_elevation=9)

    def of(task: str, name: str, values: range) -> list[int]:
        return [tool.TASKS[task].label({name: np.int64(value)}, features) for value in values]

    assert of("dsprites_loc", "label_x_position", range(32)) == [value // 2 for value in range(32)]
    assert of("dsprites_ori", "label_orientation", range(40)) == [int(value / 2.5) for value in range(40)]
    assert of("smallnorb_azi", "label_azimuth", range(18)) == list(range(18))
    assert of("smallnorb_ele", "label_elevation", range(9)) == list(range(9))


def test_grey_and_binary_images_and_parts_of_one_split(tfds, prepare, tmp_path: Path) -> None:
    sprites = [{"image": im, "label_orientation": i % 40} for i, im in enumerate(images(2100, channels=1, top=2))]
    tfds["dsprites:2.*.*"] = Builder({"train": sprites}, labels(0, label_orientation=40))
    grey = [{"image": image, "label_elevation": i % 9} for i, image in enumerate(images(900, channels=1))]
    tfds["smallnorb:2.*.*"] = Builder({"train": grey, "test": grey[:450]}, labels(0, label_elevation=9))
    assert prepare(tmp_path, "--tasks", "dsprites_ori,smallnorb_ele")[0] == 0
    for split, part in (("val", sprites[1680:1880]), ("test", sprites[1890:])):
        pixels = [255 * example["image"] for example in part]
        wanted = [int(example["label_orientation"] / 2.5) for example in part]
        assert check_split(tmp_path, "dsprites_ori", split, pixels, wanted) == [str(i) for i in range(16)]
    for split, part in (("val", grey[:200]), ("test", grey[225:450])):
        check_split(tmp_path, "smallnorb_ele", split, [e["image"] for e in part], [e["label_elevation"] for e in part])


def test_every_task_of_the_reader_is_prepared_with_as_many_classes_and_disjoint_slices(tool: SimpleNamespace) -> None:
    assert {name: task.classes for name, task in tool.TASKS.items()} == CLASS_COUNTS
    assert {name: tuple(tasks) for name, tasks in tool.GROUPS.items() if name != "all"} == VTAB1k.suite
    behind_train = {"cifar": 90, "caltech101": 90, "oxford_iiit_pet": 80, "svhn": 90, "eurosat": 60, "resisc45": 60}
    behind_train |= {"clevr_count": 90, "clevr_dist": 90, "dsprites_loc": 80, "dsprites_ori": 80}
    for name, task in tool.TASKS.items():
        slices = task.slices(10_007)
        start = behind_train.get(name, 0) * 10_007 // 100
        source = "test" if name.startswith("smallnorb") else "validation"
        assert slices["train800"] == "train[:800]"
        assert slices["val200"] == (f"train[{start}:{start + 200}]" if start else f"{source}[:200]")
    tests = {name: task.slices(10_007)["test"] for name, task in tool.TASKS.items()}
    assert tests["eurosat"] == tests["resisc45"] == f"train[{6004 + 2001}:]"
    assert tests["dsprites_loc"] == tests["dsprites_ori"] == f"train[{8005 + 1000}:]"
    assert tests["smallnorb_azi"] == "test[50%:]"
    assert tests["clevr_dist"] == "validation"


def test_data_that_are_not_vtabs_lose_no_other_task(tfds, prepare, tmp_path: Path) -> None:
    short = cifar(count=1900)
    bad = Builder({"train": [{"image": images(1)[0], "label": 10}]}, labels(10))
    tfds.update({"cifar100:3.*.*": short, "svhn_cropped:3.*.*": bad, "dtd:3.*.*": cifar()})
    tfds["dtd:3.*.*"].examples["train"][0]["image"] = np.zeros((3, 2, 4), np.uint8)
    code, shown, errors = prepare(tmp_path, "--tasks", "natural")
    assert (code, shown) == (2, "")
    for words in (
        "cifar: error: ValueError: val200 (train[1710:1910]) has 190 images, wanted 200",
        "svhn: error: ValueError: train800 image 0 has label 10: wanted 0 to 9",
        "dtd: error: ValueError: an image is uint8 (3, 2, 4)",
        "sun397: error: KeyError",
        "7 of 7 tasks failed",
    ):
        assert words in errors
    assert not list(tmp_path.glob("*/*.txt"))


def test_lists_of_another_program_are_not_touched(tfds, prepare, tmp_path: Path) -> None:
    tfds["cifar100:3.*.*"] = cifar()
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "test.txt").write_text("images/test/0.jpg 0\n")
    code, _, errors = prepare(tmp_path, "--tasks", "cifar")
    assert code == 2
    assert "holds test.txt, which another program wrote" in errors
    assert [path.name for path in (tmp_path / "cifar").iterdir()] == ["test.txt"]


def test_a_missing_package_and_an_unknown_task_say_what_to_type(
    prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    code, _, errors = prepare(tmp_path)
    assert code == 2
    assert "pip install tensorflow tensorflow-datasets" in errors
    assert len(errors.splitlines()) == 1
    code, _, errors = prepare(tmp_path, "--tasks", "cifar,kiti")
    assert code == 2
    assert "unknown task kiti (did you mean kitti?)" in errors
    code, _, errors = prepare(tmp_path, "--tasks", "cifar", "--verify")
    assert code == 2
    assert "manifest.json cannot be read" in errors
