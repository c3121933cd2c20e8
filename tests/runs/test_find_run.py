"""Runs of earlier versions are found; a run whose data moved goes on; another folder of the same name does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.tiny_run import tiny_config

from vision_peft.config.parse import Config, to_dict
from vision_peft.config.run_id import run_folder
from vision_peft.runs.find_run import find_run
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


def make_old(folder: Path, name: str) -> Path:
    """Rename a run as an earlier version would have named it, with the spellings of that time."""
    old = folder.rename(folder.with_name(name))
    raw = OmegaConf.to_container(OmegaConf.load(old / "config.yaml"))
    assert isinstance(raw, dict)
    recipe = raw["recipe"]
    recipe["repeats"], recipe["frozen"] = recipe.pop("repeated_augmentation"), recipe.pop("frozen_mode")
    del raw["max_bad_steps"], recipe["random_erasing"]  # keys that were not there yet
    (old / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(raw)))
    return old


def test_a_run_of_an_earlier_version_is_found_and_reported(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny("recipe.epochs=1")
    row = train(config).row
    folder = run_folder(config)
    old = make_old(folder, folder.name.replace(folder.name.split("-")[-2], "0123abcd"))
    assert find_run(tiny("recipe.epochs=1")) == old
    assert find_run(tiny("recipe.epochs=1", "recipe.ema=0.9")) != old
    capsys.readouterr()
    assert train(tiny("recipe.epochs=1")).row == row
    assert f"{old} is finished" in capsys.readouterr().out
    assert not folder.exists()


def test_the_folder_of_today_goes_before_one_of_an_earlier_version(tiny: Tiny) -> None:
    config = tiny()
    folder = run_folder(config)
    for place in (folder, folder.with_name(folder.name.replace(folder.name.split("-")[-2], "0123abcd"))):
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    assert find_run(config) == folder


def test_a_config_that_is_not_understood_any_more_is_named_with_what_to_do(tiny: Tiny) -> None:
    config = tiny()
    folder = run_folder(config)
    folder.mkdir(parents=True)
    raw = to_dict(config)
    raw["recipe"]["loudness"] = 3
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(raw)))
    with pytest.raises(ValueError, match=r"unknown key recipe\.loudness.*another output_dir, or start over") as error:
        train(config)
    assert len(str(error.value).splitlines()) == 1


def test_the_same_data_mounted_elsewhere_is_the_same_run(tmp_path: Path, photos: Path) -> None:
    def config(place: str) -> Config:
        return tiny_config(tmp_path / place / "photos", tmp_path / "runs", "recipe.epochs=1")

    shutil.copytree(photos, tmp_path / "here" / "photos")
    row = train(config("here")).row
    there = shutil.copytree(photos, tmp_path / "there" / "photos")
    assert train(config("there")).row == row
    shutil.rmtree(tmp_path / "here")
    assert train(config("there")).row == row
    (there / "train" / "red" / "3.png").unlink()
    assert train(config("there")).row == row  # changed since, which is said


@pytest.mark.parametrize("known", [True, False])
def test_other_data_under_the_same_name_is_refused(tmp_path: Path, photos: Path, known: bool) -> None:
    def config(place: str, *overrides: str) -> Config:
        return tiny_config(tmp_path / place / "photos", tmp_path / "runs", "recipe.epochs=1", *overrides)

    shutil.copytree(photos, tmp_path / "here" / "photos")
    there = shutil.copytree(photos, tmp_path / "there" / "photos")
    (there / "test" / "red" / "3.png").unlink()
    folder = train(config("here")).folder
    if not known:
        (folder / "data.json").unlink()
    refused = r"on data\.root=.*here/photos, which is still there and has other data under the same name"
    with pytest.raises(ValueError, match=refused):
        train(config("there"))
    (folder / "result.json").unlink()
    with pytest.raises(ValueError, match=refused):
        train(config("there"))
    train(config("here"))
    assert train(config("there", "overwrite=true")).row.n_test == 23
