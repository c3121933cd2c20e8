"""Experiment configs: each is one published setting that composes, says its source and runs as its header says."""

import functools
import re
import shlex
from pathlib import Path

import pytest
from support.mask_layouts import LAYOUTS
from support.tiny_run import TINY
from support.tiny_vtab import write_vtab

import vision_peft as vp
from vision_peft.backbones.names import check_has_weights, is_pypi_name
from vision_peft.config.command_line import compose_config, prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config, parse_config, to_dict
from vision_peft.search.trials import expand_grid
from vision_peft.training.trained import train

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ROOT = ["data.root=photos"]
WITH_CHECKPOINT = ("adaptformer_hmdb51", "adaptformer_ssv2", "videomae_ssv2")  # the backbone has no weights of its own


def given(name: str) -> list[str]:
    """What must be typed for an experiment to be whole."""
    return [f"experiment={name}", *ROOT, *(["backbone.checkpoint=weights.pth"] if name in WITH_CHECKPOINT else [])]


@functools.cache
def whole(name: str) -> Config:
    """The config of an experiment, which nobody may change."""
    return compose_config(given(name))


def header(name: str) -> list[str]:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[: lines.index("defaults:")]


def commands(name: str) -> list[list[str]]:
    lines = [line.removeprefix("#   ") for line in header(name) if line.startswith("#   vision-peft ")]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_whole_valid_config(name: str) -> None:
    config = whole(name)
    assert parse_config(to_dict(config)) == config
    assert config.protocol == "val_select_retrain"
    assert is_pypi_name(config.backbone.name) or check_has_weights(config.backbone.name) is None
    if config.grid:
        own = {"recipe": config.recipe, "method": config.methods[0]}
        for key, values in config.grid.items():
            section, field = key.split(".")
            assert len(set(values)) == len(values)
            assert min(values) <= getattr(own[section], field) <= max(values)  # one run without a search is in reach
        sizes = [len(values) for values in config.grid.values()]
        (told,) = re.findall(r"^grid:  # vision-peft tune trains all (\d+) on train", text(name), flags=re.MULTILINE)
        assert len(expand_grid(config)) == int(told) == (sizes[0] if len(sizes) == 1 else _product(sizes))


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_command_figure_source_hardware_and_protocol(name: str) -> None:
    lines = header(name)
    assert lines[0] == "# @package _global_"
    assert lines[1].endswith(".")
    assert lines[2].startswith("#   vision-peft t")
    for words in ("# Source: ", "# Hardware: ", "# Protocol: "):
        assert sum(line.startswith(words) for line in lines) == 1, words
    assert sum(line.startswith(("# Published: ", "# Measured: ")) for line in lines) == 1
    assert all(line.startswith("#") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_the_header_can_be_typed(name: str, tmp_path: Path) -> None:
    trained = [words for words in commands(name) if words[1] == "train"]
    assert trained
    for words in commands(name):
        typed = [word.replace("DATA", str(tmp_path)) for word in words[2:]]
        assert f"experiment={name}" in typed
        if words[1] == "tune":
            flags = {"--final", "--seeds"}
            assert flags >= {word for word in typed if word.startswith("-")}
            assert expand_grid(compose_config([word for word in typed if "=" in word]))
        else:
            assert prepare(typed)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_trains_on_a_tiny_backbone(name: str, tmp_path: Path) -> None:
    backbone, masks = whole(name).backbone, LAYOUTS.get(whole(name).data.name)
    if masks is not None:
        data = [f"data.root={masks(tmp_path / 'masks')}"]
    elif backbone.num_frames is None:
        data = ["data=vtab1k", f"data.root={write_vtab(tmp_path / 'vtab', ['pebbles'])}", "data.task=pebbles"]
    else:
        few = ["data.train_clips=16", "data.val_clips=8", "data.test_clips=8", "data.size=32"]
        data = ["data=moving_digits", *few, f"data.cache={tmp_path / 'cache'}"]
        data += [
            f"backbone.num_frames={backbone.num_frames}",
            f"backbone.tubelet_size={backbone.tubelet_size or 'null'}",
        ]
    tiny = [*TINY, "backbone.kwargs.num_heads=2", f"output_dir={tmp_path / 'runs'}", "dry_run=true"]
    train(compose_config([f"experiment={name}", *tiny, *data]))
    assert not (tmp_path / "runs").exists()


def test_what_is_typed_goes_before_what_the_experiment_says() -> None:
    for overrides in (["experiment=noah_vtab", "recipe.lr=5"], ["recipe.lr=5", "experiment=noah_vtab"]):
        config = compose_config([*overrides, "method.rank=2", "data=folder", *ROOT])
        assert (config.recipe.lr, config.recipe.warmup_lr, config.data.name) == (5, 1e-6, "folder")
        assert config.methods == (vp.LoRA(rank=2, targets=("qkv",)),)


def test_another_method_under_the_same_recipe_takes_nothing_from_the_experiments_own() -> None:
    config = compose_config(["experiment=noah_vtab", "method=vpt", *ROOT])
    assert config.methods == (vp.VPT(),)
    assert config.recipe == whole("noah_vtab").recipe
    config = compose_config(["experiment=vpetl_vtab", "method=convpass", "method.bottleneck=4", *ROOT])
    assert config.methods == (vp.Convpass(bottleneck=4),)


def test_a_misspelt_experiment_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"experiment=vpt_vtap: no such config \(did you mean vpt_vtab"):
        prepare(["experiment=vpt_vtap"])


def test_rates_are_those_of_the_papers_at_their_batch() -> None:
    for name in ("adaptformer_image", "adaptformer_ssv2", "adaptformer_hmdb51"):
        adaptformer = whole(name).recipe
        assert adaptformer.lr == 0.1 * adaptformer.batch_size / 256 == 0.4
    videomae = whole("videomae_ssv2").recipe
    assert videomae.lr == 5e-4 * (videomae.batch_size / videomae.repeated_augmentation) / 256
    published = (50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05)
    for name in ("vpt_vtab", "vpt_fgvc"):
        config = whole(name)
        assert config.grid["recipe.lr"] == [rate * config.recipe.batch_size / 256 for rate in published]
        assert config.grid["recipe.weight_decay"] == [0.01, 0.001, 1e-4, 0]


def test_sizes_are_those_of_the_papers() -> None:
    recipe = whole("vpt_fgvc").recipe
    assert [int(size / recipe.crop_pct) for size in (224, 448)] == [256, 512]
    assert int(384 / 0.8767) == 438


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def text(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_experiments_on_something_something_never_flip() -> None:
    for name in NAMES:
        config = whole(name)
        assert config.data.name != "ssv2" or "flip" not in config.recipe.augment
