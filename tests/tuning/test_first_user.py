"""What a first user does beside the documented path: half precision, wrapped models, odd values, hostile files."""

import json
from typing import Any

import pytest
import timm
import torch
from support.families import images, tiny
from torch import nn

import vision_peft as vp

METHODS = [
    vp.AdaptFormer(bottleneck=4),
    vp.AdaptFormer(bottleneck=4, form="sequential"),
    vp.LoRA(rank=2),
    vp.VPT(tokens=2),
    vp.VPT(tokens=2, deep=False),
    vp.VPT(tokens=2, project=4),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_method_attached_to_a_converted_model_runs(method, dtype):
    model = vp.attach(tiny("vit").to(dtype), method)
    assert model(images(model).to(dtype)).dtype == dtype


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_added_parameters_are_on_the_device_of_the_backbone(method):
    model = tiny("vit").to("meta")
    vp.attach(model, method)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_parameter_unfrozen_by_hand_is_not_dropped_in_silence(tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    model.norm.requires_grad_(True)
    with pytest.raises(ValueError, match=r"norm\.weight"):
        vp.save_adapter(model, tmp_path)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["parallel", "compiled"]
)
@pytest.mark.parametrize(
    "call", [vp.merge, vp.detach, vp.train_mode, vp.count_parameters, vp.tuned_state_dict], ids=lambda f: f.__name__
)
def test_a_wrapped_model_is_refused_with_what_to_pass_instead(wrap, call):
    with pytest.raises(ValueError, match=r"pass model\.(module|_orig_mod)"):
        call(wrap(vp.attach(tiny("vit"), vp.LoRA(rank=2))))


def test_a_failed_load_keeps_the_users_own_replaced_head(tmp_path):
    vp.save_adapter(vp.attach(tiny("vit"), vp.LoRA(rank=2)), tmp_path)
    model: Any = vp.replace_head(tiny("vit"), "batchnorm_linear", 5)
    head = model.head
    tensors = tmp_path / "adapter.safetensors"
    broken = tensors.read_bytes()[:-8]
    tensors.write_bytes(broken)
    with pytest.raises(ValueError, match=r"adapter\.safetensors"):
        vp.load_adapter(model, tmp_path)
    assert model.head is head


def test_an_adapter_with_another_kind_of_head_replaces_the_users_own(tmp_path):
    saved: Any = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    vp.save_adapter(saved, tmp_path)
    model: Any = vp.replace_head(tiny("vit"), "batchnorm_linear", 5)
    assert torch.equal(vp.load_adapter(model, tmp_path)(images(model)), saved(images(saved)))


def test_a_load_that_fails_late_keeps_the_users_own_replaced_head(tmp_path):
    vp.save_adapter(vp.attach(tiny("vit"), vp.LoRA(rank=2)), tmp_path)
    model: Any = vp.replace_head(tiny("vit"), "batchnorm_linear", 5)
    head, output = model.head, model(images(model))
    info = json.loads((tmp_path / "adapter.json").read_text())
    info["methods"][0]["fields"]["rank"] = 3  # the tensors have rank 2
    (tmp_path / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="shape"):
        vp.load_adapter(model, tmp_path)
    assert model.head is head
    assert torch.equal(model(images(model)), output)


def test_timms_reset_classifier_after_replace_head_is_noticed(tmp_path):
    model: Any = vp.attach(vp.replace_head(tiny("vit"), "batchnorm_linear", 3), vp.LoRA(rank=2))
    model.reset_classifier(7)
    vp.save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter.json").read_text())["head"] == "linear"
    vp.merge(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: vp.AdaptFormer(bottleneck=8.5),  # pyright: ignore[reportArgumentType]
        lambda: vp.LoRA(rank=2.5),  # pyright: ignore[reportArgumentType]
        lambda: vp.VPT(tokens=2.5),  # pyright: ignore[reportArgumentType]
        lambda: vp.VPT(project=2.5),  # pyright: ignore[reportArgumentType]
        lambda: vp.VPT(deep="false"),  # pyright: ignore[reportArgumentType]
        lambda: vp.AdaptFormer(scale=None),  # pyright: ignore[reportArgumentType]
        lambda: vp.AdaptFormer(scale=float("nan")),
        lambda: vp.AdaptFormer(scale=True),
        lambda: vp.LoRA(alpha=float("nan")),
        lambda: vp.LoRA(alpha=float("inf")),
        lambda: vp.LoRA(targets=None),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_value_of_another_type_is_refused_when_the_method_is_made(make):
    with pytest.raises(ValueError, match=r"must be .*; got"):
        make()


def test_one_target_as_a_string_means_that_target():
    # not ("q", "k", "v"), another function
    assert vp.LoRA(targets="qkv").targets == ("qkv",)  # pyright: ignore[reportArgumentType]
    assert vp.LoRA(targets="fc1").targets == ("fc1",)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family", ["vit", "eva02_base", "siglip", "beit"])
def test_set_input_size_under_input_prompts_is_refused(family):
    model: Any = vp.attach(tiny(family), vp.VPT(tokens=3, deep=False))
    with pytest.raises(ValueError, match="prompts"):
        model.set_input_size(img_size=2 * model.patch_embed.img_size[0])


def test_a_hybrid_patch_embedding_without_a_projection_is_no_attribute_error():
    model = timm.create_model("vit_base_mci_224", depth=1)
    vp.attach(model, vp.VPT(tokens=2))


@pytest.mark.parametrize(("key", "value"), [("class_names", [1, 2, 3, 4, 5]), ("backbone", None)])
def test_nested_values_of_a_wrong_type_are_refused_as_value_errors(key, value, tmp_path):
    folder = vp.save_adapter(vp.attach(tiny("vit"), vp.LoRA(rank=2)), tmp_path)
    info = json.loads((folder / "adapter.json").read_text())
    if key == "backbone":
        info["backbone"]["name"] = 3
    else:
        info[key] = value
    (folder / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="is not text"):
        vp.load_adapter(
            vp.replace_head(tiny("vit"), "linear", 3) if key == "class_names" else tiny("vit", seed=5), folder
        )


@pytest.mark.parametrize("change", [{"num_classes": 10**13}, {"bottleneck": 10**13}])
def test_a_hostile_size_is_refused_before_memory_is_taken(change, tmp_path):
    folder = vp.save_adapter(vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=2)), tmp_path)
    info = json.loads((folder / "adapter.json").read_text())
    model = tiny("vit")
    if "num_classes" in change:
        info.update(change)
        model.reset_classifier(0)
    else:
        info["methods"][0]["fields"].update(change)
    (folder / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"is 10{13}, but adapter\.safetensors holds only"):
        vp.load_adapter(model, folder)


def test_a_half_precision_model_is_told_to_load_before_converting(tmp_path):
    vp.save_adapter(vp.attach(tiny("vit"), vp.LoRA(rank=2)), tmp_path)
    with pytest.raises(ValueError, match=r"rounded to torch\.float16: load before you convert"):
        vp.load_adapter(tiny("vit").half(), tmp_path)
