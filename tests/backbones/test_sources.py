"""Backbone files of other code: each container is built here from a tiny timm model by its code's own names."""

import argparse
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from backbones.tiny import NAME, TINY, assert_holds, random_state
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.backbones import create_backbone

SMALL: dict[str, Any] = {**TINY, "img_size": 32}  # patch 16: a grid of 2 x 2
State = dict[str, Tensor]


def timm_model(name: str = NAME, seed: int = 0, **arguments: Any) -> nn.Module:
    """A timm model none of whose tensors has its initial value, in eval mode."""
    model = timm.create_model(name, **arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def assert_same_outputs(model: nn.Module, wanted: Tensor, size: int = 32) -> None:
    assert (model.eval()(images(size)) - wanted).abs().max() < 1e-6


def random_like(shapes: dict[str, tuple[int, ...]]) -> State:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


# MAE (facebookresearch/mae, models_mae.py, util/misc.py save_model)

DECODER = random_like(
    {
        "mask_token": (1, 1, 8),
        "decoder_pos_embed": (1, 5, 8),
        "decoder_embed.weight": (8, 16),
        "decoder_embed.bias": (8,),
        "decoder_blocks.0.norm1.weight": (8,),
        "decoder_blocks.0.attn.qkv.weight": (24, 8),
        "decoder_norm.weight": (8,),
        "decoder_pred.weight": (768, 8),
    }
)


def mae_container(state: State, **arguments: Any) -> dict[str, Any]:
    args = argparse.Namespace(lr=1e-3, model="mae_vit_base_patch16", **arguments)
    return {"model": state, "optimizer": {"state": {}}, "epoch": 399, "scaler": {"scale": 1.0}, "args": args}


def test_the_full_mae_pretraining_file_gives_its_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoder = timm_model(num_classes=0, **SMALL)
    torch.save(mae_container({**encoder.state_dict(), **DECODER}, mask_ratio=0.75), tmp_path / "mae.pth")
    model = create_backbone(NAME, checkpoint=tmp_path / "mae.pth", num_classes=3, **SMALL)
    assert_holds(model, encoder.state_dict())
    model.reset_classifier(0)  # type: ignore[operator]
    assert_same_outputs(model, encoder(images()))
    tensors = len(encoder.state_dict())
    assert f"MAE pretraining, encoder and decoder; {tensors} of {tensors + 8} tensors used" in caplog.text
    assert "dropped: decoder (8 tensors): for pretraining only" in caplog.text
    assert "fresh: head of 3 classes" in caplog.text


def test_the_mae_encoder_file_has_timms_names_and_is_used_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    encoder = timm_model(num_classes=0, **SMALL)
    torch.save({"model": encoder.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    assert_same_outputs(
        create_backbone(NAME, checkpoint=tmp_path / "mae_pretrain_vit_base.pth", **SMALL), encoder(images())
    )
    tensors = len(encoder.state_dict())
    assert f"timm's names (those of MAE, DeiT and MoCo-v3 encoders too); {tensors} of {tensors}" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_mae_finetuned_file_brings_its_fc_norm_and_head(tmp_path: Path) -> None:
    finetuned = timm_model(num_classes=5, global_pool="avg", **SMALL)
    torch.save(mae_container(finetuned.state_dict(), nb_classes=5), tmp_path / "finetuned.pth")
    model = create_backbone(NAME, checkpoint=tmp_path / "finetuned.pth", num_classes=5, global_pool="avg", **SMALL)
    assert_same_outputs(model, finetuned(images()))
    with pytest.raises(ValueError, match="give global_pool='avg'"):
        create_backbone(NAME, checkpoint=tmp_path / "finetuned.pth", num_classes=5, **SMALL)


def test_average_pooling_starts_a_fresh_fc_norm_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    torch.save({"model": encoder.state_dict()}, tmp_path / "mae.pth")
    model = create_backbone(NAME, checkpoint=tmp_path / "mae.pth", global_pool="avg", **SMALL)
    assert_holds(model, encoder.state_dict(), but=("norm.",))
    assert model.get_parameter("fc_norm.weight").tolist() == [1.0] * 16
    assert model.get_parameter("fc_norm.bias").tolist() == [0.0] * 16
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for said in ("dropped: norm.* (2 tensors)", "fresh: fc_norm", "NormTuning", "fc_norm=False keeps the pretrained"):
        assert said in caplog.text
    vp.attach(model, vp.NormTuning())  # as the warning says
    assert model.get_parameter("fc_norm.weight").requires_grad


def test_fc_norm_false_keeps_the_pretrained_norm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    save_file(encoder.state_dict(), tmp_path / "mae.safetensors")
    model = create_backbone(NAME, checkpoint=tmp_path / "mae.safetensors", global_pool="avg", fc_norm=False, **SMALL)
    assert_holds(model, encoder.state_dict())
    assert caplog.text == ""


def test_a_fresh_fc_norm_excuses_nothing_else(tmp_path: Path) -> None:
    state = random_state(num_classes=0, **SMALL)
    del state["blocks.1.attn.qkv.weight"]
    save_file(state, tmp_path / "mae.safetensors")
    with pytest.raises(ValueError, match=r"Missing key.*blocks\.1\.attn\.qkv\.weight"):
        create_backbone(NAME, checkpoint=tmp_path / "mae.safetensors", global_pool="avg", **SMALL)


# MoCo-v3 (facebookresearch/moco-v3, main_moco.py and main_lincls.py)


def moco_v3(encoder: State) -> State:
    projector = random_like({"head.0.weight": (24, 16), "head.1.weight": (24,), "head.1.running_mean": (24,)})
    projector["head.1.num_batches_tracked"] = torch.tensor(5)
    return {
        **{f"module.base_encoder.{key}": value for key, value in {**encoder, **projector}.items()},
        **{f"module.momentum_encoder.{key}": value + 1 for key, value in {**encoder, **projector}.items()},
        "module.predictor.0.weight": torch.randn(24, 8),
    }


def test_a_moco_v3_pretraining_file_gives_its_base_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoder = timm_model(num_classes=0, **SMALL)
    content = {"epoch": 300, "arch": "vit_base", "state_dict": moco_v3(encoder.state_dict()), "scaler": {}}
    torch.save(content, tmp_path / "vit-b-300ep.pth.tar")
    assert_same_outputs(create_backbone(NAME, checkpoint=tmp_path / "vit-b-300ep.pth.tar", **SMALL), encoder(images()))
    tensors = len(encoder.state_dict())
    assert f"MoCo-v3 pretraining; {tensors} of {2 * tensors + 9} tensors used" in caplog.text
    assert f"momentum_encoder ({tensors + 4} tensors): the slow copy" in caplog.text
    assert "predictor (1 tensor)" in caplog.text
    assert "projector (4 tensors)" in caplog.text


def test_a_moco_v3_linear_file_brings_its_head(tmp_path: Path) -> None:
    probe = timm_model(num_classes=7, **SMALL)
    state = {f"module.{key}": value for key, value in probe.state_dict().items()}
    content = {"epoch": 90, "arch": "vit_base", "state_dict": state, "best_acc1": np.float64(76.7), "optimizer": {}}
    torch.save(content, tmp_path / "linear.pth.tar")
    model = create_backbone(NAME, checkpoint=tmp_path / "linear.pth.tar", num_classes=7, **SMALL)
    assert_same_outputs(model, probe(images()))


# DINO and DINOv2 (facebookresearch/dinov2; a training checkpoint has the teacher's backbone beside its heads)

DINOV2: dict[str, Any] = {**TINY, "img_size": 28, "num_classes": 0}


def dinov2(state: State) -> State:
    """timm's names to the official ones; with registers timm adds the class token's position to the token."""
    official = {**state, "mask_token": torch.randn(1, 16)}
    if "reg_token" in state:
        position = torch.randn(1, 1, 16)
        official["register_tokens"] = official.pop("reg_token")
        official["cls_token"] = state["cls_token"] - position
        official["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return official


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_the_official_dinov2_file_is_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = timm_model(name, **DINOV2)
    official = dinov2(source.state_dict())
    torch.save(official, tmp_path / "dinov2.pth")
    model = create_backbone(name, checkpoint=tmp_path / "dinov2.pth", **DINOV2)
    assert_same_outputs(model, source(images(28)), size=28)
    assert f"DINOv2; {len(official) - 1} of {len(official)} tensors used" in caplog.text
    assert "mask token (1 tensor): for pretraining only" in caplog.text
    bigger = create_backbone(name, checkpoint=tmp_path / "dinov2.pth", **{**DINOV2, "img_size": 42})
    assert bigger(torch.zeros(1, 3, 42, 42)).shape == (1, 16)
    assert "positions: resampled from 2 x 2 to 3 x 3" in caplog.text


def test_the_swiglu_names_of_dinov2_giant_are_read(tmp_path: Path) -> None:
    size: dict[str, Any] = {**DINOV2, "mlp_ratio": 4}  # SwiGLU halves it
    source = timm_model("vit_giant_patch14_dinov2", **size)
    state = source.state_dict()
    renamed = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): state[key] for key in state}
    torch.save({**renamed, "mask_token": torch.zeros(1, 16)}, tmp_path / "vitg14.pth")
    model = create_backbone("vit_giant_patch14_dinov2", checkpoint=tmp_path / "vitg14.pth", **size)
    assert_same_outputs(model, source(images(28)), size=28)


def test_a_training_checkpoint_of_dino_gives_its_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = timm_model(num_classes=0, **SMALL)
    teacher = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.zeros(8, 16)
    student = {f"module.{key}": value + 1 for key, value in teacher.items()}
    args = argparse.Namespace(arch="vit_small")
    torch.save({"student": student, "teacher": teacher, "epoch": 100, "args": args}, tmp_path / "dino.pth")
    assert_same_outputs(create_backbone(NAME, checkpoint=tmp_path / "dino.pth", **SMALL), source(images()))
    assert "projection heads (1 tensor)" in caplog.text


# AdaptFormer (ShoufaChen/AdaptFormer, models/vit_image.py)


def adaptformer(state: State) -> State:
    official: State = {}
    for key, value in state.items():
        block = re.match(r"blocks\.\d+\.", key)
        if ".attn.qkv." in key:
            for part, name in zip(value.chunk(3), "qkv", strict=True):
                official[key.replace("attn.qkv", f"attn.{name}_proj")] = part.clone()
        else:
            official[key.replace(".mlp.", ".") if block else key] = value
    return official


def test_adaptformers_re_keyed_mae_file_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoder = timm_model(num_classes=0, **SMALL)
    official = adaptformer(encoder.state_dict())
    assert "blocks.1.attn.k_proj.bias" in official
    assert "blocks.1.fc2.weight" in official
    torch.save({"model": official}, tmp_path / "mae_pretrain_vit_b.pth")
    model = create_backbone(NAME, checkpoint=tmp_path / "mae_pretrain_vit_b.pth", **SMALL)
    assert_same_outputs(model, encoder(images()))
    assert f"AdaptFormer's code (q_proj, k_proj, v_proj, fc1, fc2); {len(official)} of {len(official)}" in caplog.text


def test_a_lone_projection_in_adaptformers_names_is_an_error(tmp_path: Path) -> None:
    official = adaptformer(random_state(num_classes=0, **SMALL))
    del official["blocks.1.attn.v_proj.bias"]
    torch.save(official, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"lacks v_proj beside the others of blocks\.1\.attn\.qkv\.bias"):
        create_backbone(NAME, checkpoint=tmp_path / "model.pth", **SMALL)


@pytest.mark.parametrize("pooling", ["", "_global_pool"])
def test_the_backbone_of_adaptformers_own_checkpoint_is_read_and_the_method_named(
    pooling: str, shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden = load_file(shared / "golden" / f"adaptformer_image{pooling}.safetensors")
    state = {key.removeprefix("state/"): value for key, value in golden.items() if key.startswith("state/")}
    torch.save({"model": state, "args": argparse.Namespace(ffn_num=4)}, tmp_path / "checkpoint.pth")
    size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    size |= {"global_pool": "avg"} if pooling else {}
    model = create_backbone(NAME, checkpoint=tmp_path / "checkpoint.pth", num_classes=5, **size)
    assert "method (12 tensors): trained by a method; vp.read_foreign reads it" in caplog.text
    assert "head.1.weight" in caplog.text
    foreign = vp.read_foreign(tmp_path / "checkpoint.pth", source="adaptformer")
    assert foreign.backbone is not None
    assert foreign.method is not None
    assert_holds(model, foreign.backbone)
    vp.replace_head(model, "batchnorm_linear", 5)
    vp.attach(model, foreign.method)
    vp.load_tuned(model, foreign.tuned)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(golden["input"]), golden["logits"], atol=1e-5, rtol=1e-5)


# CLIP (openai/CLIP, clip/model.py) written out in plain torch

CLIP_NAME = "vit_base_patch16_clip_quickgelu_224"


class Tower(nn.Module):
    """OpenAI's image tower: width 16, two blocks, two heads, patches of 16 in images of 32."""

    def __init__(self, width: int = 16, depth: int = 2, out: int = 6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(5, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Resblock(width) for _ in range(depth))
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out))

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:  # type: ignore[union-attr]
            x = block(x)
        return self.ln_post(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.proj


class Resblock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2)  # in_proj_weight, in_proj_bias, out_proj
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.ln_1(x) @ self.attn.in_proj_weight.T + self.attn.in_proj_bias
        q, k, v = (part.view(batch, length, 2, width // 2).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        attention = (q @ k.transpose(-2, -1) / math.sqrt(width // 2)).softmax(dim=-1)
        x = x + self.attn.out_proj((attention @ v).transpose(1, 2).reshape(batch, length, width))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU


@pytest.fixture
def tower() -> Tower:
    torch.manual_seed(3)
    made = Tower().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return made


def clip_file(tower: Tower) -> State:
    text = random_like(
        {
            "positional_embedding": (77, 8),
            "text_projection": (8, 6),
            "token_embedding.weight": (20, 8),
            "transformer.resblocks.0.attn.in_proj_weight": (24, 8),
            "ln_final.weight": (8,),
        }
    )
    scalars = {"logit_scale": torch.tensor(4.6), "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(20)}
    scalars["context_length"] = torch.tensor(77)
    return {**{f"visual.{key}": value for key, value in tower.state_dict().items()}, **text, **scalars}


def test_openais_clip_gives_the_features_of_its_image_tower(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.save(clip_file(tower), tmp_path / "ViT-B-16.pt")
    model = create_backbone(CLIP_NAME, checkpoint=tmp_path / "ViT-B-16.pt", **SMALL)
    assert_same_outputs(model, tower.features(images()))
    tensors = len(tower.state_dict())
    assert f"CLIP in OpenAI's names; {tensors - 1} of {tensors + 9} tensors used" in caplog.text
    assert "text tower (5 tensors): not the image tower" in caplog.text
    assert "visual.proj (1 tensor): the projection to 6 dimensions (wanted: 0 classes)" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_head_of_the_projections_size_is_the_projection(tower: Tower, tmp_path: Path) -> None:
    torch.save(clip_file(tower), tmp_path / "clip.pt")
    model = create_backbone(CLIP_NAME, checkpoint=tmp_path / "clip.pt", num_classes=6, **SMALL)
    assert_same_outputs(model, tower(images()))


def test_a_clip_file_with_average_pooling_has_a_fresh_fc_norm(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(clip_file(tower), tmp_path / "clip.pt")
    model = create_backbone(CLIP_NAME, checkpoint=tmp_path / "clip.pt", global_pool="avg", **SMALL)
    assert model.get_parameter("fc_norm.weight").tolist() == [1.0] * 16
    assert "visual.ln_post.* (2 tensors)" in caplog.text


def test_the_state_dict_of_the_image_tower_alone_is_read(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.save(tower.state_dict(), tmp_path / "visual.pt")
    model = create_backbone(CLIP_NAME, checkpoint=tmp_path / "visual.pt", **SMALL)
    assert_same_outputs(model, tower.features(images()))
    assert "does not say whether it was trained with GELU or QuickGELU; used: QuickGELU" in caplog.text


def test_openais_weights_in_a_gelu_architecture_are_a_warning(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(clip_file(tower), tmp_path / "clip.pt")
    create_backbone("vit_base_patch16_clip_224", checkpoint=tmp_path / "clip.pt", **SMALL)
    assert "this architecture computes GELU: take the one with _clip_quickgelu_" in caplog.text


def test_a_clip_file_in_another_architecture_names_one_that_fits(tower: Tower, tmp_path: Path) -> None:
    torch.save(clip_file(tower), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"norm_pre(.|\n)*wants its own architecture, such as vit_base_patch16_clip_"):
        create_backbone(NAME, checkpoint=tmp_path / "clip.pt", **SMALL)


@pytest.mark.filterwarnings("ignore")  # of tracing, which only makes the archive
def test_a_torchscript_archive_is_refused_with_a_way_out_that_works(
    tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = nn.Module()
    whole.visual = tower
    whole.forward = tower.forward  # type: ignore[method-assign]
    torch.jit.save(torch.jit.trace_module(whole, {"forward": images()}), "ViT-B-16.pt")
    with pytest.raises(ValueError, match="is a TorchScript archive") as error:
        create_backbone(CLIP_NAME, checkpoint="ViT-B-16.pt", **SMALL)
    advice = re.search(r"torch\.save\(.*\)", str(error.value))
    assert advice is not None
    exec(advice[0])
    assert_same_outputs(create_backbone(CLIP_NAME, checkpoint="clip.pth", **SMALL), tower.features(images()))


# OpenCLIP (mlfoundations/open_clip, timm_model.py) and EVA-CLIP (baaivision/EVA)


def test_an_openclip_file_with_a_timm_tower_is_read_with_its_projection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trunk = timm_model(num_classes=0, **SMALL)
    projection = torch.randn(6, 16)
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": projection, "logit_scale": torch.tensor(4.6), "logit_bias": torch.tensor(0.0)}
    state |= {"text.transformer.resblocks.0.ln_1.weight": torch.zeros(8), "text.positional_embedding": torch.zeros(9)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "open_clip.pt")
    model = create_backbone(NAME, checkpoint=tmp_path / "open_clip.pt", num_classes=6, **SMALL)
    with torch.no_grad():
        assert_same_outputs(model, trunk(images()) @ projection.T)
    assert_same_outputs(create_backbone(NAME, checkpoint=tmp_path / "open_clip.pt", **SMALL), trunk(images()))
    tensors = len(trunk.state_dict())
    assert f"OpenCLIP with a timm tower; {tensors} of {tensors + 5} tensors used" in caplog.text
    assert "text tower (2 tensors)" in caplog.text
    assert "visual.head.proj.weight (1 tensor): the projection to 6 dimensions" in caplog.text


def test_a_foreign_network_beside_the_tower_is_named(tmp_path: Path) -> None:
    state = {f"visual.trunk.{key}": value for key, value in random_state(num_classes=0, **SMALL).items()}
    torch.save({**state, "aesthetic.weight": torch.zeros(2)}, tmp_path / "open_clip.pt")
    with pytest.raises(ValueError, match=r"layout of OpenCLIP with a timm tower.*aesthetic\.weight"):
        create_backbone(NAME, checkpoint=tmp_path / "open_clip.pt", **SMALL)


def test_the_image_tower_of_eva_clip_is_read(tmp_path: Path) -> None:
    name = "eva02_base_patch16_clip_224"
    source = timm_model(name, num_classes=6, **SMALL)
    renames = {
        "mlp.norm": "mlp.ffn_ln",
        "attn.norm": "attn.inner_attn_ln",
        "mlp.fc1_g": "mlp.w1",
        "mlp.fc1_x": "mlp.w2",
    }
    renames |= {"mlp.fc2": "mlp.w3", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    state = {}
    for key, value in source.state_dict().items():
        for new, old in renames.items():
            key = key.replace(new, old)
        state[f"visual.{key}"] = value
    state |= {"visual.rope.freqs_cos": torch.zeros(4, 8), "text.ln_final.weight": torch.zeros(8)}
    torch.save(state, tmp_path / "eva_clip.pt")
    model = create_backbone(name, checkpoint=tmp_path / "eva_clip.pt", num_classes=6, **SMALL)
    assert_same_outputs(model, source(images()))


# What holds for all of them


@pytest.mark.parametrize("code", ["mae", "moco_v3", "adaptformer", "clip"])
def test_positions_are_resampled_as_timm_resamples_them(
    code: str, tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    encoder = random_state(num_classes=0, **SMALL)
    files = {
        "mae": {"model": {**encoder, **DECODER}},
        "moco_v3": {"state_dict": moco_v3(encoder)},
        "adaptformer": {"model": adaptformer(encoder)},
        "clip": clip_file(tower),
    }
    torch.save(files[code], tmp_path / "model.pth")
    positions = tower.positional_embedding[None].detach() if code == "clip" else encoder["pos_embed"]
    name = CLIP_NAME if code == "clip" else NAME
    model = create_backbone(name, checkpoint=tmp_path / "model.pth", **{**TINY, "img_size": (48, 80)})
    wanted = resample_abs_pos_embed(positions, new_size=[3, 5], num_prefix_tokens=1)
    assert torch.equal(model.get_parameter("pos_embed"), wanted)
    assert "positions: resampled from 2 x 2 to 3 x 5" in caplog.text


@pytest.mark.parametrize("code", ["mae", "moco_v3", "adaptformer"])
def test_another_depth_is_an_error_that_names_blocks_and_source(code: str, tmp_path: Path) -> None:
    encoder = random_state(num_classes=0, **SMALL)
    files = {"mae": {**encoder, **DECODER}, "moco_v3": moco_v3(encoder), "adaptformer": adaptformer(encoder)}
    torch.save({"model": files[code]}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"\((?i:{code[:3]}).*\) does not fit {NAME}(.|\n)*blocks\.2\."):
        create_backbone(NAME, checkpoint=tmp_path / "model.pth", **{**SMALL, "depth": 3})


@pytest.mark.parametrize("keep", [r"decoder_|mask_token", r"(patch_embed|norm)\b"])
@pytest.mark.parametrize("name", [NAME, "vit_base_patch16_siglip_gap_224"])
def test_a_file_without_the_blocks_is_an_error(keep: str, name: str, tmp_path: Path) -> None:
    state = {**random_state(num_classes=0, **SMALL), **DECODER}
    torch.save({"model": {key: state[key] for key in state if re.match(keep, key)}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"Missing key.*blocks\.0\.norm1\.weight"):
        create_backbone(name, checkpoint=tmp_path / "model.pth", **SMALL)


def test_the_attention_pool_of_siglip_is_reported_where_the_model_pools_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state("vit_base_patch16_siglip_224", num_classes=0, **SMALL)
    save_file(state, tmp_path / "siglip.safetensors")
    name = "vit_base_patch16_siglip_gap_224"
    assert_holds(
        create_backbone(name, checkpoint=tmp_path / "siglip.safetensors", fc_norm=False, **SMALL),
        state,
        but=("attn_pool.",),
    )
    assert re.search(r"attn_pool \(\d+ tensors\): the model pools in another way", caplog.text)


@pytest.mark.parametrize("prefix", ["", "encoder.", "module."])
def test_a_video_checkpoint_is_refused(prefix: str, tmp_path: Path) -> None:
    state = random_state(num_classes=0, **SMALL)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, None].repeat(1, 1, 2, 1, 1)
    torch.save({"model": {f"{prefix}{key}": value for key, value in state.items()}}, tmp_path / "videomae.pth")
    with pytest.raises(ValueError, match=r"is a video checkpoint.*\(16, 3, 2, 16, 16\), patches over 2 frames"):
        create_backbone(NAME, checkpoint=tmp_path / "videomae.pth", **SMALL)


def test_the_names_of_hugging_face_transformers_are_told_apart(tmp_path: Path) -> None:
    state = {"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(16, 3, 16, 16)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"\(Hugging Face transformers' names\) does not fit"):
        create_backbone(NAME, checkpoint=tmp_path / "model.safetensors", **SMALL)


def test_the_representation_layer_that_timm_leaves_out_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = random_state(num_classes=0, **SMALL)
    save_file({**state, "pre_logits.fc.weight": torch.zeros(16, 16)}, tmp_path / "model.safetensors")
    assert_holds(create_backbone(NAME, checkpoint=tmp_path / "model.safetensors", **SMALL), state)
    assert f"{len(state)} of {len(state) + 1} tensors used" in caplog.text
    assert "representation layer (1 tensor)" in caplog.text


@pytest.mark.parametrize("biases", ["zero", "not zero"])
def test_biases_that_a_dinov3_architecture_lacks_are_reported(
    biases: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name, size = "vit_small_patch16_dinov3", {**SMALL, "num_classes": 0}
    source = timm_model(name, **size)
    official = {}
    for key, value in source.state_dict().items():
        official[re.sub(r"gamma_(\d)", r"ls\1.gamma", key).replace("reg_token", "storage_tokens")] = value
    for index in range(2):
        official[f"blocks.{index}.attn.qkv.bias"] = torch.full((48,), float(biases != "zero"))
        official[f"blocks.{index}.attn.qkv.bias_mask"] = torch.ones(48)
    official |= {"mask_token": torch.zeros(1, 16), "rope_embed.periods": torch.zeros(4)}
    torch.save(official, tmp_path / "dinov3.pth")
    assert_same_outputs(create_backbone(name, checkpoint=tmp_path / "dinov3.pth", **size), source(images()))
    assert f"DINOv3; {len(source.state_dict())} of {len(official)} tensors used" in caplog.text
    assert ("NOT zero" in caplog.text) == (biases == "not zero")
    assert bool([record for record in caplog.records if record.levelno >= logging.WARNING]) == (biases == "not zero")


@pytest.mark.parametrize(
    ("name", "value"), [("pos_embed", torch.zeros(5)), ("visual.positional_embedding", torch.zeros(5))]
)
def test_positions_of_an_odd_shape_are_a_misfit(name: str, value: Tensor, tower: Tower, tmp_path: Path) -> None:
    state = clip_file(tower) if name.startswith("visual") else random_state(num_classes=0, **SMALL)
    torch.save({**state, name: value}, tmp_path / "model.pth")
    architecture = CLIP_NAME if name.startswith("visual") else NAME
    with pytest.raises(ValueError, match="does not fit"):
        create_backbone(architecture, checkpoint=tmp_path / "model.pth", **SMALL)


def test_a_block_too_many_for_relative_positions_is_a_misfit(tmp_path: Path) -> None:
    state = random_state("beit_base_patch16_224", num_classes=0, **{**SMALL, "depth": 3})
    save_file(state, tmp_path / "beit.safetensors")
    with pytest.raises(ValueError, match="does not fit beit_base_patch16_224"):
        create_backbone("beit_base_patch16_224", checkpoint=tmp_path / "beit.safetensors", **SMALL)
