"""What the HTML report holds of one setting: its curves, confusions, items, and what was tried on val."""

from collections.abc import Callable
from typing import Any

import pytest
from support.report_page import read_data

from vision_peft.results.html_page import make_page
from vision_peft.results.row import Row

Make = Callable[..., Row]
KS = [1, 2, 5, 10, 20, 50, 100, 200]


def trace(path: str, values: list[Any], phase: str = "select") -> list[dict[str, Any]]:
    """The curve of a run that val watched along `path`, each of which has the place of an epoch."""
    return [
        {"phase": phase, "epoch": n, path: value, "train_loss": 1 / n, "val_top1": 50.0 + n}
        for n, value in enumerate(values, start=1)
    ]


def solved(penalties: int) -> list[dict[str, Any]]:
    return trace("penalty", [10.0 ** (1 - n / 2) for n in range(penalties)])


def test_details_of_a_setting_are_those_of_its_seeds(make_row: Make) -> None:
    curve = [{"phase": "select", "epoch": n, "train_loss": 1 / n, "val_top1": 50.0 + n} for n in range(1, 201)]
    shared = {
        "per_class": {"cat": 90.0, "dog": 80.0},
        "curve": [*curve, {"phase": "final", "epoch": 1, "train_loss": 1}],
    }
    wrong = {"item": "test/cat/1.png", "true": "cat", "answered": "dog"}
    other = {"item": "test/dog/2.png", "true": "dog", "answered": "cat", "confidence": 0.99}
    rows = [
        make_row(seed=0, confusion=[[9, 1], [2, 8]], hardest=[other, wrong | {"confidence": 0.8}], **shared),
        make_row(seed=1, confusion=[[8, 2], [2, 8]], hardest=[wrong | {"confidence": 0.6}], **shared),
    ]
    (entry,) = read_data(make_page(rows))["kinds"][0]["settings"]
    assert [run[0] for run in entry["runs"]] == [0, 1]
    assert [run[3] for run in entry["runs"]] == ["python tools/train.py"] * 2
    assert [len(column) for column in entry["curves"][0][1:]] == [60, 60, 60]
    assert entry["curves"][0][1][::59] == [1, 200]
    assert entry["confusion"]["counts"] == [[17, 3], [4, 16]]
    assert entry["confusion"]["pairs"] == [[4, "dog", "cat"], [3, "cat", "dog"]]
    assert entry["hardest"] == [
        ["test/cat/1.png", "cat", "dog", 0.7, 2],
        ["test/dog/2.png", "dog", "cat", 0.99, 1],
    ]
    assert ["lr", "0.001"] in entry["fields"]
    pictures = read_data(make_page(rows, picture=lambda row, item: f"data:image/jpeg;base64,{row.seed}{item[-5]}"))
    images = [line[5] for line in pictures["kinds"][0]["settings"][0]["hardest"]]
    assert images == ["data:image/jpeg;base64,01", "data:image/jpeg;base64,02"]


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("linear", {"curve": solved(15)}, "tried 15 penalties on val"),
        ("linear", {"curve": solved(1)}, "tried 1 penalty on val"),
        ("linear", {"curve": solved(15), "tried": {"recipe.weight_decay": [1.0] * 15}}, "tried 15 penalties on val"),
        ("linear", {"curve": solved(2), "tried": {"data.shots": [1, 5]}}, "tried 2 penalties on val, shots: 2"),
        ("linear", {"curve": [{"phase": "train", "epoch": 1, "penalty": 1.0}], "protocol": "last_epoch"}, ""),
        ("knn", {"curve": trace("k", KS), "tried": {"method.k": KS}}, "tried 8 k on val"),
        ("lora", {"curve": trace("lr", KS)}, ""),
    ],
)
def test_penalties_and_k_that_val_compared_are_told_as_tried(
    name: str, changed: dict[str, Any], told: str, make_row: Make
) -> None:
    (setting,) = read_data(make_page([make_row(name, {}, epochs=1, **changed)]))["kinds"][0]["settings"]
    assert (setting["tried"], setting["epochs"]) == (told, "1 epoch")


def test_only_what_val_watched_counts_as_tried_and_seeds_may_differ(make_row: Make) -> None:
    again = [{"phase": "retrain", "epoch": n, "penalty": 1.0, "train_loss": 1.0} for n in range(1, 9)]
    rows = [make_row("linear", {}, seed=seed, curve=solved(15 - seed) + again) for seed in (0, 1)]
    (setting,) = read_data(make_page(rows))["kinds"][0]["settings"]
    assert setting["tried"] == "tried 14 to 15 penalties on val"


def test_a_solved_head_and_knn_are_traced_along_what_they_tried(make_row: Make) -> None:
    curves = {"knn": trace("k", KS), "linear": solved(4), "lora": trace("lr", [1, 2])}
    rows = [make_row(name, {}, curve=curve, chosen_epoch=2) for name, curve in curves.items()]
    settings = {each["name"]: each for each in read_data(make_page(rows))["kinds"][0]["settings"]}
    traced = {name: (each["along"], each["curves"][0][1]) for name, each in settings.items()}
    assert traced == {"knn": ("k", KS), "linear": ("penalty", [10, 3.16228, 1, 0.316228]), "lora": (None, [1, 2])}
    assert {name: each["runs"][0][2] for name, each in settings.items()} == {"knn": None, "linear": None, "lora": 2}


def test_long_names_keep_their_ends(make_row: Make) -> None:
    names = [f"{'a' * 100} {number}" for number in (1, 2)]
    row = make_row(per_class=dict.fromkeys(names, 50.0), confusion=[[9, 1], [2, 8]])
    (setting,) = read_data(make_page([row]))["kinds"][0]["settings"]
    first, second = setting["confusion"]["classes"]
    assert first != second
    assert max(map(len, (first, second))) <= 80
