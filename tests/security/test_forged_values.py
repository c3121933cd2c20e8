"""Files whose every value is another one in turn: read, shown and used, or refused in clean words; no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.adapters import tuned_model
from support.families import tiny
from support.hostile_text import HOSTILE, is_clean, list_leaves, message_of, with_leaf
from support.rows import sample_row
from support.tiny_run import tiny_config

import vision_peft as vp
from vision_peft.config.parse import parse_config, to_dict
from vision_peft.config.run_id import comparable_fields, run_folder
from vision_peft.results.plots.plot import plot_accuracy
from vision_peft.results.report import make_report
from vision_peft.results.row import read_row
from vision_peft.results.table import format_rows
from vision_peft.runs.run_config import read_config
from vision_peft.runs.saved_data import read_saved_data

pytestmark = pytest.mark.slow

VALUES: list[Any] = [None, True, -1, 0, 2**62, 2**70, 1.5, -0.5, 1e300, "", "x", HOSTILE, "9" * 5000]
VALUES += [[], [1], ["x"], [[]], [None] * 3, {}, {"x": 1}, {HOSTILE: {"name": None}}]


def forge_all(value: Any, use: Callable[[Any], Any], fewer: int = 1) -> tuple[int, int]:
    """Use a value with another leaf, or inner container, at every place in turn; how many were used, and refused."""
    leaves = list(list_leaves(value))
    places = list(dict.fromkeys(leaf[:length] for leaf in leaves for length in range(1, len(leaf) + 1)))
    used = refused = 0
    for number, place in enumerate(places):
        for other in VALUES[number % fewer :: fewer]:
            changed = with_leaf(value, place, other)
            message = message_of(lambda changed=changed: use(changed))
            used, refused = used + (message is None), refused + (message is not None)
            assert is_clean(message or ""), (place, other, message)
    return used, refused


def test_rows_of_any_values_are_shown_or_refused(tmp_path: Path) -> None:
    full = {
        "methods": [{"name": "lora", "fields": {"rank": 8, "targets": ["q"], "init": "x"}}],
        "settings": {"recipe.augment": "flip", "recipe.mixup": 0.5, "data.kind": ["x"]},
        "tried": {"recipe.lr": [0.1, 0.2]},
        "versions": {"torch": "2"},
        "resumed_with": [{"update": 3, "device": "x", "versions": {"torch": "3"}}],
        "curve": [{"epoch": 1, "val_top1": 50.0}],
        "per_class": {"a": 50.0, "b": None},
        "confusion": [[1, 2], [3, 4]],
    }
    row = sample_row(
        **full, command="vision-peft train method=lora", status="finished", params_trained=10, mean_per_class=50.0
    )
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "result.json").write_text(json.dumps(row | {"seed": 2}))
    plain = read_row(tmp_path / "plain" / "result.json")

    def use(changed: Any) -> None:
        (tmp_path / "result.json").write_text(json.dumps(changed))
        rows = [plain, read_row(tmp_path / "result.json")]
        assert is_clean(format_rows(rows))
        assert is_clean(make_report(rows).markdown())
        assert is_clean(make_report(rows, "mean_per_class").csv_text().replace("\r\n", "\n"))

    used, refused = forge_all(row, use)
    assert used > 100
    assert refused > 500


def test_rows_of_any_numbers_are_drawn_or_refused(tmp_path: Path) -> None:
    row = sample_row(status="finished", params_trained=10, params_stored=10, mean_per_class=50.0)
    names = ["params_trained", "top1", "mean_per_class", "img_size", "num_frames", "task", "dataset", "methods", "seed"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "result.json").write_text(json.dumps(row | {"seed": 2}))
    plain = read_row(tmp_path / "plain" / "result.json")
    for name in names:
        for value in (0, 1, 2**62, 1e300, 1e-300, [2**62, 1], HOSTILE, 99.999, 10**15):
            (tmp_path / "result.json").write_text(json.dumps(row | {name: value}))

            def draw() -> None:
                plot_accuracy([plain, read_row(tmp_path / "result.json")], tmp_path / "picture", kinds=["svg"])

            assert is_clean(message_of(draw) or ""), (name, value)


def test_configs_of_any_values_are_understood_or_refused(tmp_path: Path, photos: Path) -> None:
    raw = to_dict(tiny_config(photos, tmp_path, "grid.recipe.lr=[1,2]"))

    def use(changed: Any) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
        config = parse_config(read_config(tmp_path))
        run_folder(config)
        comparable_fields(config)

    used, refused = forge_all(raw, use, fewer=3)
    assert used > 50
    assert refused > 300


def test_adapters_of_any_values_are_loaded_or_refused(tmp_path: Path) -> None:
    inputs = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "views": 1}
    names = ["a", "b", "c", "d", "e"]
    folder = vp.save_adapter(tuned_model(), tmp_path / "adapter", class_names=names, input_config=inputs)
    values = json.loads((folder / "adapter.json").read_text())
    model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=16, num_heads=2)
    vp.attach(model, vp.LoRA(rank=2))
    built = vp.save_adapter(model, tmp_path / "built")

    def use(changed: Any) -> None:
        (folder / "adapter.json").write_text(json.dumps(changed))
        vp.load_adapter(tiny("vit"), folder)

    used, refused = forge_all(values, use, fewer=2)
    assert used > 20
    assert refused > 200

    def build(changed: Any) -> None:
        (built / "adapter.json").write_text(json.dumps(changed))
        vp.load(built, "cpu")

    kept = json.loads((built / "adapter.json").read_text())
    used, refused = forge_all(kept["backbone"], lambda changed: build({**kept, "backbone": changed}), fewer=2)
    assert refused > 50


def test_data_records_of_any_values_are_read_or_refused(tmp_path: Path) -> None:
    head = {"version": 1, "digest": "x", "classes": ["a"], "splits": {"train": {"items": 1, "digest": "x", "of": []}}}
    item = ["a/1.jpg", 0, 123]

    def use(changed: Any) -> None:
        head, item = changed
        lines = [json.dumps(head)[:-1] + ",", '"train": [', json.dumps(item), "]", "}"]
        (tmp_path / "data.json").write_text("\n".join(lines) + "\n")
        saved = read_saved_data(tmp_path / "data.json")
        assert saved is not None
        for split in saved.splits:
            list(saved.items(split))

    used, refused = forge_all([head, item], use)
    assert used > 20
    assert refused > 150


def test_there_is_nothing_left_of_a_run_to_forge(tmp_path: Path, photos: Path) -> None:
    """What a run leaves that is read again is forged above, and in test_states.py."""
    from vision_peft.training.trained import train

    done = train(tiny_config(photos, tmp_path, "recipe.epochs=1", "trackers=[]"))
    left = {path.name for path in done.folder.rglob("*") if path.is_file()}
    shown = {"log.txt", "metrics.jsonl", "confusion.csv", ".lock", "sha256", "latest"}
    assert left - shown == {
        *("config.yaml", "data.json", "result.json", "adapter.json", "adapter.safetensors", "state.pt")
    }
    shutil.rmtree(done.folder)
