"""The head of the class token and the mean of the patches: what it reads, saves, refuses, and how it is solved for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import FAMILIES, MORE, images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.inference.predictor import Predictor
from vision_peft.training.trained import train
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_tokens import ClassMeanLinear
from vision_peft.tuning.pool_tokens import has_class_token, pool_tokens

EVERY = {**FAMILIES, **MORE}


def with_head(family: str, *methods: vp.Method) -> Any:
    model = vp.replace_head(tiny(family), "class_mean", 3)
    for method in methods or (vp.LinearProbe(),):
        vp.attach(model, method)
    randomise_tuned(model)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_it_reads_both_on_every_family_that_has_a_class_token(family: str) -> None:
    if not has_class_token(bare := tiny(family)):
        with pytest.raises(ValueError, match=r"reads the class token, and this .* has none: head=linear"):
            vp.replace_head(bare, "class_mean", 3)
        assert vp.count_parameters(bare).head == vp.count_parameters(tiny(family)).head
        return
    model = with_head(family, vp.LoRA(rank=2))
    x = images(model)
    expected = torch.cat([pool_tokens(model, x, which) for which in ("class", "patches")], 1)
    found = Predictor(model, "cpu").forward(x)
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-5)
    heads = [model.get_submodule(name) for name in classifier_names(model)]
    assert all(type(head) is ClassMeanLinear for head in heads)
    logits = torch.stack([head(expected) for head in heads]).mean(0)
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prompts_count_as_neither_and_frames_are_averaged() -> None:
    model = with_head("vit", vp.VPT(tokens=3, deep=False))
    x = images(model)
    tokens = model.forward_features(x)
    torch.testing.assert_close(model(x), model.head(torch.cat([tokens[:, 0], tokens[:, 4:].mean(1)], 1)))
    model = with_head("frames")
    x = images(model)
    tokens = model.forward_features(x).unflatten(0, (len(x), -1))  # B T N D
    pooled = torch.cat([tokens[:, :, 0], tokens[:, :, 1:].mean(2)], -1).mean(1)
    torch.testing.assert_close(model(x), model.head(pooled))


def test_it_is_saved_loaded_replaced_and_taken_off(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bare = tiny("vit")
    before = bare(images(bare))
    model = vp.attach(vp.replace_head(bare, "class_mean", 3), vp.LoRA(rank=2))
    randomise_tuned(model)
    x, answers = images(model), model.eval()(images(model))
    assert vp.count_parameters(model).head == 2 * 32 * 3 + 3
    vp.save_adapter(model, tmp_path / "adapter")
    torch.manual_seed(0)
    other: Any = tiny("vit")
    other.reset_classifier(3)
    again: Any = vp.load_adapter(other, tmp_path / "adapter").eval()
    assert torch.equal(again(x), answers)
    with pytest.raises(ValueError, match="cannot merge a head of the class token and the mean of the patches"):
        vp.merge(again)
    vp.replace_head(again, "linear", 3)
    assert again.head.in_features == 32
    vp.detach(model)
    assert torch.equal(model.eval()(x), before)


def test_it_is_solved_for_on_kept_features(tiny: Callable[..., Config]) -> None:
    config = tiny("method=linear", "recipe=lbfgs", "recipe.head=class_mean", "recipe.epochs=3")
    row = train(config).row
    model = vp.load(run_folder(config))
    assert (row.head, row.reused_features) == ("class_mean", True)
    assert row.params_head == (2 * model.num_features + 1) * len(row.per_class)
