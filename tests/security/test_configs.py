"""Configs of strangers: they choose values; nothing in them is looked up, built or run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.hostile_inputs import is_one_line
from support.tiny_run import TINY

import vision_peft as vp
from vision_peft.config.command_line import prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import parse_backbone, parse_config, parse_data
from vision_peft.runs.run_config import MAX_CONFIG, read_config

TOUCH = "subprocess.check_call"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


HOSTILE = {
    "object": "seed: !!python/object/apply:os.system ['touch {mark}']",
    "name": "seed: !!python/name:os.system",
    "new": "seed: !!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "module": "seed: !!python/module:os",
    "path": "data: {{root: !!python/object/apply:pathlib.PosixPath ['/etc']}}",
    "environment": "data: {{root: '${{oc.env:SECRET}}'}}",
    "environment in a list": "grid: {{recipe.lr: ['${{oc.env:SECRET}}']}}",
    "resolver": "data: {{root: '${{hydra:runtime.cwd}}'}}",
    "another key": "seed: 1\noutput_dir: '${{seed}}'",
    "decoded": "seed: '${{oc.decode:\"1\"}}'",
    "laughs": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "itself": "a: &a [*a]",
    "a list": "[1, 2]",
    "bytes": "seed: !!binary aGVsbG8=",
    "date": "seed: 2020-01-01",
    "no group": "data: /etc/passwd",
    "seed as text": "seed: many",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_config_of_a_run_is_plain_data(name: str, run: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    (run / "config.yaml").write_text(HOSTILE[name].format(mark=mark))
    with pytest.raises(ValueError, match=r"config\.yaml") as refused:
        read_config(run)
    assert is_one_line(refused.value)
    assert "swordfish" not in str(refused.value)
    assert not mark.exists()


def test_a_config_of_megabytes_is_refused(run: Path) -> None:
    (run / "config.yaml").write_text("#" * (MAX_CONFIG + 1))
    with pytest.raises(ValueError, match="wanted at most 1,048,576"):
        read_config(run)


@pytest.mark.parametrize("section", ["backbone", "method", "data", "recipe", "distributed"])
def test_a_target_is_an_unknown_key_everywhere(section: str, mark: Path) -> None:
    hostile = {"_target_": TOUCH, "_args_": [["touch", str(mark)]]}
    with pytest.raises(ConfigError, match=rf"unknown key {section}\._target_"):
        parse_config({section: {"name": "folder" if section == "data" else "lora", **hostile}})
    assert not mark.exists()


@pytest.mark.parametrize("key", ["root", "val_fraction", "seed"])
def test_a_target_in_a_value_is_no_value(key: str, mark: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}"):
        parse_data({"name": "folder", key: {"_target_": TOUCH, "_args_": [["touch", str(mark)]]}})
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os.system", "vision_peft.methods.lora.LoRA", "../lora", "__init__", ["lora"], None])
def test_names_of_methods_and_data_are_only_looked_up(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"method\.name must be one of"):
        parse_config({"method": {"name": name}})
    with pytest.raises(ConfigError, match=r"data\.name must be one of"):
        parse_data({"name": name})


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_timms_own_ways_to_load_weights_are_closed(key: str, tmp_path: Path) -> None:
    backbone = parse_backbone({"name": "vit_tiny_patch16_224", "pretrained": False, "kwargs": {key: str(tmp_path)}})
    with pytest.raises(ValueError, match=f"{key} would load weights past the checks"):
        vp.create_backbone(backbone.name, **backbone.kwargs)


@pytest.mark.parametrize(
    "name", ["/tmp/evil", "../x", "evil/model", "https://evil/model", "file:/tmp/evil", "hf:evil/m"]
)
def test_names_of_places_without_a_source_that_timm_knows_are_unknown(name: str) -> None:
    # hf-hub: and local-dir: are accepted; what stands in their files is bounded (tests/backbones/test_outside_names.py)
    with pytest.raises(ValueError, match="Unknown backbone"):
        vp.create_backbone(name, pretrained=True)


def experiment(folder: Path, content: dict[str, Any], name: str = "theirs") -> list[str]:
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    return [f"--config-dir={folder}", f"experiment={name}", *TINY]


def callback(mark: Path) -> dict[str, Any]:
    return {"callbacks": {"theirs": {"_target_": TOUCH, "_args_": [["touch", str(mark)]]}}}


def logging(mark: Path) -> dict[str, Any]:
    handler = {"()": TOUCH, "args": ["touch", str(mark)]}
    return {"job_logging": {"version": 1, "handlers": {"theirs": handler}, "root": {"handlers": ["theirs"]}}}


@pytest.mark.parametrize("of", [callback, logging, lambda mark: {"run": {"dir": "/tmp"}}])
def test_an_experiment_file_cannot_set_what_starts_code(of: Callable[[Path], Any], tmp_path: Path, mark: Path) -> None:
    with pytest.raises(ConfigError, match=r"a file of --config-dir sets hydra\.") as refused:
        prepare(experiment(tmp_path / "theirs", {"hydra": of(mark)}))
    assert is_one_line(refused.value)
    assert not mark.exists()


def test_nor_can_it_choose_a_file_that_does(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "theirs" / "hydra" / "callbacks"
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text(yaml.safe_dump(callback(mark)["callbacks"]))
    arguments = experiment(tmp_path / "theirs", {"defaults": [{"override /hydra/callbacks": "evil"}]})
    with pytest.raises(ConfigError, match="hydra"):
        prepare(arguments)
    assert not mark.exists()


def test_an_experiment_file_of_ones_own_still_sets_values(tmp_path: Path) -> None:
    arguments = prepare(experiment(tmp_path / "mine", {"recipe": {"epochs": 7}, "seed": 3}))
    assert "+experiment=theirs" in arguments


@pytest.mark.parametrize("flag", ["--config-path=/tmp/theirs", "--experimental-rerun=/tmp/theirs/config.pickle"])
def test_flags_that_read_a_whole_config_or_a_pickle_are_closed(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag} is not accepted"):
        prepare([flag, *TINY])
