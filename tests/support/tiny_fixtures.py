"""Fixtures of small photographs and tiny configs: a training that takes a second and needs no network."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny_run import tiny_config, write_photos

from vision_peft.config.parse import Config


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree train/val/test of red, green and blue noise: 8 images a class in each part."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root, {"train": 8, "val": 8, "test": 8})
    return root


@pytest.fixture
def tiny(photos: Path, tmp_path: Path) -> Callable[..., Config]:
    """`tiny("recipe.lr=1", folder="a")`: the config of a tiny run below `tmp_path / folder`."""
    return lambda *overrides, folder="runs": tiny_config(photos, tmp_path / folder, *overrides)
