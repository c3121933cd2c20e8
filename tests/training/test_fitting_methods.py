"""Methods that are not for a kind of task, or would leave nothing to train, are refused before weights are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mask_files import write_depths, write_set
from support.tiny_run import tiny_config
from torch import nn

import vision_peft.training.trained as module
from vision_peft.benchmarks.measure_costs import check_configs
from vision_peft.benchmarks.pipeline_and_updates import measure_steps, run_updates
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.search.candidates import Candidate
from vision_peft.search.compare import Contest
from vision_peft.search.trials import tune_and_test
from vision_peft.training.step import create_optimizer
from vision_peft.training.trained import train

LABELS = {
    "multilabel": ("red", "red;green", ""),
    "ordinal": ("0", "1", "2"),
    "regression": ("0.5", "1", "4"),
    "embedding": ("red", "green", "blue"),
    "classes": ("red", "green", "blue"),
}
Configure = Callable[..., Config]


def write_kind(photos: Path, folder: Path, kind: str) -> list[str]:
    """Write lists of photographs for a kind of task, or images with masks or depths; the words that read them."""
    if kind in ("segmentation", "depth"):
        root = (write_set if kind == "segmentation" else write_depths)(folder / kind, {"train": 4, "val": 2, "test": 2})
        return [f"data={kind}", f"data.root={root}", "recipe.head=seg_linear"]
    for split, count in {"train": 8, "val": 4, "test": 4}.items():
        lines = [
            f"{photos}/{split}/{name}/{place}.png,{label}"
            for place in range(count)
            for name, label in zip(("red", "green", "blue"), LABELS[kind], strict=True)
        ]
        (folder / f"{split}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    files = [f"data.{split}={split}.csv" for split in ("train", "val", "test")]
    return ["data=list", f"data.root={folder}", *files, f"data.task_kind={kind}", "data.allow_absolute=true"]


@pytest.fixture
def configure(photos: Path, tmp_path: Path) -> Configure:
    def configure(kind: str, *words: str) -> Config:
        return tiny_config(photos, tmp_path / "runs", *write_kind(photos, tmp_path, kind), *words)

    return configure


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: Any) -> None:
        raise AssertionError("the backbone is loaded")

    monkeypatch.setattr(module, "create_bare_model", load)


@pytest.mark.parametrize("kind", ["multilabel", "ordinal", "regression", "embedding", "segmentation", "depth"])
def test_neighbours_vote_on_classes_alone(kind: str, configure: Configure, unloaded: None, tmp_path: Path) -> None:
    config = configure(kind, "method=knn")
    wanted = f"^method=knn is for tasks of classes, got a task of {kind}: give another method, such as method=lora$"
    with pytest.raises(ValueError, match=wanted):
        train(config)
    with pytest.raises(ValueError, match=wanted):
        tune_and_test(configure(kind, "method=knn", "+grid.method.k=[1,5]"), [])
    with pytest.raises(ValueError, match=wanted):
        next(run_updates(config))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [[], ["recipe=lbfgs"], ["recipe.head_grid.lr=[1e-3,1e-2]"]])
def test_an_embedding_without_a_head_wants_a_method_that_trains(
    words: list[str], configure: Configure, unloaded: None
) -> None:
    config = configure("embedding", "method=linear", *words)
    wanted = "^nothing would be trained: method=linear trains a head alone, and a task of embedding has none here: "
    wanted += "give recipe.embedding_width=128, or a method that trains, such as method=lora$"
    with pytest.raises(ValueError, match=wanted):
        train(config)
    with pytest.raises(ValueError, match=wanted):
        next(run_updates(config))
    with pytest.raises(AssertionError, match="the backbone is loaded"):
        train(configure("embedding", "method=linear", "recipe.embedding_width=8"))


def test_a_comparison_leaves_out_what_is_not_for_the_task(photos: Path, tmp_path: Path) -> None:
    words = [*write_kind(photos, tmp_path, "embedding"), f"output_dir={tmp_path / 'runs'}", "device=cpu", "trackers=[]"]
    knn, linear = (Candidate(name, (f"method={name}",)) for name in ("knn", "linear"))
    contest = Contest(words, [knn, linear], [((1, 1),)], 60.0, None, lambda line: None)
    with pytest.raises(ValueError, match="none of the methods can be trained here: knn: method=knn is for tasks"):
        contest.measure()
    assert [each.progress.state for each in contest.all] == ["skipped", "skipped"]
    assert contest.all[1].progress.why.startswith("nothing would be trained")


def test_an_optimiser_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="nothing would be trained: the method has no parameters on this backbone"):
        create_optimizer(nn.Linear(2, 2).requires_grad_(False), Recipe())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=linear", "recipe=lbfgs"], "recipe.optimizer=lbfgs solves for a head and makes no updates to time"),
        (["method=knn"], "method=knn trains nothing, so there are no updates to time"),
        (["method=linear", "recipe.head_grid.lr=[1e-3,1e-2]"], "recipe.head_grid trains several heads at once"),
    ],
)
def test_a_training_without_such_updates_is_not_timed(words: list[str], message: str, configure: Configure) -> None:
    plain, other = configure("classes"), configure("classes", *words)
    with pytest.raises(ValueError, match=f"^{message}"):
        measure_steps({"plain": plain, "other": other}, updates=1)
    if "method=knn" not in words:
        with pytest.raises(ValueError, match=f"^{message}"):
            check_configs([plain, other])  # of the cost table
