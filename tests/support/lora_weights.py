"""The weights that LoRA and DoRA stand for, written out."""

from typing import Any

import torch
from support.families import images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp

SCALE = 3 / 2  # alpha / rank of the LoRAs here


def dense_reference(family: str, model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A plain model whose weights hold W + (α / r) B A, and those weights (leaves that gather gradients)."""
    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if ".lora." not in n})
    state, weights = model.state_dict(), {}
    for name in {n.split(".lora.")[0] for n in state if ".lora." in n}:
        linear: Any = plain.get_submodule(name)
        update = torch.zeros_like(linear.weight)
        lora = {n.removeprefix(f"{name}.lora."): t for n, t in state.items() if n.startswith(f"{name}.lora.")}
        if "B" in lora:
            shared = name.replace("k_proj", "q_proj").replace("v_proj", "q_proj")
            update = lora["B"] @ lora.get("A", state.get(f"{shared}.lora.A")) * SCALE
        else:
            for s in {n.split(".")[0] for n in lora}:
                update.chunk(3)["qkv".index(s)].copy_(lora[f"{s}.B"] @ lora[f"{s}.A"] * SCALE)
        with torch.no_grad():
            linear.weight += update
        weights[name] = linear.weight
    return plain, weights


def decomposed(weight: Tensor, A: Tensor, B: Tensor, magnitude: Tensor, scaling: float) -> Tensor:
    """m (W + s B A) / ‖W + s B A‖ row by row, with the norm out of the gradient."""
    updated = weight + scaling * B @ A
    rows = [m * row / row.detach().square().sum().sqrt() for m, row in zip(magnitude, updated, strict=True)]
    return torch.stack(rows)


def random_lora(family: str, **fields: Any) -> Any:
    """A tiny model of `family` with a LoRA of rank 2 and random factors."""
    model = vp.attach(tiny(family), vp.LoRA(**{"rank": 2, **fields}))
    randomise_tuned(model)
    return model


def assert_merges_exactly(model: nn.Module) -> None:
    """Merging leaves the outputs as they are."""
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)
