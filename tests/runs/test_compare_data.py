"""What has changed in the data of a run, in words, and what the run may do then."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.data.datasets.folder import Folder
from vision_peft.runs.compare_data import describe_changes, describe_evaluated, describe_since, pin_data
from vision_peft.runs.data_record import DataRecord
from vision_peft.runs.saved_data import SavedData, read_saved_data

SPLITS = ("train", "val", "test")


def record(root: Path, *splits: str, seed: int = 0) -> DataRecord:
    config = Folder(root=str(root), seed=seed)
    return DataRecord({split: config.load(split) for split in splits or SPLITS}, config)


@pytest.fixture
def tree(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos, and beside it a run folder that was made of them."""
    root = shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "run").mkdir()
    record(root).write(tmp_path / "run" / "data.json")
    return root


def saved(tree: Path) -> SavedData:
    found = read_saved_data(tree.parent / "run" / "data.json")
    assert found is not None
    return found


def remove(tree: Path) -> None:
    (tree / "train/red/3.png").unlink()


def add(tree: Path) -> None:
    for number in range(10, 15):
        shutil.copy(tree / "val/red/3.png", tree / f"val/red/{number}.png")


def rename(tree: Path) -> None:
    (tree / "test/red/3.png").rename(tree / "test/red/8.png")


def replace(tree: Path) -> None:
    (tree / "test/red/3.png").write_bytes(b"12")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: None, {}),
        (remove, {"train": "1 removed (train/red/3.png)"}),
        (add, {"val": "5 added (val/red/10.png, val/red/11.png, val/red/12.png and 2 more)"}),
        (rename, {"test": "1 removed (test/red/3.png), 1 added (test/red/8.png)"}),
    ],
)
def test_what_changed_is_said_with_the_names(tree: Path, change: Callable[[Path], None], words: dict[str, str]) -> None:
    change(tree)
    assert describe_changes(saved(tree), record(tree)) == words


def test_another_size_is_said_with_both(tree: Path) -> None:
    size = (tree / "test/red/3.png").stat().st_size
    replace(tree)
    words = f"1 of another size (test/red/3.png: 2 bytes, {size} before)"
    assert describe_changes(saved(tree), record(tree)) == {"test": words}


def test_a_class_more_is_said_and_labels_are_compared_by_their_names(tree: Path) -> None:
    for split in SPLITS:
        (tree / split / "amber").mkdir()
        shutil.copy(tree / split / "red/0.png", tree / split / "amber")
    assert describe_changes(saved(tree), record(tree)) == {
        "classes": "4 (amber, blue, green and 1 more), before 3 (blue, green, red)",
        **{split: f"1 added ({split}/amber/0.png)" for split in SPLITS},
    }


def test_classes_of_another_unicode_spelling_are_the_same(tree: Path) -> None:
    (tree.parent / "run" / "data.json").unlink()
    data = record(tree)
    for dataset in data.splits.values():
        dataset.classes[0] = "cafe\u0301"
    data.write(tree.parent / "run" / "data.json")
    for dataset in data.splits.values():
        dataset.classes[0] = "caf\u00e9"
    assert describe_changes(saved(tree), data) == {}
    size = (tree / "test/red/3.png").stat().st_size
    replace(tree)
    changes = describe_changes(saved(tree), DataRecord(data.splits, data.config))
    assert changes == {"test": f"1 of another size (test/red/3.png: 2 bytes, {size} before)"}


def test_images_of_another_class_and_another_order_are_said(tree: Path) -> None:
    data = record(tree)
    test = data.splits["test"]
    data.splits = {**data.splits, "test": test.subset(range(23, -1, -1))}
    assert describe_changes(saved(tree), data) == {"test": "the same items in another order"}
    test.labels = [2, *test.labels[1:]]
    data = DataRecord({"test": test}, data.config)
    assert describe_changes(saved(tree), data) == {"test": "1 of another class (test/blue/0.png: red, blue before)"}


@pytest.fixture
def mixed(photos: Path, tmp_path: Path) -> Path:
    """Photos without split folders, and a run that was made of them with the splits of `data.seed=0`."""
    root = tmp_path / "mixed"
    for name in ("red", "green", "blue"):
        (root / name).mkdir(parents=True)
        for split in SPLITS:
            for number in range(8):
                shutil.copy(photos / split / name / f"{number}.png", root / name / f"{split}-{number}.png")
    (tmp_path / "run").mkdir(exist_ok=True)
    record(root).write(tmp_path / "run" / "data.json")
    return root


def test_items_that_go_from_one_split_to_another_are_counted(mixed: Path) -> None:
    before, after = record(mixed), record(mixed, seed=2)
    names = {split: {item.name for item in before.items(split)} for split in SPLITS}
    come = {item.name for item in after.items("test")}
    words = describe_changes(saved(mixed), after)["test"]
    assert f"{len(come & names['train'])} of the {len(come)} now were in train" in words
    assert f"{len(come & names['val'])} of the {len(come)} now were in val" in words


def test_what_training_used_must_not_change_and_nothing_is_written(tree: Path) -> None:
    path = tree.parent / "run" / "data.json"
    before = path.read_bytes()
    assert pin_data(path, record(tree), True, ("train", "val")).words == ""
    remove(tree)
    rename(tree)
    with pytest.raises(ValueError, match=r"made of: train: 1 removed .*; test: .*restore the data.*overwrite=true"):
        pin_data(path, record(tree), True, ("train", "val"))
    assert path.read_bytes() == before
    assert pin_data(path, record(tree), False, ("train", "val")).words == ""  # nothing was trained yet
    assert describe_changes(saved(tree), record(tree)) == {}


def test_a_change_of_what_was_not_read_yet_is_said_and_recorded(tree: Path) -> None:
    path = tree.parent / "run" / "data.json"
    rename(tree)
    with pytest.raises(ValueError, match="test: 1 removed"):
        pin_data(path, record(tree), True, ("trainval", "test"))
    words = pin_data(path, record(tree), True, ("train", "val")).words
    assert words.startswith(
        "\nwarning: the data has changed where this run has not read it yet: test: 1 removed (test/red/3.png)"
    )
    assert pin_data(path, record(tree), True, ("train", "val")).words == ""


def test_a_test_split_that_got_what_was_trained_on_is_refused(mixed: Path) -> None:
    path = mixed.parent / "run" / "data.json"
    trained = record(mixed).splits["train"]
    data = record(mixed, "train", "val", "test")
    data.splits = {**data.splits, "test": trained.first(5)}
    with pytest.raises(ValueError, match="5 of the 5 now were in train"):
        pin_data(path, data, True, ("train", "val"))


def test_a_split_that_was_not_read_before_is_added(tree: Path) -> None:
    path = tree.parent / "run" / "data.json"
    record(tree, "train", "val").write(path)
    assert pin_data(path, record(tree), True, ("train", "val")).words == ""
    assert saved(tree).splits.keys() == {*SPLITS}


def test_a_run_of_an_earlier_version_goes_on_unless_it_drew_other_splits(tree: Path, mixed: Path) -> None:
    path = tree.parent / "run" / "data.json"
    path.unlink()
    assert "earlier version" in describe_since(path.parent, lambda: pytest.fail("there is nothing to compare"))
    assert "earlier version" in describe_evaluated(path.parent, record(tree, "test"), "test", own=True)
    assert describe_evaluated(path.parent, record(tree, "test"), "test", own=False) == ""
    for refused in (
        lambda: pin_data(path, record(mixed), True, ("train", "val")),
        lambda: describe_evaluated(path.parent, record(mixed, "test"), "test", own=True),
    ):
        with pytest.raises(ValueError, match=r"has no data\.json, .* which drew other splits"):
            refused()
    assert not path.exists()
    assert "earlier version" in pin_data(path, record(tree), True, ("train", "val")).words
    assert pin_data(path, record(tree), True, ("train", "val")).words == ""


def test_a_finished_run_says_what_changed_since_or_why_that_cannot_be_told(tree: Path) -> None:
    folder = tree.parent / "run"
    assert describe_since(folder, lambda: record(tree)) == ""
    remove(tree)
    assert "changed since: train: 1 removed (train/red/3.png)" in describe_since(folder, lambda: record(tree))
    shutil.rmtree(tree)
    assert "it is not known whether its data has changed: data.root=" in describe_since(folder, lambda: record(tree))
    (folder / "data.json").write_text("{")
    assert "it is not known whether its data has changed: " in describe_since(folder, lambda: record(tree))


def test_an_evaluation_is_told_what_was_trained_on(mixed: Path) -> None:
    folder = mixed.parent / "run"
    assert describe_evaluated(folder, record(mixed, "test"), "test", own=True) == ""
    assert describe_evaluated(folder, record(mixed, "train"), "train", own=True) == ""
    other = record(mixed, "test", seed=2)
    trained = {item.name for item in record(mixed).items("train")} & {item.name for item in other.items("test")}
    number = len(other.splits["test"])
    with pytest.raises(ValueError, match=f"^{len(trained)} of {number} items of test were trained on in .*run"):
        describe_evaluated(folder, other, "test", own=False)
    words = describe_evaluated(folder, record(mixed, "val", seed=2), "val", own=True)
    assert "items of val were trained on" in words
    assert "the data is not what" in words
    for path in mixed.rglob("*.png"):  # files of other content under the same names
        path.write_bytes(path.read_bytes() + b"more")
    assert describe_evaluated(folder, record(mixed, "test", seed=2), "test", own=False) == ""
