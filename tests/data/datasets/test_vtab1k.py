"""The VTAB-1k list layout, with known and unknown task names."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vision_peft.data.datasets.vtab1k import ALIASES, CLASS_COUNTS, VTAB1k
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeTask = Callable[..., Path]


def load(folder: Path, split: str, task: str | None = None) -> ImageFiles:
    dataset = VTAB1k(root=str(folder.parent), task=task or folder.name).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


def test_every_split_reads_its_own_list(make_task: MakeTask) -> None:
    folder = make_task()
    assert load(folder, "train").labels == [0, 1, 2, 0]
    assert load(folder, "val").labels == [1, 2]
    assert load(folder, "trainval").labels == [0, 1, 2, 0, 1, 2]
    test = load(folder, "test")
    assert test.labels == [2, 1, 0]
    assert test.classes == ["0", "1", "2"]
    assert test.path(1) == str(folder / "images/test/000001.jpg")
    image, label = test[1]
    assert (image.mode, image.size, label) == ("RGB", (12, 10), 1)


def test_the_vtab_folder_is_read_as_it_lies(shared: Path) -> None:
    sizes = {"clothing": (10, 372), "rsscn7": (7, 700), "cifar10": (10, 2000)}
    for task, (classes, tests) in sizes.items():
        folder = shared / "data" / "vtab-1k" / task
        splits = {split: load(folder, split) for split in ("train", "val", "trainval", "test")}
        assert [len(dataset) for dataset in splits.values()] == [800, 200, 1000, tests]
        for dataset in splits.values():
            assert dataset.classes == (folder / "classes.txt").read_text().split("\n")[:classes]
            assert set(dataset.labels) == set(range(classes))
        assert splits["trainval"].paths == splits["train"].paths + splits["val"].paths
        for dataset in splits.values():
            for index in np.linspace(0, len(dataset) - 1, 5).astype(int):
                assert dataset[index][0].mode == "RGB"


def test_classes_txt_gives_the_names(make_task: MakeTask) -> None:
    assert load(make_task(classes=["flint", "jet", "agate"]), "val").classes == ["flint", "jet", "agate"]


def test_a_label_beyond_classes_txt_is_an_error_with_its_line(make_task: MakeTask) -> None:
    folder = make_task(classes=["flint", "jet"])
    with pytest.raises(ValueError, match=r"train800\.txt:3: label 2 is out of range: wanted 0 to 1"):
        load(folder, "train")


def test_a_repeated_or_empty_class_name_is_an_error_with_its_line(make_task: MakeTask) -> None:
    folder = make_task(classes=["jet", "", "jet"])
    with pytest.raises(
        ValueError, match=r"(?s)classes\.txt:2: empty.*classes\.txt:3: class name 'jet' is already on line 1"
    ):
        load(folder, "train")


def test_a_test_label_that_training_never_saw_is_an_error(make_task: MakeTask) -> None:
    with pytest.raises(ValueError, match=r"test\.txt:2: label 3 is out of range: wanted 0 to 2"):
        load(make_task(test=[0, 3]), "test")


def test_the_class_count_of_an_unknown_folder_comes_from_train_and_val_together(make_task: MakeTask) -> None:
    folder = make_task(val=[4])
    assert len(load(folder, "test").classes) == 5


def test_classes_without_training_images_are_warned_of(make_task: MakeTask) -> None:
    folder = make_task(classes=["flint", "jet", "agate", "opal"], train=[0, 2, 2])
    with pytest.warns(UserWarning, match=r"train800\.txt: 2 of 4 classes have no training image: jet, opal"):
        load(folder, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, "test")


def test_a_known_task_has_its_published_classes(make_task: MakeTask) -> None:
    folder = make_task("kitti")
    with pytest.warns(UserWarning, match="1 of 4 classes"):
        assert load(folder, "train").classes == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match=r"test\.txt:1: label 4 is out of range: wanted 0 to 3"):
        load(make_task("kitti", test=[4]), "test")
    with pytest.raises(ValueError, match=r"classes\.txt: 3 names; the VTAB task kitti has 4 classes"):
        load(make_task("kitti", classes=["near", "far", "none"]), "val")


@pytest.mark.parametrize(
    ("folder_name", "typed"), [("cifar", "cifar100"), ("cifar100", "cifar"), ("oxford_iiit_pet", "oxford_pet")]
)
def test_a_task_is_found_under_its_alias(make_task: MakeTask, folder_name: str, typed: str) -> None:
    classes = CLASS_COUNTS["cifar" if "cifar" in typed else "oxford_iiit_pet"]
    assert len(load(make_task(folder_name), "val", task=typed).classes) == classes


def test_an_alias_is_kept_under_the_name_of_vtab_so_that_both_are_one_run() -> None:
    assert VTAB1k(task="cifar100") == VTAB1k(task="cifar")
    assert set(ALIASES.values()) <= set(CLASS_COUNTS)


def test_a_root_with_a_task_under_two_of_its_names_is_refused(make_task: MakeTask) -> None:
    make_task("cifar100")
    folder = make_task("cifar")
    with pytest.raises(ValueError, match="holds cifar and cifar100, which are both cifar: keep one"):
        load(folder, "train")


def test_the_benchmark_has_19_tasks_in_groups_of_7_4_and_8() -> None:
    assert {group: len(tasks) for group, tasks in VTAB1k.suite.items()} == {
        "natural": 7,
        "specialized": 4,
        "structured": 8,
    }
    assert [task for tasks in VTAB1k.suite.values() for task in tasks] == list(CLASS_COUNTS)
    assert len(CLASS_COUNTS) == 19


@pytest.mark.parametrize("task", ["all", "natural", "specialized", "structured"])
def test_a_group_of_tasks_cannot_be_loaded_as_one(make_task: MakeTask, task: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.task={task} means several tasks"):
        load(make_task(), "train", task=task)


def test_splits_that_share_images_and_repeated_lines_are_reported_at_once(make_task: MakeTask) -> None:
    folder = make_task()
    train, test = folder / "train800.txt", folder / "test.txt"
    first = train.read_text().split("\n")[0]
    train.write_text(f"{train.read_text()}{first}\r\n")
    test.write_text(f"{test.read_text()}{first}\n")
    with pytest.raises(ValueError, match="3 problems") as caught:
        load(folder, "train")
    assert [line.strip().replace(str(folder), "") for line in str(caught.value).split("\n")[1:]] == [
        "/train800.txt:5: image 'images/train800/000000.jpg' is already on line 1",
        "/test.txt:4: image 'images/train800/000000.jpg' is also in train800.txt:1: train and test overlap",
        "/test.txt:4: image 'images/train800/000000.jpg' is also in train800val200.txt:1: trainval and test overlap",
    ]


def test_a_tree_of_tensorflow_datasets_is_told_from_a_missing_one(tmp_path: Path) -> None:
    folder = tmp_path / "cifar100" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "cifar100-train.tfrecord-00000-of-00001").touch()
    with pytest.raises(ValueError, match=rf"vision-peft prepare-vtab vtab-1k --tfds {tmp_path}"):
        VTAB1k(root=str(tmp_path), task="cifar").load("train")


def test_an_unknown_task_lists_those_there_are(make_task: MakeTask) -> None:
    make_task("gravel")
    folder = make_task("pebbles")
    (folder.parent / "notes").mkdir()
    with pytest.raises(ValueError, match=r"data\.task 'peble' \(did you mean pebbles\?\): .* gravel, pebbles"):
        load(folder, "train", task="peble")
    with pytest.raises(ValueError, match=r"needs data\.task; .* holds: gravel, pebbles"):
        VTAB1k(root=str(folder.parent)).load("train")
    for outside in ("../vtab/pebbles", str(folder)):
        with pytest.raises(ValueError, match=r"data\.task"):
            load(folder, "train", task=outside)


def test_a_root_that_is_the_task_or_holds_none_says_what_to_do(make_task: MakeTask, tmp_path: Path) -> None:
    folder = make_task()
    with pytest.raises(ValueError, match=rf"give data\.root={folder.parent} data\.task=pebbles"):
        VTAB1k(root=str(folder), task="pebbles").load("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no task folder"):
        VTAB1k(root=str(tmp_path / "empty"), task="pebbles").load("train")


def test_all_problems_of_a_list_come_in_one_error(make_task: MakeTask) -> None:
    folder = make_task()
    (folder / "val200.txt").write_text("images/val200/9.jpg 0\n../../x.jpg 1\nimages/val200/000000.jpg one\n")
    with pytest.raises(ValueError, match=r"(?s)3 problems.*val200\.txt:1.*val200\.txt:2.*val200\.txt:3"):
        load(folder, "val")
    (folder / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        load(folder, "test")


def test_a_task_folder_may_be_a_link_but_its_images_may_not_leave_it(make_task: MakeTask, tmp_path: Path) -> None:
    folder = make_task()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "pebbles").symlink_to(folder)
    assert len(load(tmp_path / "links" / "pebbles", "val")) == 2
    image = folder / "images/val200/000000.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(ValueError, match=r"val200\.txt:1: .*leads out of"):
        load(folder, "val")


def test_the_exif_and_size_switches_reach_the_decoder(make_task: MakeTask) -> None:
    folder = make_task()
    dataset = VTAB1k(root=str(folder.parent), task="pebbles", max_pixels=100).load("val")
    with pytest.raises(ValueError, match="max_pixels=100 "):
        dataset[0]
    assert Counter(load(folder, "val").labels) == {1: 1, 2: 1}
