"""Other ways to the same methods, to compare with: another library's, and those of published code written out.

Each takes a frozen timm model with a head that trains and gives what is called in its place.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.benchmarks.plain_loop import freeze_but_head
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.blocks import attn_half, blocks, branches, width


def apply_hf_lora(model: Any, rank: int = 8) -> nn.Module:
    """Let Hugging Face's PEFT put LoRA on the fused projection of queries, keys and values."""
    with _quiet("torch.utils._pytree"):  # to which torchao, that peft imports, gives cause for warnings
        from peft import LoraConfig, get_peft_model

    heads = list(classifier_names(model))
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"], modules_to_save=heads)
    return get_peft_model(model, settings)


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)


def insert_prompts(model: Any, tokens: int = 50) -> nn.Module:
    """Put prompts among the tokens of every block, in place of those of the block before, as VPT's own code does."""
    layers = blocks(model)
    first = model.num_prefix_tokens
    prompts = nn.ParameterList(nn.Parameter(torch.empty(tokens, width(block)).uniform_(-0.1, 0.1)) for block in layers)
    model.prompts = prompts

    def insert(x: Tensor, number: int) -> Tensor:
        rest = x[:, first + (tokens if number else 0) :]
        return torch.cat([x[:, :first], prompts[number].expand(len(x), -1, -1), rest], dim=1)

    for number, block in enumerate(layers):
        block.register_forward_pre_hook(lambda _, args, number=number: (insert(args[0], number), *args[1:]))
    layers[-1].register_forward_hook(lambda _, __, x: torch.cat([x[:, :first], x[:, first + tokens :]], dim=1))
    return model


class _AdapterBesideMLP(nn.Module):
    """A block x ← x + attn(x); x ← x + MLP(LN x) + s · up dropout(ReLU(down x)), an operation a line."""

    def __init__(self, block: Any, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale
        self.down = nn.Linear(width(block), bottleneck)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck, width(block))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = attn_half(self.block, x, **kwargs)
        adapted = self.down(x)
        adapted = torch.relu(adapted)
        adapted = self.dropout(adapted)
        adapted = self.up(adapted)
        adapted = adapted * self.scale
        (mlp,) = branches(self.block, "mlp")
        transformed = mlp.drop_path(mlp.layer(mlp.norm(x)))
        transformed = transformed + adapted
        return x + transformed


def write_out_adaptformer(model: Any, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1) -> nn.Module:
    """Replace every block by one with AdaptFormer's branch written out, as the paper describes it."""
    layers = {id(block) for block in blocks(model)}
    named = [(name, block) for name, block in model.named_modules() if id(block) in layers]
    for name, block in named:
        model.set_submodule(name, _AdapterBesideMLP(block, bottleneck, scale, dropout))
    return model


def apply_peer(peer: str, model: Any) -> nn.Module:
    """Freeze a timm model but for its head, and let a peer add what trains beside it.

    Raises:
        ValueError: the peer does not fit the model.
    """
    return APPLY[peer](freeze_but_head(model))


APPLY: dict[str, Callable[[Any], nn.Module]] = {  # of each of `plan.PEERS`
    "hf_lora": apply_hf_lora,
    "vpt_inserted": insert_prompts,
    "adaptformer_written_out": write_out_adaptformer,
}
