"""What loading an adapter folder refuses: each a clear error, and the model is as it was."""

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from support.adapters import change_info, same, state_of, to_version_1, tuned_model, write_tensors
from support.families import images, tiny

import vision_peft as vp
from vision_peft.tuning import graft

TENSORS, INFO = "adapter.safetensors", "adapter.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vp.save_adapter(tuned_model(), tmp_path / "adapter")


def refused(folder: Path, reason: str, model: Any = None, error: type[Exception] = ValueError, **keywords: Any) -> str:
    """Check that loading raises ``error`` and leaves the model as it was; give the message."""
    model = tiny("vit") if model is None else model
    before, x = state_of(model), images(model)
    expected, flags = model(x), [p.requires_grad for p in model.parameters()]
    with pytest.raises(error, match=reason) as raised:
        vp.load_adapter(model, folder, **keywords)
    assert same(state_of(model), before)
    assert not list(graft.grafts(model))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(model(x), expected)
    return str(raised.value)


@pytest.mark.parametrize("missing", [INFO, TENSORS])
def test_a_missing_file_is_named(folder, missing):
    to_version_1(folder)  # in format 2 the tensors describe themselves
    (folder / missing).unlink()
    message = refused(folder, "no adapter at", error=FileNotFoundError)
    assert message.endswith(f"{missing} is missing")


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", "no adapter at .*nowhere", error=FileNotFoundError)


@pytest.mark.parametrize("text", ["", "{", "not json", '{"a": 1', "\x00\x01", "[" * 100_000], ids=lambda text: text[:8])
def test_broken_json_is_refused_with_its_path(folder, text):
    (folder / INFO).write_text(text)
    assert str(folder / INFO) in refused(folder, "is not JSON")


def test_binary_in_place_of_json_is_refused(folder):
    (folder / INFO).write_bytes(bytes(range(128, 256)))
    refused(folder, "is not JSON")


@pytest.mark.parametrize("text", ["[]", "3", '"adapter"', "null"])
def test_json_that_is_no_object_is_refused(folder, text):
    (folder / INFO).write_text(text)
    refused(folder, "wanted an object, got")


def test_missing_unknown_and_mistyped_entries_are_all_named_at_once(folder):
    def change(info: dict[str, Any]) -> None:
        del info["fingerprint"]
        info.update(num_classes="5", colour="blue", format_version=True)

    change_info(folder, change)
    message = refused(folder, "fingerprint is missing")
    for problem in ("num_classes has type str", "colour is unknown", "format_version has type bool"):
        assert problem in message


def test_a_newer_format_asks_for_an_upgrade(folder):
    change_info(folder, lambda info: info.update(format_version=5, brand_new_entry={}))
    refused(folder, "format version 5, .*reads up to 4: upgrade vision_peft")


@pytest.mark.parametrize(("version", "reason"), [(1, "sha256 differs"), (2, f"{TENSORS} cannot be read")])
def test_truncated_tensors_are_refused(folder, version, reason):
    if version == 1:
        to_version_1(folder)
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: len(data) // 2])
    refused(folder, reason)


@pytest.mark.parametrize("version", [1, 2])
def test_one_flipped_bit_is_refused(folder, version):
    if version == 1:
        to_version_1(folder)
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(bytes(data))
    refused(folder, "sha256 differs")


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04 a zip file"])
def test_tensors_that_are_no_safetensors_are_refused_even_with_the_right_checksum(folder, data):
    write_tensors(folder, data)
    refused(folder, f"{TENSORS} cannot be read")


def test_truncated_safetensors_are_refused_even_with_the_right_checksum(folder):
    write_tensors(folder, (folder / TENSORS).read_bytes()[:-8])
    refused(folder, f"{TENSORS} cannot be read")


def test_tensors_of_another_method_are_listed(folder):
    state = safetensors.torch.load_file(folder / TENSORS)
    moved = {name.replace("lora.q", "lora.k"): tensor for name, tensor in state.items()}
    write_tensors(folder, safetensors.torch.save(moved))
    message = refused(folder, "tuned tensors do not fit the model")
    assert "missing: blocks.0.attn.qkv.lora.q.A" in message
    assert "unexpected: blocks.0.attn.qkv.lora.k.A" in message


def test_an_unknown_method_gets_a_suggestion(folder):
    change_info(folder, lambda info: info["methods"][0].update(name="lorra"))
    refused(folder, r"unknown method 'lorra' \(did you mean lora\?\)")


def test_an_unknown_field_is_named_with_the_known_ones(folder):
    change_info(folder, lambda info: info["methods"][0]["fields"].update(ranks=3))
    refused(folder, "lora has no field ranks; it has alpha, .*rank")


@pytest.mark.parametrize("value", [0, "eight", None, -3])
def test_an_impossible_value_of_a_field_is_refused_with_the_path(folder, value):
    change_info(folder, lambda info: info["methods"][0]["fields"].update(rank=value))
    assert str(folder / INFO) in refused(folder, "lora: rank must")


@pytest.mark.parametrize("entry", ["lora", {"name": "lora"}, {"name": 3, "fields": {}}, None])
def test_a_method_entry_of_another_shape_is_shown(folder, entry):
    change_info(folder, lambda info: info.update(methods=[entry]))
    refused(folder, "wanted methods as")


def test_an_unknown_head_is_refused(folder):
    change_info(folder, lambda info: info.update(head="mlp"))
    refused(folder, "head must be one of")


def test_a_missing_architecture_is_refused(folder):
    change_info(folder, lambda info: info.update(backbone={}))
    refused(folder, "backbone.architecture is missing")


def _vit(**arguments: Any) -> Any:
    common = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **{**common, **arguments}).eval()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"depth": 3}, "depth: adapter 2, model 3"),
        ({"depth": 1}, "depth: adapter 2, model 1"),
        ({"embed_dim": 16}, r"width: adapter \[32\], model \[16\]"),
        ({"num_heads": 4}, r"num_heads: adapter \[2\], model \[4\]"),
        ({"patch_size": 16}, r"patch_size: adapter \[8, 8\], model \[16, 16\]"),
    ],
)
def test_another_architecture_is_refused_with_both_sides(folder, arguments, shown):
    refused(folder, f"belongs to another backbone.*{shown}", _vit(**arguments))


def test_another_architecture_is_refused_even_if_a_mismatch_is_allowed(folder):
    refused(folder, "depth: adapter 2, model 3", _vit(depth=3), allow_backbone_mismatch=True)


def test_another_family_is_refused_with_both_classes(folder):
    refused(folder, "class: adapter VisionTransformer, model SwinTransformer", tiny("swin"))


def test_other_frozen_weights_are_refused_unless_allowed(folder):
    other = tiny("vit", seed=7)
    message = refused(folder, "trained on other frozen weights", other)
    assert "allow_backbone_mismatch=True to vp.load_adapter" in message
    vp.load_adapter(other, folder, allow_backbone_mismatch=True)
    assert list(graft.grafts(other))


def test_a_model_that_is_no_vision_transformer_is_refused(folder):
    with pytest.raises(ValueError, match=r"belongs to another backbone \(vit_tiny_.*, not resnet18"):
        vp.load_adapter(timm.create_model("resnet18", num_classes=5), folder)


def test_another_class_count_names_both_and_the_classes(tmp_path):
    names = ["ant", "bee", "cat", "dog", "elk"]
    folder = vp.save_adapter(tuned_model(), tmp_path, class_names=names)
    message = refused(folder, "has 5 classes", vp.replace_head(tiny("vit"), "linear", 3))
    assert "the model has 3" in message
    assert "ant, bee, cat" in message
    assert "head='keep'" in message


def test_a_model_with_a_method_attached_is_refused_and_stays_as_it_is(folder):
    model = tuned_model("vit", vp.AdaptFormer(bottleneck=4))
    before, x = state_of(model), images(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"detach\(model\) first, or load_tuned into them"):
        vp.load_adapter(model, folder)
    assert same(state_of(model), before)
    assert torch.equal(model(x), expected)


def test_a_head_option_of_another_name_is_refused(folder):
    refused(folder, "head must be one of 'load', 'keep'; got 'drop'", head="drop")


@pytest.mark.parametrize("name", ["__class__", "../../etc/passwd", "os.system", "", "LoRA", "x" * 10_000])
def test_a_hostile_method_name_is_only_ever_looked_up(folder, name):
    change_info(folder, lambda info: info["methods"][0].update(name=name))
    refused(folder, "unknown method")


def test_no_pickle_is_read_from_a_folder(folder, tmp_path):
    marker = tmp_path / "marker"

    class Malicious:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    torch.save({"x": Malicious()}, tmp_path / "evil.pt")
    write_tensors(folder, (tmp_path / "evil.pt").read_bytes())
    refused(folder, f"{TENSORS} cannot be read")
    assert not marker.exists()
