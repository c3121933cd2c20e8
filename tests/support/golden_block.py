"""Golden files of one CLIP block with adapters, around which a frame-wise model of depth 1 is built."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.layers import LayerNorm
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vision_peft.backbones.frames import frame_wise

_NAMES = {  # timm's -> CLIP's
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


class GoldenBlock:
    """Official tensors, input and output of one block, and a model whose only block has the frozen ones."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, "pt") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
        tensors = safetensors.torch.load_file(path)
        self.state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
        self.gradients = {n.removeprefix("grad/"): t for n, t in tensors.items() if n.startswith("grad/")}
        self.input, self.target, self.output = tensors["input"], tensors["target"], tensors["output"]
        model = VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=self.config["dim"],
            depth=1,
            num_heads=self.config["num_heads"],
            num_classes=0,
            norm_layer=partial(LayerNorm, eps=self.config["ln_eps"]),
            act_layer=QuickGELU,
        )
        for name, parameter in model.blocks[0].named_parameters():
            theirs = next(name.replace(ours, clip) for ours, clip in _NAMES.items() if name.startswith(ours))
            parameter.data.copy_(self.state[theirs])
        self.model: Any = frame_wise(model.eval(), self.config["frames"])

    def check(
        self, tuned: Mapping[str, nn.Parameter], ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]
    ) -> None:
        """Load the official tensors into ``tuned`` (by official name), compare output and gradients.

        ``ours`` takes the file's axes to (B*T N D), ``theirs`` takes them back.
        """
        assert {p for n, p in self.model.blocks.named_parameters() if p.requires_grad} == set(tuned.values())
        for official, parameter in tuned.items():
            parameter.data.copy_(self.state[official])
        output = theirs(self.model.blocks[0](ours(self.input)))
        assert (output - self.output).abs().max() <= 1e-5
        (output * self.target).sum().backward()
        for official, parameter in tuned.items():
            wanted = self.gradients[official]
            assert parameter.grad is not None
            assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), official


def golden_block(path: Path) -> GoldenBlock:
    torch.manual_seed(0)
    return GoldenBlock(path)
