"""Which shards are read as which split, and what is said of those that are not."""

import io
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from support.shards import png, write_shard

from vision_peft.data.annotations.shard_names import find_shards
from vision_peft.data.datasets.webdataset import WebDataset
from vision_peft.data.problems import DataProblems


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def find(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    shards = find_shards(root, "here")
    return {part: [os.path.relpath(path, root) for path in paths] for part, paths in shards.of.items()}, shards.unread


def test_names_and_folders_say_the_split_and_what_says_none_is_left(tmp_path: Path) -> None:
    names = (
        "train-000.tar",
        "training-1.tar",
        "Val/0.tar",
        "validation_1.tar",
        "testing/0.tar",
        "extra.tar",
        "tr/0.tar",
    )
    touch(*(tmp_path / name for name in names))
    assert find(tmp_path) == (
        {
            "train": ["train-000.tar", "training-1.tar"],
            "val": ["Val/0.tar", "validation_1.tar"],
            "test": ["testing/0.tar"],
        },
        ["extra.tar", "tr/0.tar"],
    )


def test_where_no_name_says_a_split_all_are_train(tmp_path: Path) -> None:
    touch(tmp_path / "b.tar", tmp_path / "a/0.tar", tmp_path / "trainer.tar")
    assert find(tmp_path) == ({"train": ["a/0.tar", "b.tar", "trainer.tar"]}, [])


@pytest.mark.parametrize(
    "name", ["train-1.TAR", "train-1.tar.gz", "train-1.tgz", "a/train-1.tar.zst", "train-1.TAR.XZ"]
)
def test_archives_of_another_ending_are_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "train-0.tar", tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"here: {name} would not be read, wanted plain archives .* data\.train=PATTERN"
    ):
        find(tmp_path)


def test_folders_that_are_links_are_looked_into(tmp_path: Path) -> None:
    touch(tmp_path / "root/a/train-0.tar", tmp_path / "far/train-1.tar")
    (tmp_path / "root/b").symlink_to(tmp_path / "far")
    (tmp_path / "root/again").symlink_to(tmp_path / "root/a")
    assert find(tmp_path / "root") == ({"train": ["a/train-0.tar", "b/train-1.tar"]}, [])


def count(root: Path, **fields: Any) -> int:
    take = WebDataset(root=str(root), val_fraction=0.1, test_fraction=0.2, **fields).open_splits()
    return sum(len(take(split)) for split in ("train", "val", "test"))


def test_shards_that_are_left_out_are_named_once(tmp_path: Path) -> None:
    for shard, name in enumerate(("train-000", "extra-000", "more")):
        write_shard(tmp_path / f"{name}.tar", range(20 * shard, 20 * shard + 20))
    with pytest.warns(UserWarning, match=r"2 shards left out, as no name says the split \(extra-000\.tar, more\.tar\)"):
        assert count(tmp_path) == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            len(WebDataset(root=str(tmp_path), train="train-*.tar::more.tar", val="extra-000.tar").load("train")) == 40
        )


def test_a_shard_is_in_train_once_and_in_no_other_split(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", range(20 * number, 20 * number + 20))
    with pytest.raises(ValueError, match=r"data\.train=\*\.tar and data\.test=2\.tar both name .*2\.tar"):
        count(tmp_path, train="*.tar", test="2.tar")
    with pytest.raises(ValueError, match=r"data\.train=0\.tar::\*\.tar names .*0\.tar twice"):
        count(tmp_path, train="0.tar::*.tar")
    assert count(tmp_path, train="0.tar", val="1.tar", test="1.tar") == 60


def test_a_root_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    for name, numbers in (("shards[1]", range(20)), ("shards1", range(50, 52))):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "train-000.tar", numbers)
    assert count(tmp_path / "shards[1]", train="train-*.tar") == count(tmp_path / "shards[1]") == 20
    absolute = tmp_path / "shards[[]1]" / "train-*.tar"
    assert count(tmp_path, train=str(absolute)) == 20


def test_samples_that_are_hard_links_are_read_and_symbolic_links_told(tmp_path: Path) -> None:
    def write(kind: bytes) -> None:
        with tarfile.open(tmp_path / "0.tar", "w") as archive:
            for number in range(20):
                for name, content in ((f"{number:03}.png", png(number)), (f"{number:03}.cls", b"1")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
                    link = tarfile.TarInfo(f"again{name}")
                    link.type, link.linkname = kind, name
                    archive.addfile(link)

    write(tarfile.LNKTYPE)
    assert count(tmp_path) == 40
    write(tarfile.SYMTYPE)
    with pytest.raises(DataProblems, match=r"0\.tar: 'again000\.png' is a symbolic link: pack it with --dereference"):
        count(tmp_path)
