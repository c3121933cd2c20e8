"""FGVC: every official archive and VPT's json lists end to end, against what the miniature was made of."""

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.fgvc_miniatures import Miniature, cars, cub, dogs, flowers, joint_cars, nabirds, vpt

from vision_peft.data.datasets.fgvc import ALIASES, CLASS_COUNTS, FGVC, SIZES
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.problems import UnknownTask

ARCHIVES: dict[str, tuple[str, str, Callable[[Path], Miniature]]] = {
    "cub": ("cub", "CUB_200_2011", cub),
    "nabirds": ("nabirds", "nabirds", nabirds),
    "flowers": ("flowers", "flowers-102", flowers),
    "dogs": ("dogs", "stanford_dogs", dogs),
    "dogs, lists in their folder": ("dogs", "dogs", lambda folder: dogs(folder, lists="lists")),
    "cars": ("cars", "stanford_cars", cars),
    "cars, labels in a nested devkit": (
        "cars",
        "Stanford-Cars",
        lambda folder: cars(folder, "car_devkit/devkit", "car_devkit/devkit/cars_test_annos_withlabels.mat"),
    ),
    "cars, one folder": ("cars", "cars", joint_cars),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures have 3 classes; their number of images is as published."""
    sizes = {"cub": (18, 6), "nabirds": (9, 3), "flowers": (6, 6), "dogs": (12, 6), "cars": (6, 3)}
    for task in CLASS_COUNTS:
        monkeypatch.setitem(CLASS_COUNTS, task, 3)
        monkeypatch.setitem(SIZES, task, sizes[task])


def load(root: Path, task: str, split: str, **fields: object) -> ImageFiles:
    dataset = FGVC(root=str(root), task=task, **fields).load(split)  # pyright: ignore[reportArgumentType]
    assert isinstance(dataset, ImageFiles)
    return dataset


def found(dataset: ImageFiles, folder: Path) -> dict[str, str]:
    """Image path below the task folder -> class name, as the dataset has them."""
    names = [dataset.classes[label] for label in dataset.labels]
    paths = [Path(path).relative_to(folder).as_posix() for path in dataset.paths]
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, names, strict=True))


def test_the_five_tasks_have_their_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert CLASS_COUNTS == {"cub": 200, "nabirds": 555, "flowers": 102, "dogs": 120, "cars": 196}
    assert {task: sum(sizes) for task, sizes in SIZES.items()} == {
        "cub": 11788,
        "nabirds": 48562,
        "flowers": 8189,
        "dogs": 20580,
        "cars": 16185,
    }
    assert FGVC.suite == {"fgvc": ("cub", "nabirds", "flowers", "dogs", "cars")}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_an_official_archive_gives_its_published_images_and_classes(tmp_path: Path, archive: str) -> None:
    task, name, write = ARCHIVES[archive]
    made = write(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sets = {split: load(tmp_path, task, split) for split in ("train", "trainval", "test")}
    with warnings.catch_warnings():  # of a class whose few images leave none for val
        warnings.simplefilter("ignore")
        sets["val"] = load(tmp_path, task, "val")
    got = {split: found(dataset, made.folder) for split, dataset in sets.items()}
    for dataset in sets.values():
        assert dataset.classes == made.classes
        image, label = dataset[len(dataset) - 1]
        assert (image.size, label) == ((8, 6), dataset.labels[-1])
    assert got["test"] == made.splits["test"]
    assert got["trainval"] == made.splits["train"] | made.splits.get("val", {})
    assert got["train"] | got["val"] == got["trainval"]
    assert not set(got["train"]) & set(got["val"])
    if "val" in made.splits:
        assert got["train"] == made.splits["train"]
        assert got["val"] == made.splits["val"]
    else:
        assert got["val"]
        assert sets["trainval"].paths == [str(made.folder / path) for path in made.splits["train"]]


def test_a_tenth_of_each_class_becomes_val_and_at_least_one_image(tmp_path: Path) -> None:
    cub(tmp_path / "cub")
    counts = {split: Counter(load(tmp_path, "cub", split).labels) for split in ("train", "val")}
    assert counts == {"train": {0: 9, 1: 3, 2: 3}, "val": {0: 1, 1: 1, 2: 1}}
    counts = {split: Counter(load(tmp_path, "cub", split, val_fraction=0.5).labels) for split in ("train", "val")}
    assert counts == {"train": {0: 5, 1: 2, 2: 2}, "val": {0: 5, 1: 2, 2: 2}}


def test_the_seed_alone_draws_val(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    drawn = [load(tmp_path, "cub", "val", seed=seed).paths for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(paths) for paths in drawn}) > 1
    # The rule written out: the class's images in their order, permuted by one stream that goes through the classes.
    state, expected = np.random.RandomState(0), []
    for name in made.classes:
        images = [path for path, of in made.splits["train"].items() if of == name]
        expected.append(images[state.permutation(len(images))[0]])
    assert drawn[0] == [str(made.folder / path) for path in expected]


VPT = {
    "train": {"001.Gull/a 1.jpg": 4, "001.Gull/b.jpg": 4, "007.Tern/a.jpg": 9, "003.Auk/a.jpg": 7},
    "val": {"007.Tern/b.jpg": 9},
    "test": {"003.Auk/t.jpg": 7, "001.Gull/t.jpg": 4, "007.Tern/t.jpg": 9},
}


@pytest.mark.parametrize(
    ("task", "images"), [("cub", "images"), ("nabirds", "images"), ("dogs", "Images"), ("flowers", "jpg"), ("cars", "")]
)
@pytest.mark.filterwarnings("ignore:.*images of")
def test_vpts_lists_are_read_with_the_image_folder_of_each_data_set(tmp_path: Path, task: str, images: str) -> None:
    folder = vpt(tmp_path / task, VPT, images)
    with pytest.warns(UserWarning, match=r"split val: 2 of 3 classes have no image: 001\.Gull, 003\.Auk"):
        val = load(tmp_path, task, "val")
    train, test, both = (load(tmp_path, task, split) for split in ("train", "test", "trainval"))
    assert train.classes == val.classes == test.classes == ["001.Gull", "003.Auk", "007.Tern"]
    assert (train.labels, val.labels, test.labels) == ([0, 0, 2, 1], [2], [1, 0, 2])
    assert train.path(0) == str(folder / images / "001.Gull/a 1.jpg")
    assert both.paths == train.paths + val.paths


def test_vpts_lists_come_before_the_archive_they_lie_in(tmp_path: Path) -> None:
    made = cub(tmp_path / "CUB_200_2011")
    paths = [path.removeprefix("images/") for path in made.splits["train"]]
    lists = {path: made.classes.index(path.split("/")[0]) + 1 for path in paths}
    test_list = {path.removeprefix("images/"): 1 for path in list(made.splits["test"])[:2]}
    vpt(made.folder, {"train": lists, "test": test_list})
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        test = load(tmp_path, "cub", "test")
    assert len(test) == 2
    assert test.classes == made.classes
    messages = [str(warning.message) for warning in record]
    assert len(messages) == 2
    assert messages[0].endswith("2 images of test; cub was published with 6")
    assert messages[1].endswith("2 of 3 classes have no image: 002.Laysan_Albatross, 003.Sooty_Albatross")


def test_without_val_json_val_is_drawn_from_train_json(tmp_path: Path) -> None:
    train = {f"{name}/{k}.jpg": label for label, name in enumerate("xyz") for k in range(20)}
    test = {f"{name}/t.jpg": label for label, name in enumerate("xyz")}
    vpt(tmp_path / "letters", {"train": train, "test": test})
    sets = {split: load(tmp_path, "letters", split) for split in ("train", "val", "trainval")}
    assert [Counter(dataset.labels) for dataset in sets.values()] == [
        dict.fromkeys(range(3), count) for count in (18, 2, 20)
    ]
    assert sorted(sets["train"].paths + sets["val"].paths) == sorted(sets["trainval"].paths)


def test_the_digits_of_signs_are_read_as_they_lie(shared: Path) -> None:
    root = shared / "data" / "fgvc"
    sets = {split: load(root, "sign_digits", split) for split in ("train", "val", "trainval", "test")}
    assert [len(dataset) for dataset in sets.values()] == [600, 100, 700, 400]
    for split, dataset in sets.items():
        assert dataset.classes == [str(digit) for digit in range(10)]
        assert all(
            Path(path).parent.name == str(label) for path, label in zip(dataset.paths, dataset.labels, strict=True)
        )
        if split != "trainval":
            content = json.loads((root / "sign_digits" / f"{split}.json").read_text())
            assert dataset.labels == [class_id - 1 for class_id in content.values()]
    assert sets["val"][0][0].mode == "RGB"


def test_a_fraction_of_train_is_read_in_place_of_train_json(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "birds", VPT)
    (folder / "train_0.1.json").write_text(json.dumps({"001.Gull/b.jpg": 4, "007.Tern/a.jpg": 9, "003.Auk/a.jpg": 7}))
    with pytest.warns(UserWarning, match="no image of class id 5, 6, 8 in train, so there is no such class"):
        assert load(tmp_path, "birds", "trainval", train_file="train_0.1.json").labels == [0, 2, 1, 2]
    with pytest.raises(FileNotFoundError, match=r"train_0\.2\.json"):
        load(tmp_path, "birds", "train", train_file="train_0.2.json")
    with pytest.raises(ValueError, match=r"data\.train_file wants the name of a file"):
        FGVC(train_file="../train.json")
    dogs(tmp_path / "dogs")
    with pytest.raises(ValueError, match=r"data\.train_file=train_0\.1\.json is for VPT's json lists"):
        load(tmp_path, "dogs", "train", train_file="train_0.1.json")


def test_classes_are_named_by_their_id_where_folders_do_not_tell(tmp_path: Path) -> None:
    lists = {"train": {"all/1.jpg": 0, "all/2.jpg": 1}, "test": {"all/3.jpg": 1, "all/4.jpg": 0}}
    vpt(tmp_path / "flat", lists)
    assert load(tmp_path, "flat", "test").classes == ["0", "1"]
    split_over_two = {"train": {"a/1.jpg": 0, "b/2.jpg": 0, "c/3.jpg": 1}, "test": {"c/4.jpg": 1, "a/4.jpg": 0}}
    vpt(tmp_path / "mixed", split_over_two)
    assert load(tmp_path, "mixed", "test").classes == ["0", "1"]


@pytest.mark.parametrize("typed", ["cub", "CUB", "cub200", "CUB-200", "CUB_200_2011"])
@pytest.mark.parametrize("folder", ["cub", "CUB_200_2011", "cub-200"])
def test_a_task_and_its_folder_go_by_any_usual_spelling(tmp_path: Path, typed: str, folder: str) -> None:
    cub(tmp_path / folder)
    assert FGVC(task=typed).task == "cub"
    assert len(load(tmp_path, typed, "test")) == 6


def test_every_spelling_means_one_task() -> None:
    for typed, task in {
        "oxford_flowers": "flowers",
        "flowers-102": "flowers",
        "OxfordFlowers102": "flowers",
        "stanford_dogs": "dogs",
        "StanfordDogs": "dogs",
        "stanford_cars": "cars",
        "NABirds": "nabirds",
        "sign_digits": "sign_digits",
    }.items():
        assert FGVC(task=typed).task == task
    assert set(ALIASES.values()) == set(CLASS_COUNTS)


def test_an_archive_unpacked_inside_a_folder_of_its_name_is_found(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub" / "CUB_200_2011")
    assert load(tmp_path, "cub", "test").path(0).startswith(str(made.folder))


def test_windows_line_ends_and_spaces_in_paths_are_read(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    for file in made.folder.glob("*.txt"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    (made.folder / "images/001.Black_footed_Albatross").rename(made.folder / "images/001 Black")
    text = (made.folder / "images.txt").read_text()
    (made.folder / "images.txt").write_text(text.replace("001.Black_footed_Albatross/", "001 Black/"))
    trainval = load(tmp_path, "cub", "trainval")
    assert Path(trainval.path(0)).parent.name == "001 Black"
    assert trainval.classes == made.classes


def test_an_unknown_task_suggests_the_nearest(tmp_path: Path) -> None:
    cub(tmp_path / "CUB_200_2011")
    vpt(tmp_path / "pebbles", VPT)
    (tmp_path / "notes").mkdir()
    with pytest.raises(UnknownTask, match=r"data\.task 'peble' \(did you mean pebbles\?\): .*CUB_200_2011, pebbles"):
        load(tmp_path, "peble", "train")
    with pytest.raises(UnknownTask, match=r"did you mean cub"):
        load(tmp_path, "cubb", "train")
    for outside in ("../pebbles", str(tmp_path / "pebbles"), "cars"):
        with pytest.raises(UnknownTask, match=r"data\.task"):
            load(tmp_path, outside, "train")
    with pytest.raises(ValueError, match=r"needs data\.task; .* holds: CUB_200_2011, pebbles"):
        FGVC(root=str(tmp_path)).load("train")
    for several in ("all", "fgvc"):
        with pytest.raises(ValueError, match=r"only vision-peft train and check-data run"):
            load(tmp_path, several, "train")


def test_a_root_that_is_the_task_or_holds_none_says_what_to_do(tmp_path: Path) -> None:
    folder = cub(tmp_path / "cub").folder
    with pytest.raises(ValueError, match=rf"give data\.root={tmp_path} data\.task=cub"):
        load(folder, "cub", "train")
    (tmp_path / "empty" / "Stanford_Dogs").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"Stanford_Dogs holds no labels: wanted .*train\.json, train_"):
        load(tmp_path / "empty", "dogs", "train")
    with pytest.raises(UnknownTask, match="holds no task folder"):
        load(tmp_path / "empty", "cars", "train")
    cub(tmp_path / "CUB_200_2011")
    with pytest.raises(ValueError, match="CUB_200_2011 and cub, which are both cub: keep one"):
        load(tmp_path, "cub", "train")
