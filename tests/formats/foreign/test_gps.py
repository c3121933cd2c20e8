"""Checkpoints of the official GPS code with their masks: the trained values, the same logits, masks that do not fit."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from support.families import images, randomise_tuned
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vision_peft as vp

HEADS = 3
TINY: dict[str, Any] = {
    "img_size": 24,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": HEADS,
    "mlp_ratio": 2.0,
}


@pytest.fixture(scope="module")
def official() -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """What the official code has after training: the model's tensors, the mask, and the model."""
    torch.manual_seed(0)
    model = VisionTransformer(**TINY, num_classes=5).eval()
    frozen = ("norm", "pos_embed", "cls_token")
    mask = {}
    for name, parameter in model.named_parameters():
        rows = torch.ones(parameter.shape)
        if "head" in name or ("bias" in name and "norm" not in name):
            rows = torch.zeros(parameter.shape)
        elif not any(part in name for part in frozen):
            rows = rows.flatten(1).scatter(1, torch.rand(rows.flatten(1).shape).topk(2).indices, 0).view_as(parameter)
        mask[name] = rows
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, mask, model


def test_what_the_mask_lets_train_is_read_and_the_rest_is_the_backbone(official):
    state, mask, model = official
    foreign = vp.read_foreign({"state_dict": state}, "gps", mask=mask)
    assert (foreign.method, foreign.num_classes) == (vp.GPS(per_neuron=2), 5)
    built = foreign.build(HEADS)
    x = images(built)
    torch.testing.assert_close(built(x), model(x), rtol=1e-5, atol=1e-6)
    own = foreign.tuned["blocks.1.mlp.fc2.gps.index"].long()
    zeros = torch.ones(24, 48).scatter(1, own, 0)
    assert torch.equal(zeros, mask["blocks.1.mlp.fc2.weight"])
    tuned = dict(vp.tuned_parameters(built))
    assert sum(p.numel() for p in tuned.values()) == sum(int((m == 0).sum()) for m in mask.values())


def test_the_values_alone_bring_the_task_to_the_pretrained_backbone(official):
    state, mask, model = official
    pretrained = VisionTransformer(**TINY, num_classes=5).eval()
    pretrained.load_state_dict({name: tensor + 0.1 * (mask[name] == 0) for name, tensor in state.items()})
    foreign = vp.read_foreign(state, "gps", mask=mask)
    x = images(pretrained)
    assert (pretrained(x) - model(x)).abs().max() > 0.01
    vp.load_tuned(vp.attach(pretrained, vp.GPS(per_neuron=2), samples=[(x, torch.tensor([1, 1]))]), foreign.tuned)
    torch.testing.assert_close(pretrained(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_golden_steps_end_in_a_file_that_is_read(shared):
    file = safetensors.torch.load_file(shared / "golden" / "gps_model.safetensors")
    with safetensors.safe_open(shared / "golden" / "gps_model.safetensors", "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    mask = {name.removeprefix("mask/"): t for name, t in file.items() if name.startswith("mask/")}
    base = {name.removeprefix("base/"): t for name, t in file.items() if name.startswith("base/")}
    model = vp.read_foreign(base, "gps", mask=mask).build(config["arch"]["num_heads"])
    optimizer = torch.optim.SGD([p for _, p in vp.tuned_parameters(model)], lr=config["sgd"]["lr"])
    F.cross_entropy(model(file["input"]), file["target"]).backward()
    optimizer.step()
    assert (model(file["input"]) - file["logits_sgd"]).abs().max() <= 1e-5


def test_a_mask_is_read_from_a_file_too(official, tmp_path):
    state, mask, model = official
    torch.save(mask, tmp_path / "mask.pth")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "model.pth.tar")
    built = vp.read_foreign(tmp_path / "model.pth.tar", "gps", mask=tmp_path / "mask.pth").build(HEADS)
    randomise_tuned(built)
    assert (built(images(built)) - model(images(built))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm.weight": None}, r"mask of the shape of every tensor.*norm\.weight"),
        ({"blocks.9.norm1.weight": torch.ones(24)}, r"mask of the shape of every tensor.*blocks\.9\.norm1\.weight"),
        ({"norm.weight": torch.ones(2)}, r"mask of the shape of every tensor.*norm\.weight"),
        ({"blocks.0.attn.proj.weight": torch.eye(24).roll(1, 0).tril()}, "equally often in every row of blocks.0.attn"),
        ({"norm.weight": torch.arange(24.0)}, "equally often in every row of norm.weight"),
        ({"blocks.0.attn.proj.weight": 1 - torch.eye(24)}, r"equally many weights of every neuron; got \[1, 2\]"),
    ],
    ids=["missing", "unknown", "shape", "uneven", "part of a vector", "two numbers"],
)
def test_masks_that_do_not_fit_are_refused(change, reason, official):
    state, mask, _ = official
    mask = {name: tensor for name, tensor in {**mask, **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(state, "gps", mask=mask)


def test_without_a_mask_nothing_is_read(official):
    with pytest.raises(ValueError, match=r"gps needs the keyword mask \(tensors by name, 0 where a weight trained"):
        vp.read_foreign(official[0], "gps")
    with pytest.raises(ValueError, match=r"mask: wanted tensors by name, or a file of them; got dict"):
        vp.read_foreign(official[0], "gps", mask={"norm.weight": 1})
