"""A model whose weights come out of a file is built without random numbers, and has none left."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.families import FAMILIES
from timm.layers import trunc_normal_
from torch import Tensor, nn

from vision_peft.backbones import create_backbone
from vision_peft.backbones.bounds import check_size
from vision_peft.backbones.skip_draws import SkipDraws, build_to_load


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_weights_of_a_file_come_without_a_draw_and_as_they_are(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"img_size": 28 if "14" in name else 32, "depth": 2, "embed_dim": 24, "num_heads": 2}
    saved = create_backbone(name, num_classes=3, **settings)
    save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    model = create_backbone(name, checkpoint=tmp_path / "weights.safetensors", num_classes=3, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    for key, tensor in saved.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    for (key, ours), (_, theirs) in zip(model.named_buffers(), saved.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), key  # those of no file, too
    image = torch.randn(1, 3, settings["img_size"], settings["img_size"])
    assert torch.equal(model.eval()(image), saved.eval()(image))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        trunc_normal_(self.first.weight)
        self.scale = nn.Parameter(torch.ones(3).mul_(2))


def test_what_nothing_was_loaded_into_is_drawn_as_ever() -> None:
    calls = []

    def build() -> nn.Module:
        model = Plain()
        calls.append(model)
        with torch.no_grad():
            model.first.load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(3)})
        return model

    torch.manual_seed(3)
    model = build_to_load(build)
    torch.manual_seed(3)
    plain = build()
    assert len(calls) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True))


def test_only_tensors_that_would_be_drawn_keep_what_they_hold() -> None:
    drawn, kept, plain = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4)), torch.zeros(4)
    with SkipDraws() as draws, torch.no_grad():
        model = Plain()
        trunc_normal_(drawn)
        drawn.mul_(3).add_(1).clamp_(0.5)
        kept.add_(1).clamp_(0, 0.5)
        nn.init.uniform_(plain, 1, 2)
    assert drawn.tolist() == [0, 0, 0, 0]
    assert kept.tolist() == [0.5] * 4
    assert plain.min() >= 1
    assert model.scale.tolist() == [2, 2, 2]
    assert draws.list_left(model) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    model.first.weight.data.copy_(torch.eye(3))  # outside: nobody listens
    assert "first.weight" in draws.list_left(model)


def test_a_truncated_normal_of_torch_is_drawn_to_its_end() -> None:
    weight = nn.Parameter(torch.full((1000,), 7.0))
    with SkipDraws() as draws:
        nn.init.trunc_normal_(weight, mean=-0.1, std=1, a=0.2, b=2)
    assert 0.2 <= weight.min() < weight.max() <= 2
    assert draws.list_left(nn.ParameterList([weight])) == []


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_outside_draws_are_what_they_were(family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family].make()
    check_size("vit_tiny_patch16_224", img_size=32)
    torch.manual_seed(0)
    again = FAMILIES[family].make()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_counting_a_large_model_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Tensor, *_: object, **__: object) -> Tensor:
        raise AssertionError("a draw")

    monkeypatch.setattr(Tensor, "normal_", draw)
    assert check_size("vit_tiny_patch16_224", img_size=224) == 5_524_416
