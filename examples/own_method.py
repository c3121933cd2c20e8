"""A method of your own, outside the package: registered, it trains, saves, loads and stacks like the built-in ones.

Run it by: python examples/own_method.py   (minutes on a CPU; with --tiny seconds, on a small random backbone)
"""

import sys
import tempfile
from dataclasses import dataclass
from typing import ClassVar

import torch

import vision_peft as vp
from vision_peft.training import compose_config, train
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import BlockGraft, width
from vision_peft.tuning.graft import graft


class ShiftedBlock(BlockGraft):
    shift: torch.nn.Parameter

    def mlp_half(self, x: torch.Tensor) -> torch.Tensor:  # one half of a block, in whatever family of timm
        return super().mlp_half(x) + self.shift


@vp.register
@dataclass(frozen=True)
class Shift(BlockMethod):
    name: ClassVar[str] = "shift"
    start: float = 0.0  # of what is added behind every MLP; 0 leaves the pretrained function as it is

    def attach(self, model: torch.nn.Module) -> None:
        for block in self.chosen_blocks(model):
            graft(block, ShiftedBlock, shift=torch.nn.Parameter(torch.full((width(block),), self.start)))


backbone = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"]
backbone = [*backbone, "backbone.kwargs={depth: 2, embed_dim: 24, num_heads: 2}", "recipe.epochs=1"]
backbone = backbone if "--tiny" in sys.argv else ["recipe.epochs=5"]
with tempfile.TemporaryDirectory() as folder:
    trained = train(compose_config(["method=shift", "method.blocks=last 2", f"output_dir={folder}", *backbone]))
    print(f"top-1 {trained.row.top1:.1f} %, {trained.row.params_trained:,} parameters train")
    print("loaded again:", vp.load(trained.folder, device="cpu").adapter_info.methods)
