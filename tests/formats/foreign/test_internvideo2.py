"""Files of InternVideo2's code: golden parity, both kinds of positions, methods and heads on it, counts, errors."""

import copy
import json
from typing import Any

import pytest
import safetensors
import torch
from timm.layers import RmsNorm
from torch import Tensor

import vision_peft as vp
from vision_peft.backbones.internvideo2 import InternVideo2
from vision_peft.inference.convert import convert_foreign

ZERO = "attn_pool.norm1_k.bias"  # a constant on all keys: softmax takes it out


@pytest.fixture
def golden(shared) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(shared / "golden" / "internvideo2.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def part(file: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): t for key, t in file.items() if key.startswith(f"{name}/")}


def build(golden: Any) -> Any:
    config, file = golden
    arch = config["arch"]
    foreign = vp.read_foreign(part(file, "state"), "internvideo2", pool_heads=arch["attn_pool_num_heads"])
    return foreign.build(arch["num_heads"], img_size=arch["img_size"], num_frames=arch["num_frames"])


def test_logits_and_gradients_are_those_of_the_official_code(golden):
    _, file = golden
    model = build(golden)
    logits = model(file["input"])
    assert (logits - file["logits"]).abs().max() <= 1e-5
    model.requires_grad_(True)
    model(file["input"]).square().sum().backward()
    for official, wanted in part(file, "grad").items():
        name = official.replace("clip_projector.", "attn_pool.")
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        if name == ZERO:
            assert gradient.abs().max() <= 1e-4
        else:
            assert (gradient - wanted).norm() <= 1e-4 * wanted.norm(), name


def tiny(**arguments: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    settings |= {"init_values": 1.0, "norm_layer": RmsNorm, "num_frames": 4, "tubelet_size": 2}
    model = InternVideo2(**{**settings, "pool_heads": 4, "pool_dim": 24, "num_classes": 5, **arguments}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def clip() -> Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def official(model: Any) -> dict[str, Tensor]:
    return {name.replace("attn_pool.", "clip_projector."): tensor for name, tensor in model.state_dict().items()}


def test_positions_apart_are_added_up():
    model = tiny()
    places, steps, own = torch.randn(1, 4, 32), torch.randn(1, 2, 32), torch.randn(1, 1, 32)
    rows = [own[0, 0], *(places[0, place] + steps[0, step] for step in range(2) for place in range(4))]
    with torch.no_grad():
        model.pos_embed.copy_(torch.stack(rows).unsqueeze(0))
    state = official(model)
    del state["pos_embed"]
    state |= {"pos_embed_spatial": places, "pos_embed_temporal": steps, "pos_embed_cls": own}
    built = vp.read_foreign(state, "internvideo2", pool_heads=4).build(4, 16, num_frames=4)
    torch.testing.assert_close(built(clip()), model(clip()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method", [vp.LoRA(rank=2), vp.VPT(tokens=2), vp.AdaptFormer(bottleneck=4), vp.BitFit()], ids=lambda m: m.name
)
def test_methods_attach_learn_and_come_off_and_heads_are_replaced(method):
    model = tiny()
    x = clip()
    expected = model(x)
    vp.attach(model, method)
    model(x).square().sum().backward()
    vp.replace_head(model, "linear", 3)
    assert model(x).shape == (2, 3)
    assert copy.deepcopy(model)(x).shape == (2, 3)
    vp.detach(model)
    assert torch.equal(model(x), expected)


def test_the_feature_is_as_wide_as_the_pooling_makes_it():
    model = tiny()
    model.reset_classifier(0)
    assert model(clip()).shape == (2, 24)
    with pytest.raises(ValueError, match="pools by attention"):
        model.reset_classifier(3, "token")


def test_keys_of_another_code_are_refused():
    with pytest.raises(ValueError, match=r"not an? InternVideo2 file: cannot explain strange\.weight"):
        vp.read_foreign({**official(tiny()), "strange.weight": torch.zeros(1)}, "internvideo2", pool_heads=4)
    state = official(tiny())
    del state["clip_projector.cross_attn.proj.weight"]
    with pytest.raises(ValueError, match="not a complete internvideo2 file"):
        vp.read_foreign(state, "internvideo2", pool_heads=4)


def test_converting_says_that_no_name_makes_the_backbone_again(tmp_path):
    torch.save(official(tiny()), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="no name of timm's makes this backbone again"):
        convert_foreign(
            tmp_path / "file.pth",
            tmp_path / "out",
            "internvideo2",
            num_heads=4,
            img_size=16,
            num_frames=4,
            pool_heads=4,
        )
    assert not (tmp_path / "out").exists()


def test_frames_that_do_not_fit_the_positions_are_refused():
    foreign = vp.read_foreign(official(tiny()), "internvideo2", pool_heads=4)
    with pytest.raises(ValueError, match="backbone tensors do not fit: of another shape pos_embed"):
        foreign.build(4, 16, num_frames=8)
