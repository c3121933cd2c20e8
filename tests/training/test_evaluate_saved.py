"""Evaluating what a run left: the same figures, other data, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.results.row import Row
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train
from vision_peft.tuning.frame_attention import FRAMES

Tiny = Callable[..., Config]


def run(config: Config) -> tuple[Row, Path]:
    return train(config).row, run_folder(config)


@pytest.mark.parametrize("name", [name for name, method in vp.METHODS.items() if FRAMES not in method().needs])
def test_a_run_folder_gives_the_figures_that_training_reported(tiny: Tiny, name: str) -> None:
    changes = ["recipe.resize=shortest", "recipe.crop_pct=0.9", "recipe.normalisation=imagenet", "recipe.lr=1e-3"]
    row, folder = run(tiny(f"method={name}", *changes, "recipe.head=batchnorm_linear", "recipe.epochs=1"))
    done = evaluate_saved(folder, [])
    metrics = done.metrics
    assert (metrics.top1, metrics.top5, metrics.mean_per_class) == (row.top1, row.top5, row.mean_per_class)
    assert (metrics.per_class, metrics.confusion) == (row.per_class, row.confusion)
    assert evaluate_saved(folder, ["split=val"]).metrics.top1 == pytest.approx(row.val_top1)


def test_an_adapter_folder_needs_data_and_takes_the_backbone_as_given(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "backbone.pth"
    config = tiny("recipe.epochs=1")
    row, folder = run(config)
    # random weights are known by the run alone: hand them over as a file
    from torch import save

    from vision_peft.training.build import create_model

    save(create_model(config.backbone, config.seed).state_dict(), checkpoint)
    adapter = shutil.copytree(folder / "adapter", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="give data=<config>"):
        evaluate_saved(adapter, [])
    given = ["data=folder", f"data.root={photos}", f"backbone.checkpoint={checkpoint}"]
    size = ["backbone.kwargs.depth=2", "backbone.kwargs.embed_dim=24", "device=cpu", "workers=0"]
    assert evaluate_saved(adapter, [*given, *size]).metrics.top1 == row.top1


def test_what_cannot_be_evaluated_is_refused_with_the_reason(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    _, folder = run(tiny("recipe.epochs=1"))
    with pytest.raises(ValueError, match=r"adapter has 3 classes \(blue, green, red\), data=digits has 10 \(0, 1, "):
        evaluate_saved(folder, ["data=digits"])
    with pytest.raises(ConfigError, match=r"unknown key splt \(did you mean split\?\)"):
        evaluate_saved(folder, ["splt=val"])
    with pytest.raises(ConfigError, match=r"data.rooot: did you mean data.root\?"):
        evaluate_saved(folder, ["data.rooot=x"])
    with pytest.raises(ValueError, match=r"data=foldr: no such config \(did you mean folder\?\)"):
        evaluate_saved(folder, ["data=foldr"])
    with pytest.raises(ValueError, match="split"):
        evaluate_saved(folder, ["split=tset"])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        evaluate_saved(tmp_path / "nowhere", [])
    with pytest.raises(
        FileNotFoundError, match=r"neither a run folder nor an adapter.*; below it are the runs .*: name"
    ):
        evaluate_saved(folder.parent, [])
    with pytest.raises(ValueError, match="another backbone"):
        evaluate_saved(folder, ["backbone.kwargs.depth=3"])
    shutil.rmtree(folder / "adapter")
    with pytest.raises(FileNotFoundError, match="no adapter yet"):
        evaluate_saved(folder, [])
