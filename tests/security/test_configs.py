"""Configs of strangers: they choose values; nothing in them is looked up, built or run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.adapters import change_info, tuned_model
from support.hostile_inputs import is_one_line
from support.peak_memory import measure_memory
from support.tiny_run import TINY, tiny_config

import vision_peft as vp
from vision_peft.config.command_line import prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import parse_backbone, parse_config, parse_data, to_dict
from vision_peft.runs.run_config import read_config
from vision_peft.strict_yaml import MAX_BYTES
from vision_peft.training.evaluate_saved import evaluate_saved

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
    "no group": "data: /etc/passwd",
    "a megabyte of brackets": "a: " + "[" * 2**19,
    "lists in lists": "a: " + "[" * 21 + "]" * 21,
    "a number beyond numbers": "seed: 1" + "0" * 400,
    "a number that is none": "seed: .nan",
    "keys without end": "a: 1\n" * 150_000,
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


WRONG = {
    "seed": "many",
    "precision": "fp7",
    "device": 3.5,
    "tf32": "perhaps",
    "workers": [1],
    "bad_eval": {"a": 1},
    "distributed": {"timeout_s": [1]},
    "backbone": {"name": [1], "num_frames": "x"},
    "recipe": {"lr": "fast"},
    "method": {"name": "lora", "rank": "high"},
    "data": {"name": "folder", "val_fraction": "half"},
    "unknown": 1,
}


@pytest.mark.parametrize("key", WRONG)
def test_the_whole_config_of_a_run_is_checked_before_any_of_it_is_used(key: str, tmp_path: Path, photos: Path) -> None:
    adapter = {"class_names": ["a", "b", "c", "d", "e"]}
    vp.save_adapter(tuned_model(), tmp_path / "adapter", **adapter)  # pyright: ignore[reportArgumentType]
    raw = to_dict(tiny_config(photos, tmp_path))
    wrong = {**raw[key], **WRONG[key]} if isinstance(raw.get(key), dict) else WRONG[key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**raw, key: wrong}))
    with pytest.raises(ValueError, match=key) as refused:
        evaluate_saved(tmp_path)
    assert is_one_line(refused.value), str(refused.value)


def test_what_is_typed_beside_a_run_is_checked_too(tmp_path: Path, photos: Path) -> None:
    vp.save_adapter(tuned_model(), tmp_path / "adapter", class_names=["a", "b", "c", "d", "e"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(tiny_config(photos, tmp_path))))
    for typed in ("precision=fp7", "workers=many", "bad_eval=x", "views=0", "crops=many", "device=gpu"):
        with pytest.raises(ValueError, match=typed.partition("=")[0]):
            evaluate_saved(tmp_path, [typed])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"depth": 10**9}, "the argument depth of .* is 1000000000: wanted a number up to 512"),
        ({"depth": 3000, "embed_dim": 3000}, "wanted a number up to 512"),
        ({"depth": 512, "embed_dim": 6144, "num_heads": 2}, "parameters, wanted at most 10,000,000,000"),
        ({"embed_dim": 10**6}, "wanted a number up to 65,536"),
        ({"img_size": 10**7}, "wanted a number up to 65,536"),
        ({"depth": "deep"}, "timm cannot build"),
        ({"mlp_ratio": float("inf")}, "wanted a number up to"),
        ({"num_frames": 10**9, "tubelet_size": 1}, "num_frames must be at most 4096"),
    ],
)
def test_a_backbone_beyond_all_measure_takes_no_memory(arguments: dict[str, Any], reason: str) -> None:
    with measure_memory() as taken:
        with pytest.raises(ValueError, match=reason):
            vp.create_backbone("vit_tiny_patch16_224", **arguments)
        assert taken() < 300


def test_an_adapter_that_says_its_backbone_is_smaller_than_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24)
    vp.attach(model, vp.LoRA(rank=2))
    folder = vp.save_adapter(model, tmp_path)
    assert vp.load(folder, "cpu").embed_dim == 24
    change_info(folder, lambda info: info["backbone"]["arguments"].update(embed_dim=3072))
    with pytest.raises(ValueError, match=r"parameters, the adapter records \d"):
        vp.load(folder, "cpu")


def test_files_of_an_own_folder_of_configs_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("[" * 10**6)
    with pytest.raises(ConfigError, match=r"invalid YAML: .*mine\.yaml: .*nest") as refused:
        prepare([f"--config-dir={tmp_path}", *TINY])
    assert is_one_line(refused.value)


def test_a_config_of_megabytes_is_refused(run: Path) -> None:
    (run / "config.yaml").write_text("#" * (MAX_BYTES + 1))
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
