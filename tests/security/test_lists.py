"""List files of strangers: read in the time of their length, whatever their names and labels are."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import parse_data
from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.problems import DataProblems


@pytest.fixture(autouse=True)
def seconds() -> Iterator[None]:
    """Fail a test that takes more than a few seconds of this process."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 20


def write(root: Path, name: str, labels: list[str]) -> str:
    for number in range(len(labels)):
        (root / f"{number}.png").touch()
    (root / name).write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(labels)))
    return name


def test_a_thousand_unknown_names_against_a_thousand_classes(tmp_path: Path) -> None:
    train = write(tmp_path, "train.txt", [f"a-class-of-{i}-things" for i in range(1000)])
    val = write(tmp_path, "val.txt", [f"a-clas-of-{i}-thinks" for i in range(1000)])
    with pytest.raises(DataProblems, match="did you mean a-class-of-0-things") as refused:
        ImageLists(root=str(tmp_path), train=train, val=val).load("val")
    assert str(refused.value).count("\n") <= 21
    assert len(refused.value.problems) >= 1000


def test_thousands_of_unknown_keys_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_data({"name": "folder", "root": str(tmp_path), **{f"val_fractoin{i}": 1 for i in range(50_000)}})
    assert "did you mean data.val_fraction?" in refused.value.problems[0]
    assert refused.value.problems[-1] == "49,980 more unknown keys in data"


def test_a_class_of_a_million_letters_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path, "train.txt", ["a", "b" * 10**6])
    with pytest.raises(DataProblems, match="has 1,000,000 letters, wanted at most 1,000"):
        ImageLists(root=str(tmp_path), train=train).load("train")
    (tmp_path / "names.txt").write_text("a\n" + "b" * 10**6)
    with pytest.raises(DataProblems, match="a class name of 1,000,000 letters"):
        ImageLists(root=str(tmp_path), train=train, classes="names.txt").load("train")
