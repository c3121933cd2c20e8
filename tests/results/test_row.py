import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_peft.packed_bits import pack_bits
from vision_peft.results.row import Row, find_correct, read_row, write_row


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
        correct=pack_bits(np.arange(597) % 3 > 0),
    )
    write_row(tmp_path / "result.json", row)
    back = read_row(tmp_path / "result.json")
    assert back == row
    assert (correct := find_correct(back)) is not None
    assert np.array_equal(correct, np.arange(597) % 3 > 0)


WRITTEN = """
    methods backbone dataset task seed protocol top1 top5 mean_per_class val_top1 n_train n_val n_test lr weight_decay
    batch_size epochs img_size num_frames views normalisation head params_trained params_stored params_head
    params_backbone adapter_bytes step_ms images_per_s data_wait_share peak_memory_mb train_seconds flops_forward
    world_size precision device versions commit command curve per_class confusion n_bad
    n_non_finite ece ece_raw temperature reused_features setting settings data_digest
    status reason updates chosen_epoch total_seconds resumed_with tried task_kind metric lower_is_better val_figure
    figures figure_words hardest correct
"""


def test_the_file_holds_every_field_of_the_row_format(make_row, tmp_path):
    write_row(tmp_path / "result.json", make_row())
    assert " ".join(json.loads((tmp_path / "result.json").read_text())) == " ".join(WRITTEN.split())


def test_what_is_no_number_or_beyond_all_measure_is_written_as_null(make_row, tmp_path):
    nothing = {"step_ms": float("inf"), "curve": [{"train_loss": float("nan")}], "per_class": {"a": float("nan")}}
    row = make_row(**nothing, metric="mae", figures={"mae": 1e200})
    write_row(tmp_path / "result.json", row)
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    back = read_row(tmp_path / "result.json")
    assert (back.step_ms, back.curve, back.per_class) == (None, [{"train_loss": None}], {"a": None})
    assert back.figures == {"mae": None}


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
    left_out = dict.fromkeys(("curve", "per_class", "confusion", "correct"), ...)
    row = read_row(edited(tmp_path / "result.json", make_row(), **left_out))
    assert (row.curve, row.per_class, row.confusion, find_correct(row)) == ([], {}, None, None)


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
        ({"step_ms": 1e16}, r"step_ms must be in 0..1e\+15, got 1e\+16"),
        ({"peak_memory_mb": -1.0}, r"peak_memory_mb must be in 0..1e\+15, got -1.0"),
        ({"metric": "device"}, r"metric must be one of the figures top1, top5, mean_per_class, got device"),
        ({"metric": "seed"}, r"metric must be one of .*, got seed"),
        ({"metric": "map", "figures": {"mae": 1.0}}, r"metric must be one of .*mean_per_class, mae, got map"),
        ({"metric": "", "figures": {"mae": 1.0}}, r"metric must be one of .*, got an empty text"),
        ({"figure_words": {"title": "x"}}, r"figures and figure_words must have names of their own, got title"),
        ({"figures": {"file": 1.0}}, r"figures and figure_words must have names of their own, got file"),
        ({"figures": {"mae": 1.7e308}}, r"figures holds the number 1.7e\+308, wanted at most 1e\+100 either way"),
        ({"figures": {"mae": -1.7e308}}, r"figures holds the number -1.7e\+308"),
        ({"protocol": "best"}, r"protocol must be one of val_select, .*best_test, got best"),
        ({"methods": []}, r"methods must list"),
        ({"correct": "oA=="}, r"correct: wanted one bit for each of 597 items, 75 bytes; got 1"),
        ({"correct": "/" * 100}, r"correct: holds ones behind the last of 597 items"),
        ({"correct": "A" * 10_000_001}, r"correct holds a text of 10,000,001 letters"),
        ({"n_test": 2**62, "correct": "oA=="}, r"correct: wanted one bit for each of"),
        ({"n_test": -1, "correct": "oA=="}, r"correct: wanted one bit for each of 0 items"),
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
        (b'{"top1": NaN}', "NaN is not a number in JSON: write null"),
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
    assert [row.label for row in rows] == ["AdaptFormer-64", "linear probe", "LoRA-8 + VPT-deep-10", "prefix-4"]
    assert [row.method for row in rows] == ["adaptformer", "linear", "lora+vpt", "prefix"]
    assert rows[2].sizes == (8, 10)


def test_an_earlier_row_of_a_diverged_trial_reads_as_one_of_today(make_row, tmp_path):
    row = read_row(edited(tmp_path / "result.json", make_row(top1=None), diverged="the loss is nan", status=...))
    assert (row.status, row.reason, row.extra) == ("diverged", "the loss is nan", {})


def test_an_earlier_row_knows_no_setting_and_is_finished(make_row, tmp_path):
    later = ("setting", "settings", "data_digest", "status", "reason", "updates", "chosen_epoch", "total_seconds")
    later += ("resumed_with", "tried")
    row = read_row(edited(tmp_path / "result.json", make_row(), **dict.fromkeys(later, ...)))
    assert row == make_row(setting=None, settings=None)
    assert (row.status, row.resumed_with, row.file) == ("finished", [], tmp_path / "result.json")
