"""Feature maps are computed once where a head for maps is all that learns: the same losses and figures as without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.mask_files import halves, write_mask, write_set
from support.tiny_run import TINY

from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.training.trained import Trained, train

HEAD = ["method=linear", "recipe.head=seg_linear", "recipe.lr=0.01"]


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("masks"), {"train": 12, "val": 5, "test": 3}, size=(40, 24))


def configure(root: Path, output_dir: Path, *overrides: str) -> Config:
    given = [*TINY, "data=segmentation", f"data.root={root}", f"output_dir={output_dir}", "trackers=[]"]
    return compose_config([*given, *HEAD, *overrides])


def log_of(trained: Trained) -> str:
    return (trained.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "head", [["recipe.head=seg_linear"], ["recipe.head=seg_multi", "recipe.head_options.layers=2"]]
)
def test_losses_and_figures_are_those_of_images_in_every_epoch(head: list[str], masks: Path, tmp_path: Path) -> None:
    kept, plain = (
        train(configure(masks, tmp_path / name, *head, *own))
        for name, own in (("kept", []), ("plain", ["reuse_features=false"]))
    )  # exact by default
    assert "only the head learns: the features of 17 images were computed once" in log_of(kept)
    assert "computed once" not in log_of(plain)
    assert kept.row.reused_features
    assert [entry["train_loss"] for entry in kept.row.curve] == pytest.approx(
        [entry["train_loss"] for entry in plain.row.curve], rel=1e-6
    )
    assert [entry["val_miou"] for entry in kept.row.curve] == [entry["val_miou"] for entry in plain.row.curve]
    assert kept.row.figures == plain.row.figures


@pytest.mark.parametrize("weights", ["balanced", "effective"])
@pytest.mark.parametrize("method", [["method=linear"], ["method=lora", "method.blocks=last 1"]], ids=["linear", "lora"])
@pytest.mark.parametrize("sizes", ["one", "several"])
def test_classes_weigh_what_they_weigh_in_every_epoch(
    sizes: str, method: list[str], weights: str, tmp_path: Path
) -> None:
    root = write_set(tmp_path / "set", {"train": 8, "val": 3, "test": 2}, size=(40, 24))
    for path in (root / "masks").iterdir():  # a quarter of the pixels is of the second class
        write_mask(path, np.roll(halves((40, 24)) * halves((24, 40)).T, int(path.stem), 1), palette=True)
    for path in [root / "images" / "000.jpg", root / "masks" / "000.png"] * (sizes == "several"):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path)
    given = ["recipe.epochs=1", *method, f"recipe.class_weights={weights}", "recipe.effective_beta=0.9995"]
    kept, plain, even = (
        train(configure(root, tmp_path / name, *given, *own))
        for name, own in (
            ("kept", []),
            ("plain", ["reuse_features=false"]),
            ("even", ["recipe.class_weights=null"]),
        )
    )
    assert "computed once" in log_of(kept)
    assert kept.row.curve[0]["train_loss"] == pytest.approx(plain.row.curve[0]["train_loss"], rel=1e-6)
    assert kept.row.curve[0]["train_loss"] != pytest.approx(even.row.curve[0]["train_loss"], rel=1e-6)


@pytest.mark.parametrize(
    "own",
    [
        ["method=lora", "method.blocks=last 1", "recipe.head=seg_multi", "recipe.head_options.layers=2"],
        ["recipe.window=true", "recipe.resize=shortest"],
        ["recipe.augment=flip"],
    ],
)
def test_they_are_computed_in_every_epoch_elsewhere(own: list[str], masks: Path, tmp_path: Path) -> None:
    trained = train(configure(masks, tmp_path, *own, "recipe.epochs=1", "read_test=false"))
    assert "computed once" not in log_of(trained)


@pytest.mark.parametrize("words", [[], ["recipe.window=true", "recipe.resize=shortest", "recipe.augment=flip"]])
def test_every_head_for_maps_learns_what_it_learns_alone(words: list[str], masks: Path, tmp_path: Path) -> None:
    grid = "recipe.head_grid={lr: [1e-5, 3e-2]}"
    together = train(configure(masks, tmp_path / "grid", *words, grid))
    alone = [train(configure(masks, tmp_path / lr, *words, f"recipe.lr={lr}")) for lr in ("1e-5", "3e-2")]
    worse, best = sorted(alone, key=lambda each: each.row.val_figure or 0.0)
    assert worse.row.val_figure != best.row.val_figure  # val has something to choose
    assert together.row.lr == best.row.lr
    assert together.row.val_figure == best.row.val_figure
    assert together.row.figures == best.row.figures
    found, wanted = (load_file(each.folder / "adapter" / "adapter.safetensors") for each in (together, best))
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
