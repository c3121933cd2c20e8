"""vp.load: a run folder, an adapter folder or a repository of the hub is all that it takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from support.adapters import change_info
from support.families import images, randomise_tuned
from support.tiny_fixtures import photos, tiny
from support.tiny_states import NAME, TINY, random_state

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training.trained import train

__all__ = ["photos", "tiny"]
SMALL: dict[str, Any] = {**TINY, "patch_size": 8}
INPUT = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def tuned(**arguments: Any) -> Any:
    """A tuned model of three classes on random weights of a seed."""
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, **{"img_size": 32, **SMALL, **arguments})
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "batchnorm_linear", 3)
    randomise_tuned(model)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    return vp.save_adapter(model, folder, class_names=["a", "b", "c"], input_config=INPUT)


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Puts the files of a folder into the cache of a hub that cannot be reached, as repository OWNER/NAME."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(repository: str, folder: Path) -> None:
        place = cache / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))

    return put


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_classes": 5},
        {"img_size": (48, 32), "global_pool": "avg", "fc_norm": False},
        {"num_frames": 4},
        {"num_frames": 4, "mean_first": True},
        {"num_frames": 4, "tubelet_size": 2},
        {"num_frames": 4, "tubelet_size": 2, "inflate": "centre"},
    ],
    ids=str,
)
def test_an_adapter_folder_is_all_it_takes(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = tuned(**arguments)
    folder = save(model, tmp_path)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    loaded = vp.load(folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), state), "the user's random numbers stay as they are"
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images(model)), model(images(model)))
    info = loaded.adapter_info
    assert (info.class_names, info.input["size"]) == (["a", "b", "c"], [32, 32])
    assert info.counts == vp.count_parameters(loaded)._asdict()
    assert info.backbone_name.startswith(NAME)
    assert next(loaded.parameters()).device.type == "cpu"


def test_a_run_folder_is_all_it_takes(tiny: Callable[..., Config]) -> None:
    config = tiny()
    train(config)
    folder = run_folder(config)
    loaded = vp.load(str(folder), device="cpu")
    assert loaded.adapter_info.class_names == ["blue", "green", "red"]
    assert loaded(torch.zeros(2, 3, *loaded.adapter_info.input["size"])).shape == (2, 3)
    again = vp.load(folder / "adapter", device="cpu")
    assert torch.equal(again(images(again)), loaded(images(again)))


def test_a_run_whose_data_has_other_classes_is_refused(tiny: Callable[..., Config]) -> None:
    trained = train(tiny("recipe.epochs=1"))
    data = trained.folder / "data.json"
    data.write_text(data.read_text().replace('["blue", "green", "red"]', '["blue", "red"]'))
    with pytest.raises(
        ValueError, match=r"has the classes 3 \(blue, green, red\), .*data\.json 2 \(blue, red\): one of"
    ):
        vp.load(trained.folder, device="cpu")
    data.unlink()
    assert vp.load(trained.folder, device="cpu").adapter_info.class_names == ["blue", "green", "red"]


def test_pretrained_weights_and_their_licence_come_by_name(offline_hub: Any, tmp_path: Path) -> None:
    name = f"{NAME}.augreg_in21k"
    (tmp_path / "weights").mkdir()
    save_file(random_state(name, **TINY), tmp_path / "weights" / "model.safetensors")
    offline_hub(f"timm/{name}", tmp_path / "weights")
    model = vp.create_backbone(name, pretrained=True, img_size=32, **TINY)
    randomise_tuned(vp.replace_head(vp.attach(model, vp.VPT(tokens=2)), "linear", 3))
    folder = vp.save_adapter(model, tmp_path / "adapter")
    written = json.loads((folder / "adapter.json").read_text())["backbone"]
    assert written["arguments"] == {"pretrained": True, **TINY}
    # L11: the recorded name is one string that works
    again: Any = vp.create_backbone(written["name"], pretrained=True, img_size=32, **TINY)
    assert again.pretrained_cfg["tag"] == "augreg_in21k"
    loaded = vp.load(folder)
    assert torch.equal(loaded.cpu()(images(model)), model.eval()(images(model)))
    assert loaded.adapter_info.license == "apache-2.0"


def test_a_repository_of_the_hub_is_all_it_takes(offline_hub: Any, tmp_path: Path) -> None:
    model = tuned()
    offline_hub("lab/flowers", save(model, tmp_path / "adapter"))
    for name in ("hf-hub:lab/flowers", f"hf-hub:lab/flowers@{'0' * 40}"):
        loaded = vp.load(name, device="cpu")
        assert torch.equal(loaded(images(model)), model(images(model)))
    with pytest.raises(ConnectionError, match=r"Cannot fetch adapter\.json of hf-hub:lab/other.* path of its folder"):
        vp.load("hf-hub:lab/other")


def test_weights_of_a_file_are_asked_for_and_its_recorded_path_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(random_state(img_size=32, num_classes=0, **SMALL), file)
    model = vp.create_backbone(NAME, checkpoint=file, img_size=32, **SMALL)
    randomise_tuned(vp.attach(model, vp.LoRA(rank=2)))
    folder = vp.save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"came from the file '.*weights\.safetensors': give it as checkpoint="):
        vp.load(folder)
    loaded = vp.load(folder, device="cpu", checkpoint=file)
    assert torch.equal(loaded(images(model)), model.eval()(images(model)))
    other = tmp_path / "other.safetensors"
    save_file(random_state(img_size=32, num_classes=0, seed=5, **SMALL), other)
    with pytest.raises(ValueError, match="was trained on other frozen weights"):
        vp.load(folder, checkpoint=other)


def test_the_largest_seed_of_torch_is_recorded_and_read(tmp_path: Path) -> None:
    # An unseeded process of torch draws its seed from all 64 bits.
    torch.manual_seed(2**64 - 1)
    model = vp.attach(vp.create_backbone(NAME, **{"img_size": 32, **SMALL}), vp.LoRA(rank=2)).eval()
    vp.replace_head(model, "linear", 3)
    save(model, tmp_path / "adapter")
    loaded = vp.load(tmp_path / "adapter", device="cpu")
    x = images(model)
    assert torch.equal(loaded(x), model(x))


def test_random_weights_of_no_known_seed_are_said_to_be_lost(tmp_path: Path) -> None:
    torch.manual_seed(7)
    torch.rand(1)
    model = vp.create_backbone(NAME, img_size=32, num_classes=3, **SMALL)
    randomise_tuned(vp.attach(model, vp.LoRA(rank=2)))
    folder = vp.save_adapter(model, tmp_path)
    with pytest.raises(
        ValueError,
        match=r"its weights were random, .* torch\.manual_seed\(N\) has to come right before create_backbone\. "
        r"With the model at hand call vp\.load_adapter\(model, FOLDER\), else give checkpoint=FILE or backbone=",
    ):
        vp.load(folder)
    logits = model.eval()(images(model))
    assert torch.equal(vp.load_adapter(vp.detach(model), folder)(images(model)), logits)


def forget_arguments(info: dict[str, Any]) -> None:
    """As an older vision_peft wrote it: name and tag apart, no arguments, no licence."""
    name, _, tag = info["backbone"]["name"].partition(".")
    info["backbone"] = {"name": name, "tag": tag, "architecture": info["backbone"]["architecture"]}


def test_an_older_adapter_loads_with_what_can_be_inferred(offline_hub: Any, tmp_path: Path) -> None:
    name = f"{NAME}.augreg_in21k"
    (tmp_path / "weights").mkdir()
    save_file(random_state(name, **TINY), tmp_path / "weights" / "model.safetensors")
    offline_hub(f"timm/{name}", tmp_path / "weights")
    model = vp.create_backbone(name, pretrained=True, img_size=32, num_frames=4, **TINY)
    randomise_tuned(vp.attach(model, vp.LoRA(rank=2)))
    folder = vp.save_adapter(model, tmp_path / "adapter")
    change_info(folder, forget_arguments)
    loaded = vp.load(folder, device="cpu", **TINY)
    assert torch.equal(loaded(images(model)), model.eval()(images(model)))
    with (
        pytest.warns(UserWarning, match="does not record all arguments"),
        pytest.raises(ValueError, match="does not fit"),
    ):
        vp.load(folder)  # a whole ViT-Ti, not the tiny one


def test_an_older_adapter_that_does_not_tell_its_weights_says_what_to_give(tmp_path: Path) -> None:
    folder = save(tuned(), tmp_path)
    change_info(folder, forget_arguments)
    change_info(folder, lambda info: info["backbone"].update(tag=""))
    with pytest.raises(
        ValueError, match=r"its weights are not recorded\. With the model at hand .* give checkpoint=FILE"
    ):
        vp.load(folder, **SMALL)


def test_an_older_run_has_its_arguments_in_its_config(tiny: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    config = tiny()
    arguments = {"img_size": config.backbone.img_size, **config.backbone.kwargs}
    save_file(random_state(config.backbone.name, num_classes=0, **arguments), file)
    config = tiny("backbone.pretrained=false", f"backbone.checkpoint={file}")
    train(config)
    folder = run_folder(config)
    expected = vp.load(folder, device="cpu", checkpoint=file)
    change_info(folder / "adapter", forget_arguments)
    loaded = vp.load(folder, device="cpu", checkpoint=file)
    assert torch.equal(loaded(images(loaded)), expected(images(loaded)))


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder: wanted a run folder, an adapter folder"):
        vp.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds neither an adapter .* nor a run"):
        vp.load(tmp_path)
    for number in range(5):
        (tmp_path / "runs" / f"run{number}").mkdir(parents=True)
        (tmp_path / "runs" / f"run{number}" / "config.yaml").write_text("seed: 0")
    with pytest.raises(FileNotFoundError, match=r"below it are the runs .*run0, .*run1, .*run2 and 2 more: name one"):
        vp.load(tmp_path / "runs")
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(FileNotFoundError, match="has no adapter yet"):
        vp.load(tmp_path)
    with pytest.raises(ValueError, match="device=warp is not a device"):
        vp.load(save(tuned(), tmp_path / "adapter"), device="warp")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"depth": 10**9}, "the argument depth is 1000000000: wanted a number up to 512"),
        ({"embed_dim": 2**15, "depth": 500}, "parameters, wanted at most 10,000,000,000"),
        ({"embed_dim": 10**400}, "has 401 digits, wanted less than"),
        ({"seed": -1}, r"backbone\.arguments\.seed is -1"),
        ({"pretrained": "yes"}, r"backbone\.arguments\.pretrained is yes, wanted true or false"),
        ({"num_frames": 10**9}, r"backbone\.arguments\.num_frames is 1000000000, wanted 1 to 4096 frames"),
        ({"norm_layer": {"a": {"b": {"c": {"d": 1}}}}}, "wanted a plain value"),
        (
            {"checkpoint_path": "/etc/passwd"},
            "checkpoint_path is /etc/passwd: not one that a file may give",
        ),
        ({"no_such_argument": 1}, "no_such_argument"),
        ({"unrecorded": ["norm_layer"]}, r"give norm_layer=\.\.\., which adapter\.json cannot hold"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_hostile_description_is_refused_before_anything_is_built(change: Any, reason: str, tmp_path: Path) -> None:
    folder = save(tuned(), tmp_path)
    change_info(folder, lambda info: info["backbone"]["arguments"].update(change))
    with pytest.raises(ValueError, match=reason):
        vp.load(folder)


def test_a_hostile_image_size_or_name_is_refused(tmp_path: Path) -> None:
    folder = save(tuned(), tmp_path)
    for entry, value, reason in (
        ("architecture", {"img_size": [10**6, 10**6]}, r"img_size is \[1000000, 1000000\]"),
        ("name", "local-dir:/etc", r"give it as backbone='local-dir:FOLDER'"),
        ("name", "__import__('os')", "Unknown backbone"),
        ("arguments", [], r"backbone\.arguments is \[\], wanted an object or null"),
    ):
        before = (folder / "adapter.json").read_text()
        change_info(folder, lambda info, entry=entry, value=value: info["backbone"].update({entry: value}))
        with pytest.raises(ValueError, match=reason):
            vp.load(folder)
        (folder / "adapter.json").write_text(before)


def test_arguments_that_json_cannot_hold_are_named_in_the_adapter(tmp_path: Path) -> None:
    folder = save(tuned(norm_layer=torch.nn.LayerNorm), tmp_path)
    assert json.loads((folder / "adapter.json").read_text())["backbone"]["arguments"]["unrecorded"] == ["norm_layer"]
    model = tuned(norm_layer=torch.nn.LayerNorm)
    loaded = vp.load(folder, device="cpu", norm_layer=torch.nn.LayerNorm)
    assert torch.equal(loaded(images(model)), model(images(model)))


@pytest.mark.parametrize("value", [3, "vit", [1]])
def test_an_architecture_that_is_no_object_is_refused(value: Any, tmp_path: Path) -> None:
    folder = save(tuned(), tmp_path)
    change_info(folder, lambda info: info["backbone"].update(architecture=value))
    with pytest.raises(ValueError, match=r"backbone\.architecture is .*, wanted an object"):
        vp.load(folder)
