"""Backbone files as other code writes them, built from tiny timm models by that code's own names."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.tiny_states import NAME, TINY
from torch import Tensor, nn

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


# MAE (facebookresearch/mae, models_mae.py)
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


def moco_v3(encoder: State) -> State:
    """The state dict of a pretraining file (facebookresearch/moco-v3, main_moco.py)."""
    projector = random_like({"head.0.weight": (24, 16), "head.1.weight": (24,), "head.1.running_mean": (24,)})
    projector["head.1.num_batches_tracked"] = torch.tensor(5)
    return {
        **{f"module.base_encoder.{key}": value for key, value in {**encoder, **projector}.items()},
        **{f"module.momentum_encoder.{key}": value + 1 for key, value in {**encoder, **projector}.items()},
        "module.predictor.0.weight": torch.randn(24, 8),
    }


def adaptformer(state: State) -> State:
    """timm's names to those of ShoufaChen/AdaptFormer (models/vit_image.py)."""
    official: State = {}
    for key, value in state.items():
        block = re.match(r"blocks\.\d+\.", key)
        if ".attn.qkv." in key:
            for part, name in zip(value.chunk(3), "qkv", strict=True):
                official[key.replace("attn.qkv", f"attn.{name}_proj")] = part.clone()
        else:
            official[key.replace(".mlp.", ".") if block else key] = value
    return official


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


def clip_file(tower: Tower) -> State:
    """The state dict of the whole CLIP model: `tower`, a text tower and scalars."""
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


def backbone_of(name: str, content: Any, file: Path, **arguments: Any) -> Any:
    """What `create_backbone` makes of `content` saved as `file`, at the size SMALL unless the arguments say another."""
    (save_file if file.suffix == ".safetensors" else torch.save)(content, file)
    return create_backbone(name, checkpoint=file, **{**SMALL, **arguments})


def warnings_in(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.levelno >= logging.WARNING]
