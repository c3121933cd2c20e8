import json
import os
from pathlib import Path
from typing import Any

import pytest

from vision_peft.results.find_rows import find_rows
from vision_peft.results.row import Row, read_row, write_row


def edited(path: Path, row: Row, **changed: Any) -> Path:
    """`row` written to `path` with keys replaced, or dropped where the value is ...."""
    write_row(path, row)
    data = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))
    return path


def test_a_row_read_back_equals_the_row_written(make_row, tmp_path):
    row = make_row(
        curve=[{"epoch": 1, "train_loss": 2.5, "val_top1": 50.0}],
        per_class={"zero": 98.0, "one": None},
        confusion=[[3, 1], [0, 4]],
        img_size=[112, 224],
    )
    write_row(tmp_path / "result.json", row)
    assert read_row(tmp_path / "result.json") == row


WRITTEN = """
    methods backbone dataset task seed protocol top1 top5 mean_per_class val_top1 n_train n_val n_test lr weight_decay
    batch_size epochs img_size num_frames views normalisation head params_trained params_stored params_head
    params_backbone adapter_bytes step_ms images_per_s data_wait_share peak_memory_mb train_seconds flops_forward
    world_size precision device versions commit command curve per_class confusion n_bad
    n_non_finite reused_features setting settings data_digest
    status reason updates chosen_epoch total_seconds resumed_with tried
"""


def test_the_file_holds_every_field_of_the_row_format(make_row, tmp_path):
    write_row(tmp_path / "result.json", make_row())
    assert " ".join(json.loads((tmp_path / "result.json").read_text())) == " ".join(WRITTEN.split())


def test_nan_and_infinity_are_written_as_null(make_row, tmp_path):
    row = make_row(step_ms=float("inf"), curve=[{"train_loss": float("nan")}], per_class={"a": float("nan")})
    write_row(tmp_path / "result.json", row)
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    back = read_row(tmp_path / "result.json")
    assert (back.step_ms, back.curve, back.per_class) == (None, [{"train_loss": None}], {"a": None})


def test_a_row_that_would_not_read_back_is_not_written_and_the_old_file_stays(make_row, tmp_path):
    path = tmp_path / "result.json"
    write_row(path, make_row())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"lr must be a number, got null.*epochs must be an integer, got float 5.0"):
        write_row(path, make_row(lr=float("nan"), epochs=5.0))
    assert path.read_bytes() == before


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_temporary_one(make_row, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_row(path, make_row(top1=90.0))

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_row(path, make_row(top1=91.0))
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]
    assert read_row(path).top1 == 90.0


def test_keys_of_a_newer_version_are_kept_and_written_back(make_row, tmp_path):
    path = edited(tmp_path / "result.json", make_row(), energy_wh=3.5)
    row = read_row(path)
    assert row.extra == {"energy_wh": 3.5}
    write_row(tmp_path / "copy.json", row)
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads(path.read_text())


def test_an_older_row_without_the_nested_entries_reads(make_row, tmp_path):
    row = read_row(edited(tmp_path / "result.json", make_row(), curve=..., per_class=..., confusion=...))
    assert (row.curve, row.per_class, row.confusion) == ([], {}, None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": ..., "seed": ...}, r"seed is missing.*lr is missing"),
        ({"top1": ..., "top_1": 96.4}, r"top1 is missing \(is it the unknown key top_1\?\)"),
        ({"top1": "96.4"}, r"top1 must be a number or null, got str 96.4"),
        ({"seed": True}, r"seed must be an integer, got bool True"),
        ({"seed": None}, r"seed must be an integer, got null"),
        ({"versions": {"torch": 2}}, r"versions must be an object, got dict"),
        ({"top1": 964.0}, r"top1 must be in 0..100, got 964.0"),
        ({"params_head": -1}, r"params_head must be in 0..inf, got -1"),
        ({"protocol": "best"}, r"protocol must be one of val_select, .*best_test, got best"),
        ({"methods": []}, r"methods must list"),
        ({"methods": [{"name": "vpt"}]}, r"methods must list .* got \{'name': 'vpt'\}"),
    ],
)
def test_a_wrong_row_is_refused_by_file_key_and_type(make_row, tmp_path, changed, message):
    path = edited(tmp_path / "result.json", make_row(), **changed)
    with pytest.raises(ValueError, match=message) as error:
        read_row(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"top1": 9', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"top1": NaN}', "NaN is no number of JSON, write null"),
        (b"[1, 2]", "must hold one JSON object, a result row, got a list"),
    ],
)
def test_a_file_that_is_no_row_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_row(path)
    assert str(path) in str(error.value)


def test_a_number_too_large_for_a_float_is_refused(make_row, tmp_path):
    path = edited(tmp_path / "result.json", make_row(), lr=123.0)
    path.write_text(path.read_text().replace("123.0", "1e999"))
    with pytest.raises(ValueError, match="the number 1e999 is too large"):
        read_row(path)


def test_labels_name_methods_and_their_sizes(make_row):
    lora, vpt = {"rank": 8, "alpha": 8}, {"deep": True, "tokens": 10}
    stack = [{"name": "lora", "fields": lora}, {"name": "vpt", "fields": vpt}]
    rows = [make_row(), make_row("linear", {}), make_row(methods=stack), make_row("prefix", {"tokens": 4, "hidden": 9})]
    assert [row.label for row in rows] == ["adaptformer-64", "linear", "lora-8+vpt-10", "prefix-4"]
    assert [row.method for row in rows] == ["adaptformer", "linear", "lora+vpt", "prefix"]
    assert rows[2].sizes == (8, 10)


def test_rows_are_found_in_files_run_folders_and_trees_each_once(make_row, tmp_path):
    for seed, folder in enumerate(["a/run", "b/deep/run", "c"]):
        write_row(tmp_path / folder / "result.json", make_row(seed=seed))
    assert [row.seed for row in find_rows([tmp_path])] == [0, 1, 2]
    assert [row.seed for row in find_rows([tmp_path / "c" / "result.json", tmp_path / "b" / "deep" / "run"])] == [2, 1]
    assert [row.seed for row in find_rows([tmp_path / "c", tmp_path, tmp_path / "a" / ".." / "c"])] == [2, 0, 1]


def test_what_lies_inside_a_run_belongs_to_that_run(make_row, tmp_path):
    write_row(tmp_path / "run" / "result.json", make_row(seed=7))
    write_row(tmp_path / "run" / "first_stage" / "result.json", make_row(seed=8))
    assert [row.seed for row in find_rows([tmp_path])] == [7]


def test_unfinished_runs_and_empty_folders_are_named_and_left_out(make_row, tmp_path, caplog):
    write_row(tmp_path / "done" / "result.json", make_row())
    (tmp_path / "open" / "state").mkdir(parents=True)
    (tmp_path / "open" / "config.yaml").touch()
    (tmp_path / "nothing").mkdir()
    assert len(find_rows([tmp_path, tmp_path / "nothing"])) == 1
    assert f"{tmp_path / 'open'} has not finished (no result.json yet): left out" in caplog.messages
    assert f"{tmp_path / 'nothing'} does not contain a run: left out" in caplog.messages


def test_only_unfinished_runs_are_an_error_that_names_them(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.yaml").touch()
    (tmp_path / "open" / "log.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no result found: .*open has not finished"):
        find_rows([tmp_path])


def test_an_empty_folder_and_an_empty_list_are_errors_that_say_what_is_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not contain a run; wanted a result.json, a run folder"):
        find_rows([tmp_path])
    with pytest.raises(FileNotFoundError, match="no path given"):
        find_rows([])


def test_all_missing_paths_are_named_with_the_nearest_name(make_row, tmp_path):
    write_row(tmp_path / "digits" / "result.json", make_row())
    with pytest.raises(FileNotFoundError) as error:
        find_rows([tmp_path / "digit", tmp_path / "digits", tmp_path / "elsewhere" / "x"])
    assert f"digit (did you mean {tmp_path / 'digits'}?)" in str(error.value)
    assert str(tmp_path / "elsewhere" / "x") in str(error.value)


def test_all_bad_rows_of_a_tree_are_reported_at_once(make_row, tmp_path):
    write_row(tmp_path / "good" / "result.json", make_row())
    edited(tmp_path / "bad" / "result.json", make_row(), seed="x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad/result.json is not a result row(.|\n)*broken/result.json is not valid"):
        find_rows([tmp_path])
