"""Metric learning: trained from pairs, chosen by a search of val, used on classes that it never saw."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support.killed import killed_at
from support.tiny_run import left_behind, tiny_config

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.retrieval.score import score_retrieval
from vision_peft.tasks.embedding import PairLoss
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

pytest.importorskip(
    "pytorch_metric_learning", reason="needs pytorch-metric-learning: pip install 'vision_peft[metric]'"
)


def write_lists(photos: Path, folder: Path) -> list[str]:
    """Lists of photographs: red and green to learn from, blue and red in val, blue alone beside one green in test."""
    parts = {
        "train": [("train", "red", 8), ("train", "green", 8)],
        "val": [("val", "red", 4), ("val", "blue", 4)],
        "test": [("test", "blue", 6), ("test", "green", 1)],
    }
    for part, chosen in parts.items():
        lines = [
            f"{photos}/{split}/{name}/{place}.png,{name}" for split, name, count in chosen for place in range(count)
        ]
        (folder / f"{part}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    data = [f"data.{part}={part}.csv" for part in parts]
    return ["data=list", f"data.root={folder}", *data, "data.task_kind=embedding", "data.allow_absolute=true"]


@pytest.fixture
def configure(photos: Path, tmp_path: Path) -> Any:
    words = write_lists(photos, tmp_path)

    def configure(*overrides: str, folder: str = "runs") -> Config:
        return tiny_config(photos, tmp_path / folder, *words, *overrides)

    return configure


@pytest.fixture
def other_classes(photos: Path, tmp_path: Path) -> Path:
    """A tree of class folders, of which val and test have a class that train does not have."""
    for split, names in {"train": ("red", "green"), "val": ("red", "blue"), "test": ("blue", "green")}.items():
        for name in names:
            shutil.copytree(photos / split / name, tmp_path / "tree" / split / name)
    return tmp_path / "tree"


@pytest.mark.parametrize("width", [None, 5])
def test_a_run_learns_classes_that_test_does_not_have(configure: Any, width: int | None) -> None:
    config = configure("method=lora", f"recipe.embedding_width={'null' if width is None else width}")
    done = train(config)
    row = done.row
    assert (row.task_kind, row.metric) == ("embedding", "recall_at_1")
    assert row.top1 is None
    assert row.figures is not None
    assert row.figures["recall_at_1"] == 100, "of test only blue can be found, and nothing else is near"
    assert done.model.num_classes == (width or 0)
    again = evaluate_saved(done.folder, ["split=test"])
    assert again.metrics.figures == pytest.approx(row.figures)
    test = config.data.load("test")
    paths = [test.path(index) for index in range(len(test))]
    features = vp.embed(done.folder, paths, device="cpu", exif_rotation=False)
    assert features.shape == (7, width or 24)
    score = score_retrieval(features, torch.tensor(list(test.labels)), at=(1, 5))
    assert row.figures["map_at_r"] == pytest.approx(score.map_at_r)
    assert score.unanswerable == 1


def test_a_killed_run_resumes_bit_for_bit(configure: Any) -> None:
    changes = ["method=lora", "method.dropout=0.3", "save_every=1", "recipe.images_per_class=2", "recipe.batch_size=4"]
    changes += ["recipe.augment=crop_flip"]
    whole, killed = configure(*changes, folder="whole"), configure(*changes, folder="killed")
    train(whole)
    killed_at((6, 0), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


def test_batches_are_made_of_pairs_by_default(configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    forward = PairLoss.forward
    monkeypatch.setattr(
        PairLoss, "forward", lambda self, out, labels: seen.append(labels.tolist()) or forward(self, out, labels)
    )
    train(configure("method=lora", "recipe.epochs=1"))
    assert [sorted(Counter(labels).values()) for labels in seen] == [[4, 4], [4, 4]]


def test_folders_of_val_and_test_may_have_other_classes(other_classes: Path, tmp_path: Path) -> None:
    refused = tiny_config(other_classes, tmp_path / "runs")
    with pytest.raises(ValueError, match="class 'blue' is not among the 2 classes of train"):
        refused.data.load("train")
    config = tiny_config(other_classes, tmp_path / "runs", "data.task_kind=embedding")
    assert config.data.load("test").classes == ["blue", "green", "red"]
    done = train(config)
    assert done.row.figures is not None
    assert set(done.row.figures) == {"recall_at_1", "recall_at_5", "map_at_r", "r_precision", "knn"}
    with pytest.raises(ConfigError, match=r"data\.task_kind must be one of classes, embedding, got 'ordinal'"):
        tiny_config(other_classes, tmp_path / "runs", "data.task_kind=ordinal")


def test_its_adapter_names_no_classes(configure: Any) -> None:
    folder = train(configure("method=lora", "recipe.epochs=1", "recipe.embedding_width=4")).folder
    predictor = vp.Predictor(folder, "cpu")
    assert (predictor.names_classes, predictor.features_of) == (False, "output")
    with pytest.raises(ValueError, match="has no head for classes"):
        predictor.logits([])
    assert vp.Predictor(folder, "cpu", features="head").features([]).shape == (0, 24)


def test_a_dry_run_passes(configure: Any) -> None:
    train(configure("method=lora", "dry_run=true"))
