"""A head that trains on features computed once learns what it learns on images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data.loading.loader import eval_loader
from vision_peft.distributed.device import Compute
from vision_peft.distributed.stopping import StopRequests
from vision_peft.protocols import PHASES
from vision_peft.runs.run import Run
from vision_peft.tasks.classes import Classes
from vision_peft.training import build
from vision_peft.training.cached_features import Features, cached_features, features_are_constant
from vision_peft.training.progress import Training
from vision_peft.training.trained import train
from vision_peft.tuning import graft

Tiny = Callable[..., Config]
CPU = Compute(torch.device("cpu"), "fp32")
PHASE = PHASES["val_select"][0]


def prepared(config: Config) -> tuple[Any, dict[str, Any]]:
    splits = build.load_splits(config)
    model = build.create_model(config.backbone, config.seed)
    build.set_transforms(splits, build.input_settings(model, config.recipe), config.recipe)
    return build.attach_methods(model, config, splits["train"], len(splits["train"].classes), CPU.device), splits


def training(config: Config, splits: dict[str, Any]) -> Training:
    run = Run(config, run_folder(config))
    task = Classes(splits["train"].classes)
    return Training(config, CPU, run, splits, task, {"size": (32, 32)}, command="", requests=StopRequests(None))


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that went through the patch embedding."""
    from timm.layers import PatchEmbed

    sizes: list[int] = []
    real = PatchEmbed.forward
    monkeypatch.setattr(PatchEmbed, "forward", lambda self, x: sizes.append(len(x)) or real(self, x))
    return sizes


@pytest.mark.parametrize("head", ["linear", "batchnorm_linear", "mlp-2"])
def test_the_head_learns_the_same_with_and_without(tiny: Tiny, head: str) -> None:
    settings = "method=linear", f"recipe.head={head}", "recipe.lr=1e-2"
    reused, plain = tiny(*settings), tiny(*settings, "reuse_features=false", folder="plain")
    assert train(reused).row.top1 == train(plain).row.top1
    ours, theirs = (load_file(run_folder(c) / "adapter" / "adapter.safetensors") for c in (reused, plain))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


def test_the_backbone_sees_every_image_once_and_the_test_split_at_the_end(tiny: Tiny, forwards: list[int]) -> None:
    train(tiny("method=linear", "recipe.epochs=4"))
    # a blank image that tells the size of features, train, val, val again for the temperature, test, and the one image
    # whose FLOPs are counted
    assert sum(forwards) == 1 + 24 + 24 + 24 + 24 + 1
    forwards.clear()
    train(tiny("method=linear", "recipe.epochs=4", "reuse_features=false", folder="plain"))
    assert sum(forwards) == 4 * (24 + 24) + 24 + 24 + 1


def test_retraining_computes_the_features_of_its_own_images(tiny: Tiny, forwards: list[int]) -> None:
    train(tiny("method=linear", "protocol=val_select_retrain"))
    assert sum(forwards) == 1 + 24 + 24 + 1 + 48 + 24 + 1


def test_it_says_what_was_computed(tiny: Tiny) -> None:
    config = tiny("method=linear")
    train(config)
    assert "the features of 48 images were computed once, 0.0 MB" in (run_folder(config) / "log.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        (["method=linear"], True),
        (["method=linear", "recipe.normalisation=half", "recipe.label_smoothing=0.1"], True),
        (["method=lora"], False),
        (["method=norm_tuning"], False),
        (["method=linear", "+method_2=vpt"], False),
        (["method=linear", "recipe.augment=flip"], False),
        (["method=linear", "recipe.random_erasing=0.5"], False),
        (["method=linear", "recipe.mixup=0.2"], False),
        (["method=linear", "recipe.cutmix=1.0"], False),
        (["method=linear", "recipe.frozen_mode=train", "recipe.drop_path=0.1"], False),
    ],
)
def test_features_are_reused_where_only_the_head_learns_from_images_that_never_change(
    tiny: Tiny, settings: list[str], same: bool
) -> None:
    config = tiny(*settings)
    splits = build.load_splits(config)
    model = build.create_model(config.backbone, config.seed, config.recipe.drop_path)
    assert (
        features_are_constant(
            config, build.attach_methods(model, config, splits["train"], len(splits["train"].classes), CPU.device)
        )
        is same
    )


def test_a_model_with_two_heads_keeps_its_images(tiny: Tiny) -> None:
    model = vp.create_backbone("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, embed_dim=24, depth=1)
    assert not features_are_constant(tiny("method=linear"), vp.attach(model, vp.LinearProbe()))
    model = vp.attach(vp.create_backbone("volo_d1_224", num_classes=0), vp.LinearProbe())
    vp.replace_head(model, "linear", 3)  # timm makes a second one, for patches
    assert not features_are_constant(tiny("method=linear"), model)


def test_the_model_is_what_it_was_afterwards_also_after_an_error(tiny: Tiny) -> None:
    config = tiny("method=linear")
    model, splits = prepared(config)
    image = torch.randn(2, 3, 32, 32)
    expected, grafts = model.eval()(image), list(graft.grafts(model))

    def interrupted() -> None:
        with cached_features(training(config, splits), model, PHASE) as (given, _):
            assert isinstance(given.splits["train"], Features)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(graft.grafts(model)) == grafts
    assert torch.equal(model.eval()(image), expected)


def test_features_give_the_logits_of_the_images(tiny: Tiny) -> None:
    config = tiny("method=linear")
    model, splits = prepared(config)
    with torch.no_grad():
        expected = torch.cat([model.eval()(images) for images, _, _ in eval_loader(splits["val"], 7, 0)])
        with cached_features(training(config, splits), model, PHASE) as (given, _):
            batches = list(eval_loader(given.splits["val"], 7, 0))
            logits = torch.cat([model(features) for features, _, _ in batches])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == splits["val"].labels
    assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(24))


def test_with_an_undecodable_image_the_loop_decides_as_ever(tiny: Tiny) -> None:
    config = tiny("method=linear", "max_bad_fraction=0.1")
    root = Path(config.data.root)  # type: ignore[attr-defined]
    victim = sorted((root / "train" / "red").iterdir())[0]
    whole = Image.open(victim).copy()
    victim.write_bytes(b"<html>")
    try:
        train(config)
    finally:
        whole.save(victim)
    log = (run_folder(config) / "log.txt").read_text()
    assert "features are computed in every epoch: an image cannot be decoded" in log
    assert str(victim) in (run_folder(config) / "bad_files.txt").read_text()


ATTENTIVE = ["method=linear", "recipe.head=attentive", "recipe.head_options.queries=4", "recipe.lr=1e-2"]


def test_an_attentive_head_learns_from_kept_tokens_what_it_learns_from_images(tiny: Tiny, forwards: list[int]) -> None:
    reused, plain = tiny(*ATTENTIVE), tiny(*ATTENTIVE, "reuse_features=false", folder="plain")
    row = train(reused).row
    assert sum(forwards) == 1 + 24 + 24 + 24 + 24 + 1
    assert (row.reused_features, row.head, row.params_trained) == (True, "attentive queries=4", 0)
    train(plain)
    ours, theirs = (load_file(run_folder(c) / "adapter" / "adapter.safetensors") for c in (reused, plain))
    assert ours.keys() == theirs.keys()
    for name in ours:  # tokens are rounded to bf16
        assert (ours[name] - theirs[name]).float().norm() <= 0.03 * theirs[name].float().norm(), name


def test_tokens_are_kept_in_bf16_and_pooled_features_in_fp32(tiny: Tiny) -> None:
    for settings, shape, dtype in (
        (ATTENTIVE, (24, 4, 24), torch.bfloat16),
        ([*ATTENTIVE, "recipe.head_options.tokens=all"], (24, 5, 24), torch.bfloat16),
        (["method=linear"], (24, 24), torch.float32),
    ):
        config = tiny(*settings)
        model, splits = prepared(config)
        with torch.no_grad(), cached_features(training(config, splits), model, PHASE) as (given, _):
            kept = given.splits["train"].as_tensor()
            assert kept is not None
            assert (kept.shape, kept.dtype) == (shape, dtype)
            logits = torch.cat([model(features) for features, _, _ in eval_loader(given.splits["val"], 7, 0)])
        with torch.no_grad():
            expected = torch.cat([model.eval()(images) for images, _, _ in eval_loader(splits["val"], 7, 0)])
        torch.testing.assert_close(logits, expected, atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)


def test_tokens_that_do_not_fit_are_computed_in_every_epoch(tiny: Tiny, forwards: list[int]) -> None:
    row = train(tiny(*ATTENTIVE, "cache_mb=0")).row
    assert sum(forwards) == 1 + 2 * (24 + 24) + 24 + 24 + 1  # and a blank image that told how much they take
    assert not row.reused_features
    log = (run_folder(tiny(*ATTENTIVE, "cache_mb=0")) / "log.txt").read_text()
    assert (
        "features are computed in every epoch: the tokens of 48 images take 0 MB, more than the 0 MB of cache_mb=0: "
        "keep them in a file (reuse_file_mb=1)\n" in log
    )
    assert train(tiny("method=linear", "cache_mb=0", folder="pooled")).row.reused_features
