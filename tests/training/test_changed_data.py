"""Data that changes under a run: photos without split folders, one of which goes, comes or gets another name."""

import shutil
from pathlib import Path

import pytest
from support.killed import killed_at
from support.tiny_run import left_behind, tiny_config

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data import ImageDecodeError
from vision_peft.runs.run_config import read_config
from vision_peft.runs.saved_data import read_saved_data
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train


@pytest.fixture
def mixed(photos: Path, tmp_path: Path) -> Path:
    """72 photos of three classes, to be split by name."""
    root = tmp_path / "mixed"
    for path in sorted(photos.glob("*/*/*.png")):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.parent.name / f"{path.parent.parent.name}-{path.name}")
    return root


def config_of(mixed: Path, *overrides: str) -> Config:
    return tiny_config(mixed, mixed.parent / "runs", "save_every=2", *overrides)


def names_of(config: Config, split: str) -> list[str]:
    saved = read_saved_data(run_folder(config) / "data.json")
    assert saved is not None
    return [item.name for item in saved.items(split)]


def test_a_run_lists_its_data_before_it_trains(mixed: Path) -> None:
    config = config_of(mixed)
    killed_at((1, 0), config)
    names = [name for split in ("train", "val", "test") for name in names_of(config, split)]
    assert sorted(names) == sorted(str(path.relative_to(mixed)) for path in mixed.glob("*/*"))


def test_a_run_does_not_resume_on_other_training_images(mixed: Path) -> None:
    config = config_of(mixed)
    killed_at((3, 0), config)
    gone = names_of(config, "train")[0]
    before = left_behind_unfinished(config)
    kept = (mixed / gone).read_bytes()
    (mixed / gone).unlink()
    with pytest.raises(ValueError, match=rf"train: 1 removed \({gone}\)\. Nothing was changed: restore the data"):
        train(config)
    assert left_behind_unfinished(config) == before
    (mixed / gone).write_bytes(kept)
    train(config)
    whole = config_of(mixed, f"output_dir={mixed.parent / 'whole'}")
    train(whole)
    assert left_behind(run_folder(config)) == left_behind(run_folder(whole))


def left_behind_unfinished(config: Config) -> dict[str, bytes]:
    folder = run_folder(config)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_has_not_begun_takes_the_data_of_now(mixed: Path) -> None:
    config = config_of(mixed)
    killed_at((1, 0), config)  # before its first state
    gone = names_of(config, "train")[0]
    (mixed / gone).unlink()
    row = train(config).row
    assert gone not in names_of(config, "train")
    assert row.n_train == len(names_of(config, "train"))


def test_a_run_that_has_not_begun_and_takes_other_data_says_where_that_is(photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    for root in (first, second):
        shutil.copytree(photos, root)
    for path in second.glob("test/*/0.png"):
        path.unlink()
    killed_at((0, 0), tiny_config(first, tmp_path / "runs"))
    config = tiny_config(second, tmp_path / "runs")
    row = train(config).row
    assert read_config(run_folder(config))["data"]["root"] == str(second)
    assert evaluate_saved(run_folder(config)).metrics.images == row.n_test == 21


def test_a_test_image_that_was_removed_after_training_is_announced(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(mixed)
    killed_at("evaluation", config)
    gone, *left = names_of(config, "test")
    (mixed / gone).unlink()
    row = train(config).row
    words = f"the data has changed where this run has not read it yet: test: 1 removed ({gone})"
    assert words in capsys.readouterr().out
    assert words in (run_folder(config) / "log.txt").read_text()
    assert row.n_test == len(left)
    assert names_of(config, "test") == left


def test_a_finished_run_says_what_changed_since(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(mixed)
    row = train(config).row
    gone = names_of(config, "test")[0]
    capsys.readouterr()
    assert train(config).row == row
    assert "warning" not in capsys.readouterr().out
    (mixed / gone).rename(mixed / f"{gone}.png")
    assert train(config).row == row
    said = capsys.readouterr().out
    assert "is finished" in said
    assert "warning: the data has changed since: t" in said
    assert f"test: 1 removed ({gone})" in said
    shutil.rmtree(mixed)
    assert train(config).row == row
    assert "it is not known whether its data has changed: data.root=" in capsys.readouterr().out


def test_an_evaluation_says_what_changed_and_refuses_what_was_trained_on(mixed: Path) -> None:
    config = config_of(mixed)
    row, folder = train(config).row, run_folder(config)
    assert evaluate_saved(folder).metrics.top1 == row.top1
    with pytest.raises(ValueError, match=r"of \d+ items of test were trained on in .*leave them out of test"):
        evaluate_saved(folder, ["data.seed=2"])
    with pytest.raises(ValueError, match="items of test were trained on"):  # an adapter knows the run around it
        evaluate_saved(folder / "adapter", ["data=folder", f"data.root={mixed}", "data.seed=2"])
    gone = names_of(config, "test")[0]
    (mixed / gone).unlink()
    with pytest.warns(UserWarning, match=rf"the data is not what .* was made of: test: 1 removed \({gone}\)"):
        assert evaluate_saved(folder).metrics.images == row.n_test - 1


def test_a_run_whose_data_moved_is_the_same_run(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = train(config_of(mixed)).row
    there = mixed.parent / "there" / "mixed"
    shutil.move(mixed, there)
    config = tiny_config(there, mixed.parent / "runs", "save_every=2")
    capsys.readouterr()
    assert train(config).row == row
    assert "warning" not in capsys.readouterr().out


def test_an_image_of_test_that_fails_after_training_leaves_the_adapter_and_the_way_on(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(mixed)
    killed_at("evaluation", config)
    cut = mixed / names_of(config, "test")[0]
    content = cut.read_bytes()
    cut.write_bytes(content[:-60])
    changes = ["check_files=headers", "recipe.epochs=2"]
    with pytest.raises(ImageDecodeError, match=r"The adapter is saved in .*/adapter: the same command then only") as e:
        train(config_of(mixed, *changes))
    assert "bad_eval=wrong" in str(e.value)
    assert (run_folder(config) / "adapter" / "adapter.safetensors").is_file()
    cut.write_bytes(content)
    assert train(config).row.n_test == len(names_of(config, "test"))
    assert "all epochs are done" in capsys.readouterr().out
