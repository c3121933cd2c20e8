"""What means a split, and what only looks as if it did: that is refused where it would be lost."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.split_names import check_unread, choose_splits

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


@pytest.mark.parametrize("names", [["val", "valid"], ["Train", "train"], ["test", "testing"]])
def test_two_of_one_split_are_refused(names):
    with pytest.raises(ValueError, match=r"/data holds .* and .*, all of which mean .*: keep one"):
        choose_splits(names, ROOT)


@pytest.mark.parametrize(
    ("unread", "found", "words"),
    [
        (["train2017", "val2017"], (), "holds train2017, val2017, which look like splits .* call them train and val"),
        (["dev"], ("train", "test"), "holds dev, which looks like a split .* call it val, or move it away"),
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
