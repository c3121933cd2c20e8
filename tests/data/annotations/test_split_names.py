"""What means a split, and what only looks as if it did: that is refused where it would be lost."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.arrow_files import find_arrow_files
from vision_peft.data.annotations.shard_names import find_shards
from vision_peft.data.annotations.split_names import SPLIT_NAMES, check_unread, choose_splits
from vision_peft.data.annotations.walk_folders import walk_folder
from vision_peft.data.datasets.hf import HuggingFace

ROOT = Path("/data")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "val", "test"], {"train": "train", "val": "val", "test": "test"}),
        (["Test", "TRAIN", "Valid"], {"train": "TRAIN", "val": "Valid", "test": "Test"}),
        (["training", "validation", "testing"], {"train": "training", "val": "validation", "test": "testing"}),
        (["trains", "cat", "test2"], {}),
    ],
)
def test_names_of_splits_are_known_without_regard_to_case(names, found):
    assert choose_splits(names, ROOT) == found
    assert [*choose_splits(names, ROOT)] == [*found]


@pytest.mark.parametrize("name", [name for names in SPLIT_NAMES.values() for name in names])
@pytest.mark.parametrize("spell", [str, str.title])
def test_readers_know_the_same_names(tmp_path, name, spell):
    split = next(split for split, names in SPLIT_NAMES.items() if name in names)
    named = {other: names[0] for other, names in SPLIT_NAMES.items()} | {split: spell(name)}
    assert choose_splits(named.values(), ROOT) == named
    assert HuggingFace(root="here")._name_splits([*named.values()]) == named
    for folder in named.values():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").touch()
    assert {part: Path(paths[0]).parent.name for part, paths in find_shards(tmp_path, "").of.items()} == named
    for file in named.values():
        (tmp_path / f"{file}.arrow").touch()
    with pytest.raises(ValueError, match="train would be files of several splits"):
        find_arrow_files(tmp_path, walk_folder(tmp_path))


@pytest.mark.parametrize("names", [["val", "valid"], ["Train", "train"], ["test", "testing"]])
def test_two_of_one_split_are_refused(names):
    with pytest.raises(ValueError, match=r"/data holds .* and .*, all of which mean .*: keep one"):
        choose_splits(names, ROOT)


@pytest.mark.parametrize(
    ("unread", "found", "words"),
    [
        (["train2017", "val2017"], (), "holds train2017, val2017, which look like splits .* call them train and val"),
        (["dev_set"], ("train", "test"), "holds dev_set, which looks like a split .* call it val, or move it away"),
        (["Test_set", "docs"], ("train",), "holds Test_set, which looks like a split"),
        (["evaluation"], ("train", "val"), "call it test"),
    ],
)
def test_what_looks_like_a_split_that_is_not_there_is_refused(unread, found, words):
    with pytest.raises(ValueError, match=words):
        check_unread(ROOT, unread, found)


@pytest.mark.parametrize(
    ("unread", "found"),
    [
        (["test1", "test2"], ()),  # two sites: nothing is there to train on
        (["test2", "trainval"], ("train", "val", "test")),
        (["trains", "valley", "contest", "site 1"], ("train",)),
    ],
)
def test_other_names_pass(unread, found):
    check_unread(ROOT, unread, found)
