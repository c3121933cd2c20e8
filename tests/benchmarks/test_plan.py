"""Which settings a cost table holds."""

import pytest

from vision_peft.benchmarks import plan
from vision_peft.benchmarks.plan import PRESETS, choose_methods, choose_peers, plan_methods, plan_preset, split_values
from vision_peft.config.command_line import read_command_line


def test_values_are_split_outside_of_brackets_and_quotes() -> None:
    assert split_values("8,64") == ["8", "64"]
    assert split_values("[8,64]") == ["[8,64]"]
    assert split_values("{a: 1, b: [2,3]},'x,y'") == ["{a: 1, b: [2,3]}", "'x,y'"]
    assert split_values("") == [""]


def test_each_combination_of_listed_values_is_a_group() -> None:
    groups = plan_methods(["lora", "vpt"], ["hf_lora"], ["recipe.batch_size=8,64", "compile=false,true", "seed=1"], {})
    words = [set(group.shared) for group in groups]
    assert [{"recipe.batch_size=8", "recipe.batch_size=64"} & each for each in words] == [
        {"recipe.batch_size=8"},
        {"recipe.batch_size=8"},
        {"recipe.batch_size=64"},
        {"recipe.batch_size=64"},
    ]
    assert ["compile=true" in each for each in words] == [False, True, False, True]
    assert all("seed=1" in each and "backbone.pretrained=false" in each for each in words)
    assert groups[0].settings == {"lora": ("method=lora",), "vpt": ("method=vpt",)}
    assert groups[0].count() == 5  # with the peer and two references


def test_a_backbone_that_is_typed_is_taken_with_random_weights() -> None:
    (group,) = plan_methods(["lora"], [], ["backbone=vit_base_patch16_224_mae"], {})
    assert group.shared == ("backbone.pretrained=false", "backbone=vit_base_patch16_224_mae")
    (group,) = plan_methods(["lora"], [], ["backbone=timm", "backbone.name=x", "backbone.pretrained=true"], {})
    assert "backbone.pretrained=false" not in group.shared


def test_further_settings_go_on_top_of_what_is_shared() -> None:
    (group,) = plan_methods(["lora"], [], ["recipe.batch_size=8"], {"small": ["method=vpt", "recipe.batch_size=2"]})
    words = group.words_of("small")
    assert [word for word in words if word.startswith("recipe.")] == ["recipe.batch_size=2"]
    assert "method=vpt" in words


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_of_a_preset_composes(preset: str) -> None:
    seen = {tuple(group.words_of(name)[-3:]) for group in plan_preset(preset, [], {}) for name in group.settings}
    for words in seen:
        read_command_line(["backbone=timm", "backbone.name=vit_tiny_patch16_224", *words])


def test_overrides_replace_what_a_preset_says() -> None:
    groups = plan_preset("gpu", ["backbone.name=vit_tiny_patch16_224", "recipe.batch_size=2", "compile=false"], {})
    assert {word for group in groups for word in group.shared if "name" in word} == {
        "backbone.name=vit_tiny_patch16_224"
    }
    assert len(groups) == 3  # those that differed in what is replaced are one


def test_names_are_checked() -> None:
    assert choose_methods("[lora,vpt]", ["lora", "vpt", "ssf"]) == ["lora", "vpt"]
    assert choose_methods("all", ["lora", "vpt"]) == ["lora", "vpt"]
    with pytest.raises(ValueError, match=r"methods=lroa is not one of lora, vpt, all \(did you mean lora\?\)"):
        choose_methods("vpt,lroa", ["lora", "vpt"])
    with pytest.raises(ValueError, match="peers=hf is not one of hf_lora"):
        choose_peers("hf")
    assert choose_peers("none") == []


def test_a_peer_that_is_not_installed_is_refused_by_name_and_left_out_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install peft"):
        choose_peers("hf_lora")
    assert choose_peers("all") == ["vpt_inserted", "adaptformer_written_out"]
    (group,) = plan_preset("cpu", [], {})
    assert group.peers == ("vpt_inserted", "adaptformer_written_out")
