"""What a run is: settings that differ from the defaults, not where the data is mounted, precision as it comes out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.config import run_id, schema
from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.run_id import comparable_fields, digest_setting, run_folder, run_id_fields, setting_fields

Tiny = Callable[..., Config]


def test_the_main_job_is_what_it_was() -> None:
    """A change of these values renames everybody's runs."""
    config = compose_config(["device=cpu"])
    assert run_id_fields(config) == {
        "protocol": "val_select",
        "precision": "fp32",
        "seed": 0,
        "backbone.name": "dinov2_small_pypi",
        "backbone.img_size": 56,
        "data.name": "digits",
        "method.name": "adaptformer",
        "recipe.lr": 0.003,
    }
    assert run_folder(config).name == "val_select-lr0.003-epochs5-batch32-4eaee811-seed0"


def test_a_new_key_with_a_default_renames_nothing(tiny: Tiny) -> None:
    before = run_id_fields(tiny("recipe.lr=0.5"))
    config = tiny("recipe.lr=0.5")
    grown = dataclasses.make_dataclass("Recipe", [("sharpness", float, 0.25)], bases=(schema.Recipe,), kw_only=True)
    object.__setattr__(config, "recipe", grown(**dataclasses.asdict(config.recipe)))
    assert run_id_fields(config) == before
    object.__setattr__(config, "recipe", grown(**{**dataclasses.asdict(config.recipe), "sharpness": 0.5}))
    assert run_id_fields(config) == {**before, "recipe.sharpness": 0.5}


def test_where_the_data_is_mounted_is_no_part_of_a_run(tmp_path: Path) -> None:
    def folder(place: str, *more: str) -> Path:
        root = f"data.root={tmp_path}/{place}/set"
        return run_folder(compose_config(["data=list", root, f"data.train={tmp_path}/{place}/set/a.txt", *more]))

    assert folder("here") == folder("there")
    assert folder("here", "data.val=v.txt") != folder("here")
    assert f"{tmp_path}" not in str(run_id_fields(compose_config(["data=folder", f"data.root={tmp_path}"])))


def test_precision_is_what_it_comes_to(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        run_folder(tiny("precision=auto")) == run_folder(tiny("precision=fp32")) != run_folder(tiny("precision=bf16"))
    )
    monkeypatch.setattr(run_id, "choose_precision", lambda name, device: "bf16" if name == "auto" else name)
    assert run_folder(tiny("precision=auto")) == run_folder(tiny("precision=bf16"))
    assert comparable_fields(tiny())["precision"] == "bf16"


def test_a_setting_is_the_run_without_its_seed_and_task_and_holds_weights_and_processes(
    tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny("seed=3", "recipe.mixup=0.8", "backbone.kwargs.depth=2")
    found = setting_fields(config)
    assert found == {key: value for key, value in run_id_fields(config).items() if key != "seed"}
    assert found["recipe.mixup"] == 0.8
    assert setting_fields(config, world_size=2) == {**found, "world_size": 2}
    tasks = [compose_config(["data=vtab1k", f"data.root={tmp_path}", f"data.task={task}"]) for task in ("dtd", "pets")]
    assert setting_fields(tasks[0]) == setting_fields(tasks[1])
    assert "data.task" in run_id_fields(tasks[0])
    splits = [compose_config(["data=hmdb51", f"data.root={tmp_path}", f"data.split={split}"]) for split in (1, 2)]
    assert setting_fields(splits[0]) == setting_fields(splits[1])


def test_every_key_of_a_config_that_makes_another_run_makes_another_setting(tiny: Tiny) -> None:
    changes = ["recipe.augment=flip", "recipe.optimizer=sgd", "recipe.schedule=constant", "recipe.label_smoothing=0.1"]
    changes += ["recipe.cutmix=1", "recipe.ema=0.9", "precision=bf16", "backbone_dtype=bf16", "tf32=false"]
    changes += ["compile=true", "backbone.kwargs.depth=3", "data.val_fraction=0.2", "method.scale=0.5", "seed=1"]
    digests = [digest_setting(setting_fields(tiny(*words.split()))) for words in ["", *changes]]
    assert digests[-1] == digests[0]
    assert len(set(digests)) == len(changes)


def test_weights_are_told_by_their_content_and_not_by_the_name_of_the_file(tiny: Tiny) -> None:
    def digest(file: str, weights: str) -> str:
        found = setting_fields(tiny(f"backbone.checkpoint={file}"), weights)
        assert (found["backbone.checkpoint"], found["backbone.sha256"]) == (file.rpartition("/")[2], weights)
        return digest_setting(found)

    assert digest("/a/vit.pth", "1" * 64) == digest("/b/renamed.pth", "1" * 64) != digest("/a/vit.pth", "2" * 64)
