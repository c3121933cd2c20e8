"""Configs: what a user types is checked as a whole, and the YAML files say what the dataclasses say."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import vision_peft as vp
from vision_peft.config.command_line import compose_config, prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.omegaconf_schema import omegaconf_schema
from vision_peft.config.parse import Config, parse_config, to_dict
from vision_peft.config.recommended import RECOMMENDED
from vision_peft.config.run_id import run_folder
from vision_peft.config.schema import Distributed, Recipe, Settings
from vision_peft.data import DATASETS

Tiny = Callable[..., Config]


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        prepare(list(overrides))
    return caught.value.problems


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.bottelneck=8", "unknown key method.bottelneck: did you mean method.bottleneck?"),
        ("recip.lr=1", "unknown key recip: did you mean recipe?"),
        ("recipe.epoch=1", "unknown key recipe.epoch: did you mean recipe.epochs?"),
        ("sed=1", "unknown key sed: did you mean seed?"),
        ("data.sead=1", "unknown key data.sead: did you mean data.seed?"),
        ("backbone.imgsize=1", "unknown key backbone.imgsize: did you mean backbone.img_size?"),
        ("method=adaptfomer", "did you mean adaptformer?"),
        ("+method_2=lorra", "did you mean lora?"),
        ("data=digit", "did you mean digits?"),
        ("method=LoRA", "did you mean lora?"),
        ("backbone=resnet50", "no such config; a model of timm is chosen with backbone=timm backbone.name=resnet50"),
        ("backbone=ResNet50", "backbone=timm backbone.name=resnet50"),
        ("backbone=vit_base_patch16_224.mae", "backbone=timm backbone.name=vit_base_patch16_224.mae"),
        ("backbone=hf-hub:timm/some_vit", "backbone=timm backbone.name=hf-hub:timm/some_vit"),
    ],
)
def test_a_misspelt_key_or_name_is_answered_with_the_nearest_one(override: str, expected: str) -> None:
    (problem,) = problems_of(override)
    assert expected in problem


def test_all_problems_are_reported_at_once() -> None:
    found = problems_of("method.bottelneck=8", "recipe.epochs=five", "recipe.optimizer=adam", "seed=-1", "lr=3")
    for words in ("method.bottelneck", "recipe.epochs", "seed must be at least 0", "unknown key lr"):
        assert any(words in problem for problem in found), words
    values = problems_of("recipe.schedule=linear", "recipe.optimizer=adam", "recipe.batch_size=7", "recipe.mixup=0.5")
    assert len(values) == 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["recipe.lr"], "write key=value"),
        (["seed=0,1"], "add -m"),
        (["recipe=null"], "no such config"),
        (["backbone=timm"], "backbone.name is required"),
        (["method.scale=big"], "method.scale must be one of 'learnable'"),
        (["recipe.epochs=2.5"], "recipe.epochs"),
        (["recipe.betas=[0.9]"], "betas"),
        (["workers=-1"], "workers must be auto"),
        (["protocol=last_epoch", "recipe.early_stopping=2"], "early_stopping needs a val split"),
        (["recipe.batch_size=6", "recipe.accumulate=4"], "multiple of accumulate"),
        (["recipe.augment=random_crop_flip"], "needs resize=shortest"),
        (["recipe.interpolation=nearest"], "backbone, bilinear, bicubic"),
        (["recipe.warmup_lr=-1"], "warmup_lr must be at least 0"),
    ],
)
def test_a_refused_value_is_named_with_its_key(overrides: list[str], expected: str) -> None:
    assert expected in "\n".join(problems_of(*overrides))


def test_a_sweep_with_one_bad_run_is_refused_before_the_first() -> None:
    assert problems_of("-m", "seed=0,1", "recipe.lr=1e-3,high") == [
        "recipe.lr: Value 'high' of type 'str' could not be converted to Float"
    ]


def test_methods_are_attached_in_the_order_of_their_keys() -> None:
    config = compose_config(["method=lora", "+method_2=vpt", "method_2.tokens=3", "method_3=linear"])
    assert config.methods == (vp.LoRA(), vp.VPT(tokens=3), vp.LinearProbe())


def test_a_list_field_arrives_as_the_method_wants_it() -> None:
    (method,) = compose_config(["method=lora", "method.targets=[q,k]"]).methods
    assert method == vp.LoRA(targets=("q", "k"))
    (method,) = compose_config(
        ["method=lora", "method.targets=all-linear", "method.rank_pattern={attn.proj: 4}"]
    ).methods
    assert method == vp.LoRA(targets=("all-linear",), rank_pattern={"attn.proj": 4})


@pytest.mark.parametrize("name", list(vp.METHODS))
def test_the_file_of_a_method_lists_its_fields_and_defaults(name: str, repository: Path) -> None:
    raw = yaml(repository / "configs" / "method" / f"{name}.yaml")
    assert raw.pop("name") == name
    assert raw == plain(asdict(vp.METHODS[name]()))


@pytest.mark.parametrize("name", list(DATASETS))
def test_the_file_of_a_dataset_lists_its_fields(name: str, repository: Path) -> None:
    raw = yaml(repository / "configs" / "data" / f"{name}.yaml")
    assert raw.pop("name") == name
    assert list(raw) == [item.name for item in fields(DATASETS[name])]


def test_the_default_files_say_what_the_dataclasses_say(repository: Path) -> None:
    asked = dict.fromkeys(RECOMMENDED)  # the methods are asked
    assert yaml(repository / "configs" / "recipe" / "default.yaml") == plain({**asdict(Recipe()), **asked})
    top = yaml(repository / "configs" / "config.yaml")
    expected = plain({**asdict(Settings()), "distributed": asdict(Distributed())})
    assert {key: value for key, value in top.items() if key not in ("defaults", "hydra")} == expected


def test_every_key_of_a_config_file_carries_a_comment(repository: Path) -> None:
    for path in sorted((repository / "configs").rglob("*.yaml")):
        lines = path.read_text().split("\nhydra:")[0].splitlines()
        bare = [line for line in lines if line[:1].isalpha() and "#" not in line]
        assert [line for line in bare if not line.startswith(("name:", "defaults:"))] == [], path.name


def test_the_twin_of_a_frozen_dataclass_can_be_overridden_and_holds_what_omegaconf_cannot() -> None:
    @dataclass(frozen=True)
    class Odd:
        scale: float | str = 0.1
        sites: tuple[str, ...] = ("a", "b")
        kernel: tuple[int, int, int] = (3, 1, 1)
        width: int | None = None
        root: Path | None = None
        deep: bool = True

    schema = OmegaConf.structured(omegaconf_schema(Odd))
    merged = OmegaConf.merge(schema, {"scale": "learnable", "sites": ["c"], "width": 3})
    assert OmegaConf.to_container(merged) == {
        "scale": "learnable",
        "sites": ["c"],
        "kernel": [3, 1, 1],
        "width": 3,
        "root": None,
        "deep": True,
    }
    with pytest.raises(Exception, match="Integer"):
        schema.width = "wide"


def test_the_resolved_config_reads_back_as_itself(tiny: Tiny) -> None:
    config = tiny("method=lora", "+method_2=vpt", "recipe.betas=[0.8,0.9]")
    assert parse_config(to_dict(config)) == config


def test_the_run_folder_depends_on_what_moves_a_number_and_on_nothing_else(tiny: Tiny) -> None:
    folder = run_folder(tiny())
    assert run_folder(tiny("overwrite=true", "save_every=3", "workers=2", "read_test=false", "device=auto")) == folder
    assert run_folder(tiny("grid.recipe.lr=[1,2]")) == folder
    others = [
        run_folder(tiny(change))
        for change in ("seed=1", "recipe.lr=0.5", "recipe.ema=0.9", "method.dropout=0", "precision=bf16", "data.seed=3")
    ]
    assert len({folder, *others}) == len(others) + 1
    assert run_folder(tiny("seed=1")).name == folder.name.removesuffix("-seed0") + "-seed1"
    assert run_folder(tiny(folder="other")).relative_to(folder.parents[4] / "other") == folder.relative_to(
        folder.parents[4] / "runs"
    )


def test_the_run_folder_is_readable(tiny: Tiny) -> None:
    parts = run_folder(tiny("method=lora", "method.rank=4", "recipe.lr=3e-3")).parts
    assert parts[-4].startswith("folder-photos")
    assert parts[-3:-1] == ("vit_tiny_patch16_224-32px", "lora-rank4")
    assert parts[-1].startswith("val_select-lr0.003-epochs2-batch8-")


def yaml(path: Path) -> dict[str, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        ("digits", "val_select"),
        ("moving_digits", "val_select"),
        *((name, "val_select_retrain") for name in ("vtab1k", "fgvc", "cifar100", "svhn", "food101")),
    ],
)
def test_benchmarks_retrain_on_train_and_val_unless_another_protocol_is_typed(data: str, protocol: str) -> None:
    clips = ["backbone=dinov2_small_pypi_clips"] if data == "moving_digits" else []
    overrides = [f"data={data}", *clips, *(["data.task=cub"] if data == "fgvc" else [])]
    assert compose_config(overrides).protocol == protocol
    assert compose_config([*overrides, "protocol=last_epoch"]).protocol == "last_epoch"
    assert f"/{protocol}-" in str(run_folder(compose_config(overrides)))
