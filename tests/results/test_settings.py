"""Which rows are seeds of one setting: those that differ in nothing else, each run once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.results.find_rows import find_rows
from vision_peft.results.row import Row, write_row
from vision_peft.results.settings import group_by_seed, list_settings

MakeRow = Callable[..., Row]
PLAIN = {"data.name": "digits", "method.name": "lora", "precision": "fp32", "protocol": "val_select"}


def make_setting(make_row: MakeRow, name: str, seed: int = 0, **changed: object) -> Row:
    """A row of LoRA with such a setting, of which `changed` are the keys with a dot for a double underline."""
    settings = PLAIN | {key.replace("__", "."): value for key, value in changed.items()}
    return make_row("lora", {"rank": 8, "alpha": 8}, seed=seed, setting=name, settings=settings)


def seeds(rows: list[Row]) -> list[list[int]]:
    return [[row.seed for row in setting.rows] for setting in group_by_seed(rows)]


def test_runs_that_differ_in_more_than_the_seed_are_settings_of_their_own(make_row: MakeRow) -> None:
    rows = [
        make_setting(make_row, "a", seed=0),
        make_setting(make_row, "b", seed=1, recipe__augment="flip"),
        make_setting(make_row, "c", seed=2, recipe__label_smoothing=0.3, recipe__optimizer="sgd"),
        make_setting(make_row, "d", seed=3, precision="bf16", recipe__schedule="constant"),
        make_setting(make_row, "e", seed=0, recipe__mixup=0.8),
        make_setting(make_row, "a", seed=1),
    ]
    assert seeds(rows) == [[0, 1], [1], [2], [3], [0]]


def test_other_data_of_the_same_name_is_another_setting(make_row: MakeRow) -> None:
    rows = [make_row(seed=seed, data_digest=digest) for seed, digest in enumerate(["1" * 64, "2" * 64, None, "1" * 64])]
    assert seeds(rows) == [[0, 3], [1], [2]]


def test_rows_of_earlier_versions_are_never_seeds_of_later_ones(make_row: MakeRow) -> None:
    early = {"setting": None, "settings": None}
    rows = [make_row(seed=0, **early), make_row(seed=1), make_row(seed=2, **early), make_row(seed=3, lr=0.5, **early)]
    assert seeds(rows) == [[0, 2], [1], [3]]


def test_a_default_that_changed_between_versions_is_told_from_what_the_row_holds(make_row: MakeRow) -> None:
    assert seeds([make_row(seed=0, epochs=5), make_row(seed=1, epochs=10)]) == [[0], [1]]
    other = {"bottleneck": 64, "scale": 0.2}
    assert seeds([make_row(seed=0), make_row(seed=1, fields=other)]) == [[0], [1]]


def test_a_true_repeat_is_left_out_once_and_both_files_are_named(
    make_row: MakeRow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, top1 in (("a", 90.0), ("b", 80.0)):
        write_row(tmp_path / folder / "result.json", make_row(top1=top1, task="near"))
    rows = find_rows([tmp_path])
    group_by_seed(rows)
    (row,) = group_by_seed(rows)[0].rows
    assert row.top1 == 90.0
    first, second = (tmp_path / folder / "result.json" for folder in "ab")
    words = f"AdaptFormer-64 on digits near: seed 0 occurs twice, {first} counts, {second} is left out"
    assert caplog.messages == [words]


def test_a_run_that_read_test_goes_before_its_search_trial_without_a_word(
    make_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    (setting,) = group_by_seed([make_row(top1=None), make_row(top1=90.0), make_row(seed=1, top1=92.0)])
    assert [(row.seed, row.top1) for row in setting.rows] == [(0, 90.0), (1, 92.0)]
    assert caplog.messages == []


def test_a_finished_run_goes_before_one_that_diverged_with_the_same_seed(
    make_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    (setting,) = group_by_seed([make_row(top1=None, status="diverged"), make_row(top1=90.0)])
    assert ([row.top1 for row in setting.rows], setting.lost) == ([90.0], ())
    assert caplog.messages == ["AdaptFormer-64 on digits: seed 0 occurs twice, the second row is left out"]


def test_seeds_that_have_not_finished_are_kept_apart_and_described(make_row: MakeRow) -> None:
    rows = [make_row(seed=0), make_row(seed=1)]
    assert group_by_seed(rows)[0].describe_lost() == ""
    rows.append(make_row(seed=2, top1=None, status="diverged", updates=40))
    (setting,) = group_by_seed(rows)
    assert (len(setting.rows), setting.mean("top1")) == (2, 96.4)
    assert setting.describe_lost() == "1 of 3 seeds diverged at update 40"
    rows += [
        make_row(seed=3, top1=None, status="diverged", updates=7),
        make_row(seed=4, top1=None, status="unfinished"),
    ]
    (setting,) = group_by_seed(rows)
    assert setting.describe_lost() == "2 of 5 seeds diverged at update 40 and 7, 1 of 5 seeds unfinished"


def test_settings_are_named_shortly_and_once(make_row: MakeRow) -> None:
    row = make_setting(
        make_row,
        "a",
        recipe__mixup=0.8,
        recipe__lr=1e-3,  # a field of the row
        recipe__views=7,  # a field of the row, with another value
        backbone__tubelet_size=2,
        backbone__sha256="0123456789" * 6,
        data__balanced=True,
        method__rank=8,
        world_size=1,
    )
    found = list_settings(row)
    assert {key: found[key] for key in ("mixup", "lr", "tubelet_size", "sha256", "data.balanced", "precision")} == {
        "mixup": 0.8,
        "lr": 1e-3,
        "tubelet_size": 2,
        "sha256": "01234567",
        "data.balanced": True,
        "precision": "fp32",
    }
    assert (found["views"], found["recipe.views"]) == (1, 7)
    assert not {"recipe.lr", "method.rank", "rank", "name", "data.name", "protocol"} & found.keys()


def test_rows_of_earlier_versions_are_not_seeds_of_each_other_where_what_they_know_differs(make_row):
    early = {"setting": None, "settings": None, "data_digest": None}
    rows = [make_row(seed=0, **early), make_row(seed=1, **early)]
    assert [len(setting.rows) for setting in group_by_seed(rows)] == [2]
    for other in ({"precision": "bf16"}, {"world_size": 8}, {"n_test": 10}, {"n_val": 7}):
        assert [len(setting.rows) for setting in group_by_seed([*rows, make_row(seed=2, **early, **other)])] == [2, 1]
