"""ViT blocks with several attentions side by side, then several MLPs: timm's ``ParallelThingsBlock``."""

from typing import Any

import torch
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor

from vision_peft.tuning.families.family import Branch, Run, first_tokens
from vision_peft.tuning.families.vit import ViT


class ParallelThingsViT(ViT):
    """The blocks; their models are those of ``vit.py``. Each branch has a norm, LayerScale and drop-path of its own."""

    model_classes = ()
    block_classes = (ParallelThingsBlock,)
    attention_classes = ()

    def width(self, block: Any) -> int:
        return block.attns[0].attn.proj.out_features

    def heads(self, block: Any) -> int:
        return block.attns[0].attn.num_heads

    def branches(self, block: Any, half: str) -> list[Branch]:
        if half == "attn":
            return [Branch(parts.norm, parts.attn, parts.drop_path) for parts in block.attns]
        return [Branch(parts.norm, parts.mlp, parts.drop_path) for parts in block.ffns]

    def norms(self, block: Any) -> list[Any]:
        return [parts.norm for parts in (*block.attns, *block.ffns)]

    def landmarks(self, block: Any) -> list[Any]:
        return [*self.norms(block), *(parts.attn.proj for parts in block.attns)]

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        outputs = [parts.drop_path(parts.ls(parts.attn(parts.norm(x), **kwargs))) for parts in block.attns]
        return first_tokens(x, **kwargs) + torch.stack(outputs).sum(dim=0)

    def mlp_half(self, block: Any, x: Tensor, run: Run | None = None) -> Tensor:
        return x + torch.stack([parts(x) if run is None else run(parts, x) for parts in block.ffns]).sum(dim=0)
