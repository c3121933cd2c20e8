"""Result rows of strangers: bounded in number, length and depth, whatever is made of them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hostile_inputs import is_one_line
from support.rows import sample_row

from vision_peft.results.row import read_row


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


LONG = "x" * 300_000
HARD = {"item": "a.png", "true": "cat", "answered": "dog", "confidence": 0.9}
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown keys": (lambda row: row.update({f"key{i}": 1 for i in range(100_000)}), "it has 100,0.. keys"),
    "unknown keys, and all others missing": (
        lambda row: (row.clear(), row.update({f"params_{i}": 1 for i in range(100_000)})),
        "it has 100,000 keys, wanted at most 1,000",
    ),
    "a long key": (lambda row: row.update({LONG: 1}), "holds a text of 300,000 letters"),
    "a long backbone": (lambda row: row.update(backbone=LONG), "backbone holds a text of 300,000 letters"),
    "a long method": (lambda row: row["methods"][0].update(name=LONG), "methods holds a text of 300,000 letters"),
    "a long field": (lambda row: row["methods"][0]["fields"].update({LONG: 1}), "methods holds a text of"),
    "a long value": (lambda row: row["methods"][0]["fields"].update(targets=[LONG]), "methods holds a text of"),
    "a long class": (lambda row: row.update(per_class={LONG: 1.0}), "per_class holds a text of"),
    "many fields": (
        lambda row: row["methods"][0]["fields"].update({str(i): i for i in range(5000)}),
        "methods holds more than 1,000 values",
    ),
    "many settings": (
        lambda row: row.update(settings={f"recipe.key{i}": 1 for i in range(100_000)}),
        "settings has 100,000 keys, wanted at most 1,000",
    ),
    "many methods": (lambda row: row.update(methods=row["methods"] * 100), "methods lists 100 of them"),
    "many hardest items": (lambda row: row.update(hardest=[HARD] * 13), "hardest lists 13 items, wanted at most 12"),
    "many figures": (lambda row: row.update(figures={str(i): 1.0 for i in range(101)}), "figures has 101 keys, wanted"),
    "words of many figures": (
        lambda row: row.update(figure_words={str(i): "x" for i in range(450)}),
        "figure_words has 450 keys, wanted at most 100",
    ),
    "a long word of a figure": (lambda row: row.update(figure_words={"m": "x" * 201}), "holds a text of 201 letters"),
    "hardest items of other keys": (lambda row: row.update(hardest=[HARD | {"x": 1}]), "hardest must list objects of"),
    "a hardest item that is no text": (lambda row: row.update(hardest=[HARD | {"item": 1}]), "hardest must list"),
    "confidence beyond 1": (lambda row: row.update(hardest=[HARD | {"confidence": 2}]), "hardest must list"),
    "confidence as a truth": (lambda row: row.update(hardest=[HARD | {"confidence": True}]), "hardest must list"),
    "many sizes": (lambda row: row.update(img_size=[1] * 10**6), "img_size holds more than 1,000 values"),
    "lists in lists": (lambda row: row["methods"][0]["fields"].update(a=nested(500)), "methods is nested more than 10"),
    "a number of 400 digits": (lambda row: row.update(seed=10**400), "has 401 digits"),
    "a batch of 2^64": (lambda row: row.update(batch_size=2**64), "has 20 digits"),
}


@pytest.fixture(autouse=True)
def seconds() -> Iterator[None]:
    """Fail a test that takes more than a few seconds of this process."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", CHANGES)
def test_a_row_beyond_all_measure_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, reason = CHANGES[name]
    row = sample_row()
    change(row)
    (tmp_path / "result.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=reason) as refused:
        read_row(tmp_path / "result.json")
    assert is_one_line(refused.value), str(refused.value)[:2000]


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "result.json").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r"result\.json has 8,589,934,592 bytes, wanted at most 33,554,432"):
        read_row(tmp_path / "result.json")


def test_the_row_of_100000_classes_and_a_long_command_is_read(tmp_path: Path) -> None:
    row = {
        **sample_row(),
        "per_class": {f"class number {i}": 50.0 for i in range(100_000)},
        "command": "0.5," * 100_000,
    }
    (tmp_path / "result.json").write_text(json.dumps(row))
    assert len(read_row(tmp_path / "result.json").per_class) == 100_000
