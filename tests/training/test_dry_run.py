"""A dry run on several nodes, whose temporary folders are not each other's."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.pair import in_two_processes
from support.tiny_clips import clips_config
from support.tiny_run import tiny_config

from vision_peft.config.find_configs import find_configs
from vision_peft.formats import adapter_folder
from vision_peft.runs import checkpoint
from vision_peft.training.trained import train

METHODS = sorted(path.stem for path in (find_configs() / "method").glob("*.yaml"))


def dry_run(rank: int, folder: Path) -> list[Any]:
    """A dry run in which the process of rank 1 can read nothing that was saved."""
    config = tiny_config(folder / "photos", folder / "runs", "dry_run=true")

    def unreadable(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("this is another machine")

    if rank:
        mock.patch.object(checkpoint, "read_state", unreadable).start()
        mock.patch.object(adapter_folder, "read_tensors", unreadable).start()
    row = train(config).row
    return [row.n_train, row.world_size]


def test_what_rank_0_saved_for_a_moment_is_read_by_rank_0_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    first, second = in_two_processes(dry_run, tmp_path)
    assert first["given"] == second["given"] == [8, 2]
    assert "dry run passed" in first["out"]
    assert "-seed0" not in first["out"].splitlines()[-2]  # the folder that is gone is not said to be the result
    assert not list(tmp_path.glob("dry-run-*"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("made", [False, True])
def test_it_runs_beside_the_folder_of_the_runs_and_not_elsewhere(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    if made:
        (tmp_path / "deep" / "runs").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    train(tiny_config(photos, tmp_path / "deep" / "runs", "dry_run=true"))
    assert [path.name for path in tmp_path.rglob("*")] == (["deep", "runs"] if made else [])


@pytest.mark.parametrize(
    "words",
    [["recipe.head=batchnorm_linear"], ["recipe.head=attentive", "recipe.head_options.queries=2", "recipe.ema=0.5"]],
    ids=["batchnorm", "attentive"],
)
def test_it_passes_for_several_heads(photos: Path, tmp_path: Path, words: list[str]) -> None:
    grid = "recipe.head_grid={lr: [1e-3, 1e-2], weight_decay: [0.0, 0.1]}"
    train(tiny_config(photos, tmp_path / "runs", "method=linear", grid, "dry_run=true", *words))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*no training image")
def test_it_passes_for_every_method(photos: Path, tmp_path: Path, method: str) -> None:
    words = f"method={method}", "dry_run=true"
    try:
        train(tiny_config(photos, tmp_path / "runs", *words))
    except ValueError as error:
        if "works on the frames of a clip" not in str(error):
            raise
        train(clips_config(tmp_path / "runs", *words, "backbone.tubelet_size=null"))
