"""V-JEPA 2's encoder: official tokens of clips and images, the rotary embedding written out, counts, methods on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import timm
import torch
from support.tiny_states import NAME
from timm.layers import Attention
from torch import Tensor

import vision_peft as vp
from vision_peft.backbones import create_backbone
from vision_peft.backbones.rotary_3d import Rotary3d, make_angles, rotate_blocks
from vision_peft.backbones.tubelet import vjepa2_form
from vision_peft.tuning.attention import attend

TINY: dict[str, Any] = {
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "img_size": (8, 12),
    "patch_size": 4,
}
CLIP: dict[str, Any] = {"num_frames": 4, "tubelet_size": 2}


def encoder(seed: int = 0, **arguments: Any) -> Any:
    """A tiny encoder with random weights."""
    torch.manual_seed(seed)
    settings = {**TINY, **arguments}
    model = timm.create_model(NAME, num_classes=0, **settings, **vjepa2_form(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return rotate_blocks(model).eval()


def official(state: dict[str, Tensor]) -> dict[str, Any]:
    """A file with what the official ones hold; the slow copy of the encoder is the one that is used."""
    named = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    other = {name: tensor + 1 for name, tensor in named.items()}
    positions = {"module.backbone.pos_embed": torch.randn(1, 12, 24)}
    return {"encoder": other, "predictor": {"x": torch.ones(1)}, "target_encoder": named | positions, "epoch": 3}


def clip(frames: int = 4) -> Tensor:
    return torch.randn(2, 3, frames, 8, 12, generator=torch.Generator().manual_seed(1))


def turned(t: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The equation, tubelet by tubelet and pair by pair."""
    h = t.shape[-1]
    d, out = 2 * (h // 3 // 2), t.clone()
    for token in range(t.shape[2]):
        place = (token // (grid[1] * grid[2]), token // grid[2] % grid[1], token % grid[2])
        for axis, p in enumerate(place):
            for i in range(d // 2):
                a, b = axis * d + 2 * i, axis * d + 2 * i + 1
                first, second = (torch.tensor(p * 10000 ** (-2 * ((2 * i + k) % (d // 2)) / d)) for k in (0, 1))
                out[:, :, token, a] = t[:, :, token, a] * first.cos() - t[:, :, token, b] * first.sin()
                out[:, :, token, b] = t[:, :, token, b] * second.cos() + t[:, :, token, a] * second.sin()
    return out


@pytest.mark.parametrize("h", [12, 16, 64, 5])
def test_channels_turn_by_time_row_and_column_and_the_rest_stays(h):
    embed = encoder().patch_embed
    t = torch.randn(2, 3, 12, h, generator=torch.Generator().manual_seed(0))
    out = Rotary3d(embed)(t)
    torch.testing.assert_close(out, turned(t, (2, 2, 3)), rtol=1e-5, atol=1e-6)
    assert torch.equal(out[..., 6 * (h // 3 // 2) :], t[..., 6 * (h // 3 // 2) :])


def test_tokens_in_front_and_prompts_alone_do_not_turn():
    rotary = Rotary3d(encoder().patch_embed)
    t = torch.randn(1, 2, 15, 12)
    out = rotary(t)
    assert torch.equal(out[:, :, :3], t[:, :, :3])
    assert torch.equal(out[:, :, 3:], rotary(t[:, :, 3:]))
    assert torch.equal(rotary(t[:, :, :4]), t[:, :, :4])


@pytest.fixture
def golden(shared: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(shared / "golden" / "vjepa2_video.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load(golden: Any, folder: Path, **arguments: Any) -> Any:
    config, file = golden
    arch = config["arch"]
    names = ("embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "num_frames", "tubelet_size")
    state = {n.removeprefix("state/encoder/"): t for n, t in file.items() if n.startswith("state/encoder/")}
    torch.save({"target_encoder": state}, folder / "vjepa2.pt")
    given = {**{name: arch[name] for name in names}, "img_size": tuple(arch["img_size"]), **arguments}
    return create_backbone(NAME, checkpoint=folder / "vjepa2.pt", num_classes=0, **given).eval()


def test_clips_and_views_give_the_official_logits_and_probabilities(golden, tmp_path):
    config, file = golden
    model = load(golden, tmp_path)
    classifier = {n.removeprefix("state/classifier/"): t for n, t in file.items() if n.startswith("state/classifier/")}
    foreign = vp.read_foreign(classifier, "vjepa2", heads=config["classifier"]["num_heads"])
    vp.replace_head(model, foreign.head, config["num_classes"])
    vp.load_tuned(model, foreign.tuned)
    x = file["input"]  # clip, view, B C T H W
    with torch.no_grad():
        logits = []
        for view in x.unbind(1):
            tokens = torch.cat([model.forward_features(one) for one in view], dim=1)
            logits.append(model.head.classifier(model.head.pool(tokens)).flatten(1))
    found = torch.stack(logits)
    assert (found - file["logits"]).abs().max() <= 1e-5
    assert (found.softmax(-1).mean(0) - file["probs"]).abs().max() <= 1e-5


def test_an_image_is_repeated_to_a_tubelet(golden, tmp_path):
    _, file = golden
    model = load(golden, tmp_path, num_frames=2)
    with torch.no_grad():
        image = file["input"][0, 0][:, :, :1]
        tokens = model.forward_features(image.expand(-1, -1, 2, -1, -1))
    assert (tokens - file["image_tokens"]).abs().max() <= 1e-5


def test_the_slow_encoder_of_a_whole_file_is_read_and_stored_positions_are_not(tmp_path, caplog):
    model = encoder()
    torch.save(official(dict(model.state_dict())), tmp_path / "vitl.pt")
    with caplog.at_level("INFO"):
        loaded = create_backbone(NAME, checkpoint=tmp_path / "vitl.pt", num_classes=0, **TINY, **CLIP).eval()
    assert torch.equal(loaded(clip()), model(clip()))
    assert "V-JEPA 2, encoder; 28 of 29 tensors used" in caplog.text
    assert "attention turns queries and keys instead" in caplog.text
    longer = create_backbone(NAME, checkpoint=tmp_path / "vitl.pt", num_classes=0, **TINY, num_frames=6, tubelet_size=2)
    assert longer(clip(6)).isfinite().all()
    assert not torch.allclose(loaded(clip()), loaded(clip().flip(2)), atol=1e-3), "time does not matter"


@pytest.mark.parametrize(
    ("name", "arguments", "figure"),
    [
        ("vit_large_patch16_224", {}, 303_885_312),
        ("vit_huge_patch14_224", {"patch_size": 16}, 631_648_000),
        ("vit_giant_patch14_224", {"patch_size": 16, "num_heads": 22}, 1_012_173_952),
    ],
)
def test_counts_of_the_encoders_are_the_published_ones(name, arguments, figure):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, img_size=256, **arguments, **vjepa2_form(64, 2))
    rotate_blocks(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == figure


METHODS = [
    vp.LoRA(rank=2),
    vp.AdaptFormer(bottleneck=4),
    vp.VPT(tokens=2),
    vp.VPT(tokens=2, deep=False),
    vp.PrefixTuning(tokens=2, hidden=4),
    vp.LST(reduction=4),
    vp.SSF(),
    vp.RepAdapter(bottleneck=4),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}")
def test_methods_attach_learn_and_come_off(method):
    model = encoder()
    x = clip()
    expected = model(x)
    vp.attach(model, method)
    if method.starts_as_identity:
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    model(x).square().sum().backward()
    silent = [name for name, p in vp.tuned_parameters(model) if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    vp.detach(model)
    assert torch.equal(model(x), expected)


def test_a_saved_adapter_comes_back_with_its_backbone(tmp_path):
    torch.save(official(dict(encoder().state_dict())), tmp_path / "vitl.pt")
    model = create_backbone(NAME, checkpoint=tmp_path / "vitl.pt", num_classes=3, **TINY, **CLIP)
    vp.attach(model, vp.LoRA(rank=2))
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    vp.save_adapter(model, tmp_path / "adapter")
    loaded = vp.load(tmp_path / "adapter", device="cpu", checkpoint=tmp_path / "vitl.pt")
    assert torch.equal(loaded(clip()), model.eval()(clip()))


def test_attention_that_is_written_out_for_prefixes_turns_queries_and_keys_too():
    model = encoder()
    x = clip()
    n = torch.randn(2, 12, 24)
    expected = model.blocks[1].attn(n)
    torch.testing.assert_close(attend(model.blocks[1].attn, n, []), expected, rtol=1e-5, atol=1e-6)
    assert (timm_attention(model.blocks[1].attn, n) - expected).abs().max() > 1e-3
    assert model(x).isfinite().all()


def timm_attention(attn: Any, n: Tensor) -> Tensor:
    plain = Attention(24, 2, qkv_bias=True)
    plain.load_state_dict(attn.state_dict())
    return plain(n)


def test_tokens_cannot_take_positions_that_only_attention_knows():
    with pytest.raises(ValueError, match='have no positions that tokens could take: wanted positions="start"'):
        vp.attach(encoder(), vp.PTuning(tokens=2, positions="interleaved"))


def test_heads_too_narrow_to_turn_stay():
    assert make_angles((2, 2, 3), 5).shape == (12, 0)
