"""Folders of HF peft: golden parity, the way back checked by peft itself, hostile and impossible folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from families import FAMILIES, images, randomise_tuned, tiny
from timm.models import VisionTransformer
from torch import Tensor, nn

import vision_peft as vp

GOLDEN = {
    "hf_peft_lora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",)),
    "hf_peft_lora_mlp": vp.LoRA(rank=4, alpha=6, targets=("fc1", "fc2")),
    "hf_peft_rslora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",), rslora=True),
    "hf_peft_dora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",), dora=True),
}
OURS = {
    "base_model.model.": "",
    "lora_A.default.weight": "lora.A",
    "lora_B.default.weight": "lora.B",
    "lora_magnitude_vector.default.weight": "lora.magnitude",
    "modules_to_save.default.": "",
}
BYPASSED = ["dinov3_qkvb", "eva02_tiny", "beit", "beit_shared_bias"]  # timm reads qkv.weight there


def golden_model(tensors: dict[str, Tensor]) -> Any:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=5)
    model.load_state_dict({n.removeprefix("base/"): t for n, t in tensors.items() if n.startswith("base/")})
    return model.eval()


def test_no_golden_folder_is_left_out(shared):
    assert {path.name for path in (shared / "golden").glob("hf_peft_*")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_hf_peft(name, shared):
    folder = shared / "golden" / name
    tensors = safetensors.torch.load_file(folder / "golden.safetensors")
    foreign = vp.read_foreign(folder, "hf_peft")
    assert foreign.method == GOLDEN[name]
    assert (foreign.backbone, foreign.num_classes, foreign.head) == (None, 5, "linear")
    model = vp.attach(golden_model(tensors), GOLDEN[name])
    vp.load_tuned(model, foreign.tuned)
    logits = model(tensors["input"])
    assert (logits - tensors["logits"]).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, tensors["target"]).backward()
    theirs: dict[str, Tensor] = {}
    for key, gradient in tensors.items():
        if key.startswith("grad/"):
            for their_part, our_part in OURS.items():
                key = key.replace(their_part, our_part)
            theirs[key.removeprefix("grad/")] = gradient
    ours = {name: p.grad for name, p in vp.tuned_parameters(model)}
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


def loaded_by_peft(folder: Path, family: str) -> nn.Module:
    peft: Any = pytest.importorskip("peft")
    return peft.PeftModel.from_pretrained(tiny(family), str(folder)).eval()


def written(method: vp.LoRA, family: str, folder: Path, head: str = "linear") -> nn.Module:
    model = vp.attach(vp.replace_head(tiny(family), head, 5), method)
    randomise_tuned(model)
    vp.write_foreign(model.eval(), folder, target="hf_peft")
    return model


METHODS = [
    vp.LoRA(rank=2, alpha=3, targets=("qkv",)),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v")),
    vp.LoRA(rank=2, alpha=3, targets=("v", "k", "q"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("k", "proj", "fc1", "fc2")),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj", "fc2"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj"), dora=True),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("family", ["vit", "siglip", "swin", "eva02_base", "deit_distilled"])
def test_hf_peft_loads_what_we_write_to_the_same_logits(method, family, tmp_path):
    model = written(method, family, tmp_path)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, family)(x), model(x), rtol=1e-5, atol=1e-5)


def read_back(folder: Path, family: str) -> tuple[nn.Module, vp.LoRA]:
    foreign = vp.read_foreign(folder, "hf_peft")
    method: Any = foreign.method
    model = vp.attach(tiny(family), method)
    vp.load_tuned(model, foreign.tuned)
    return model.eval(), method


WIDE = vp.LoRA(rank=16, targets=("q", "k", "v"))  # joined, its rank is above the width 32


@pytest.mark.parametrize("method", [*METHODS, WIDE], ids=repr)
@pytest.mark.parametrize("family", ["vit", "siglip", "swin", "eva02_base", "deit_distilled"])
def test_we_read_what_we_write_to_the_same_logits(method, family, tmp_path):
    if method is WIDE and family == "swin":
        method = vp.LoRA(rank=8, targets=("q", "k", "v"))  # above the width 16 of its first stage
    model = written(method, family, tmp_path)
    x = images(model)
    torch.testing.assert_close(read_back(tmp_path, family)[0](x), model(x), rtol=1e-6, atol=1e-6)


MIXED = [
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj")),
    vp.LoRA(rank=3, alpha=5, targets=("q", "k", "proj"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("k", "v", "fc1", "fc2"), dropout=0.1, dora=True),
    vp.LoRA(rank=3, alpha=5, targets=("q", "k", "v", "proj"), rslora=True, dora=True),
    WIDE,
]


@pytest.mark.parametrize("method", MIXED, ids=repr)
def test_slices_that_were_joined_beside_other_layers_are_read_as_the_same_method(method, tmp_path):
    model = written(method, "vit", tmp_path)
    again, found = read_back(tmp_path, "vit")
    assert found == method
    theirs, ours = vp.tuned_state_dict(model), vp.tuned_state_dict(again)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize("targets", [("q", "v", "proj"), ("q", "k", "proj"), ("q", "k", "v", "fc2")], ids="+".join)
def test_an_untrained_mixture_whose_zeros_tell_no_slices_is_read_to_the_same_logits(targets, tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=targets))
    vp.write_foreign(model, tmp_path)
    x = images(model)
    assert torch.equal(read_back(tmp_path, "vit")[0](x), model(x))


def test_a_joined_pair_that_was_trained_on_is_whole_and_refused_with_the_ranks_of_its_layers(tmp_path):
    written(vp.LoRA(rank=2, targets=("q", "v", "proj")), "vit", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["base_model.model.blocks.1.attn.qkv.lora_B.weight"] += 1e-6
    safetensors.torch.save_file(tensors, path)
    reason = r"one rank for all layers, .* 2 on blocks.0.attn.proj, blocks.1.attn.proj; 4 on blocks.0.attn.qkv, bl"
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(tmp_path, "hf_peft")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank_pattern": {"blocks.1.mlp.fc1": 4}}, "one scaling for all layers, .*; 1 on blocks.1.mlp.fc1$"),
        (
            {"rank_pattern": {"blocks.1.mlp.fc1": 4}, "alpha_pattern": {"blocks.1.mlp.fc1": 8}},
            "one rank for all layers, .*; 4 on blocks.1.mlp.fc1$",
        ),
        ({"alpha_pattern": {"fc.": 6}}, "one scaling for all layers, .*; 3 on blocks.0.mlp.fc1, blocks.1.mlp.fc1$"),
    ],
    ids=str,
)
def test_sizes_of_a_layer_of_its_own_that_hf_peft_wrote_are_refused_with_the_layers(settings, reason, tmp_path):
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["qkv", "fc1"], **settings)
    peft.get_peft_model(tiny("vit"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(tmp_path, "hf_peft")


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_hf_peft_that_give_every_layer_the_same_size_are_read(rslora, tmp_path):
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=8,
        lora_alpha=9,
        target_modules=["qkv", "fc1"],
        rank_pattern={"attn.qkv": 2, r"fc1": 2},
        alpha_pattern={"blocks.0.attn.qkv": 4, "qkv": 4, "mlp.fc1": 4},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(tiny("vit"), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = vp.attach(tiny("vit"), vp.LoRA(rank=2, alpha=4, targets=("qkv", "fc1"), rslora=rslora))
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    assert foreign.method == vp.LoRA(rank=2, alpha=4, targets=("qkv", "fc1"), rslora=rslora)
    vp.load_tuned(ours, foreign.tuned, head="keep")
    x = images(ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_an_a_that_separate_projections_share_is_written_once_for_each(dora, tmp_path):
    model = written(vp.LoRA(rank=2, alpha=3, targets=("qkv", "fc2"), dora=dora), "rope_gqa", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    shared = model.get_parameter("blocks.1.attn.q_proj.lora.A")
    for letter in "qkv":
        assert torch.equal(tensors[f"base_model.model.blocks.1.attn.{letter}_proj.lora_A.weight"], shared)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "rope_gqa")(x), model(x), rtol=1e-5, atol=1e-5)
    again, method = read_back(tmp_path, "rope_gqa")
    assert method == vp.LoRA(rank=2, alpha=3, targets=("qkv", "fc2"), dora=dora)
    assert torch.equal(again(x), model(x))


def test_a_shared_a_of_more_rows_than_the_keys_have_is_read_back(tmp_path):
    method = vp.LoRA(rank=20, alpha=3, targets=("qkv",))  # the one key head of this backbone has 16 channels
    model = written(method, "rope_gqa", tmp_path)
    again, found = read_back(tmp_path, "rope_gqa")
    theirs, ours = vp.tuned_state_dict(model), vp.tuned_state_dict(again)
    assert found == method
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize("family", ["eva02_base", "rope_gqa"])
@pytest.mark.parametrize("targets", [("q", "k", "v"), ("q", "v")])
def test_separate_projections_with_an_a_each_are_read_as_such(family, targets, tmp_path):
    method = vp.LoRA(rank=2, alpha=3, targets=targets)
    model = written(method, family, tmp_path)
    again, found = read_back(tmp_path, family)
    x = images(model)
    assert found == method
    assert torch.equal(again(x), model(x))


def test_a_map_of_an_output_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="proj_output maps the output of a layer, HF peft's LoRA reads the input"):
        vp.write_foreign(vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("q", "proj_output"))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batchnorm_head_is_written_as_the_linear_layer_it_folds_into(tmp_path):
    model: Any = vp.attach(vp.replace_head(tiny("vit"), "batchnorm_linear", 5), vp.LoRA(rank=2, targets=("qkv",)))
    randomise_tuned(model)
    nn.init.normal_(model.head[0].running_mean)
    nn.init.uniform_(model.head[0].running_var, 0.5, 2.0)
    x = images(model)
    expected = model.eval()(x)
    vp.write_foreign(model, tmp_path)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "vit")(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x), expected)


def test_without_a_head_none_is_written(tmp_path):
    model: Any = tiny("vit")
    model.reset_classifier(0)
    vp.write_foreign(vp.attach(model, vp.LoRA(rank=2, targets=("qkv",))), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None
    assert vp.read_foreign(tmp_path, "hf_peft").num_classes == 0


@pytest.mark.parametrize("family", BYPASSED)
def test_where_hf_peft_would_never_be_called_writing_is_refused(family, tmp_path):
    with pytest.raises(ValueError, match=r"reads qkv.weight without calling qkv, so that HF peft's update would never"):
        vp.write_foreign(vp.attach(tiny(family), vp.LoRA(rank=2)), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    written(vp.LoRA(rank=2, targets=("proj",)), family, tmp_path)


@pytest.mark.parametrize(
    ("methods", "got"),
    [((), "nothing"), ((vp.AdaptFormer(),), "AdaptFormer"), ((vp.LoRA(), vp.VPT()), "LoRA, VPT")],
    ids=str,
)
def test_only_one_lora_and_nothing_else_can_be_written(methods, got, tmp_path):
    model = tiny("vit")
    for method in methods:
        vp.attach(model, method)
    with pytest.raises(ValueError, match=f"wants a model with one LoRA attached and nothing else, got {got}"):
        vp.write_foreign(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown target 'hf_pef', did you mean 'hf_peft'"):
        vp.write_foreign(tiny("vit"), tmp_path, target="hf_pef")


def test_every_family_that_calls_qkv_is_written_and_read_by_peft(tmp_path):
    for family in sorted(set(FAMILIES) - set(BYPASSED) - {"swin", "eva02_base"}):
        model = written(vp.LoRA(rank=2, targets=("q", "v", "fc1")), family, tmp_path / family)
        x = images(model)
        torch.testing.assert_close(loaded_by_peft(tmp_path / family, family)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    written(vp.LoRA(rank=2, targets=("qkv",)), "vit", tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"peft_type": "IA3"}, "cannot read a HF peft adapter of type 'IA3': wanted LORA"),
        ({"bias": "all"}, "settings that LoRA here does not have: bias='all'"),
        ({"layer_replication": [[0, 2]], "lora_bias": True}, r"lora_bias=True, layer_replication=\[\[0, 2\]\]"),
        ({"rank_pattern": {"qkv": 4}}, "says r=4 for blocks.0.attn.qkv, its tensors have rank 2"),
        ({"rank_pattern": {"qkv": "4"}}, "rank must"),
        ({"rank_pattern": [4]}, r"rank_pattern in adapter_config.json must map names of layers to numbers; got \[4\]"),
        ({"alpha_pattern": {"qkv": -1}}, "alpha must"),
        ({"alpha_pattern": {"(a+)+b": 4}}, r"regular expressions are not read; got '\(a\+\)\+b'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"layers_to_transform": [0]}, r"layers_to_transform=\[0\]"),
        ({"r": 3}, "adapter_config.json says r=3 for blocks.0.attn.qkv, its tensors have rank 2"),
        ({"lora_alpha": "six"}, "alpha must"),
    ],
    ids=str,
)
def test_a_config_that_is_no_plain_lora_is_refused(values, reason, folder):
    change_config(folder, **values)
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no HF peft adapter at .*: {name} is missing"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3"])
def test_a_config_that_is_no_object_is_refused(text, folder):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not JSON|tells its method in adapter_config.json"):
        vp.read_foreign(folder, "hf_peft")


def test_tensors_without_their_config_are_refused(folder):
    with pytest.raises(ValueError, match=r"tells its method in adapter_config.json: pass the folder"):
        vp.read_foreign(folder / "adapter_model.safetensors", "hf_peft")


@pytest.mark.parametrize(
    "key",
    ["base_model.model.patch_embed.proj.lora_A.weight", "base_model.model.norm.weight", "base_model.model.blocks.0.x"],
)
def test_tensors_that_nothing_explains_are_named(key, folder):
    path = folder / "adapter_model.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(path), key: torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=f"cannot explain {key.removeprefix('base_model.model.')}"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("shape", [(), (2,), (0, 32), (2, 32, 1, 1)])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_factors_that_are_no_matrices_are_refused(part, shape, folder):
    path, key = folder / "adapter_model.safetensors", f"blocks.0.attn.qkv.{part}.weight"
    safetensors.torch.save_file(
        {**safetensors.torch.load_file(path), f"base_model.model.{key}": torch.zeros(shape)}, path
    )
    with pytest.raises(ValueError, match=f"shape of {key}: wanted"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused_with_its_layer(part, folder):
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors[f"base_model.model.blocks.1.attn.qkv.{part}.weight"]
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lora_A or lora_B is missing for blocks\.1\.attn\.qkv"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("shape", [(1, 4), (95, 4), (96, 5)])
def test_a_joined_pair_of_another_shape_is_refused_by_the_reader_or_the_model(shape, tmp_path):
    written(vp.LoRA(rank=2, targets=("q", "v", "proj")), "vit", tmp_path)
    path, key = tmp_path / "adapter_model.safetensors", "base_model.model.blocks.0.attn.qkv.lora_B.weight"
    safetensors.torch.save_file({**safetensors.torch.load_file(path), key: torch.zeros(shape)}, path)
    with pytest.raises(ValueError, match=r"shape of blocks.0.attn.qkv.lora"):
        read_back(tmp_path, "vit")


def test_a_head_alone_is_no_lora(folder):
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({n: t for n, t in tensors.items() if "lora" not in n}, path)
    with pytest.raises(ValueError, match="no lora_A in any block"):
        vp.read_foreign(folder, "hf_peft")


def test_the_older_pickle_of_tensors_is_read_too(folder):
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    torch.save(tensors, folder / "adapter_model.bin")
    expected = vp.read_foreign(folder, "hf_peft").tuned
    (folder / "adapter_model.safetensors").unlink()
    found = vp.read_foreign(folder, "hf_peft").tuned
    assert found.keys() == expected.keys()


def test_a_folder_is_nothing_that_the_other_sources_save(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        vp.read_foreign(tmp_path / "copy", "ssf")
