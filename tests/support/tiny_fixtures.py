"""Fixtures of small photographs and tiny configs: a training that takes a second and needs no network."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vision_peft.config.parse import Config


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree train/val/test of red, green and blue noise: 8 images a class in each part."""
    from support.tiny_run import write_photos  # not at the top: most tests need none of what it imports

    root = tmp_path_factory.mktemp("photos")
    write_photos(root, {"train": 8, "val": 8, "test": 8})
    return root


@pytest.fixture
def tiny(photos: Path, tmp_path: Path) -> "Callable[..., Config]":
    """`tiny("recipe.lr=1", folder="a")`: the config of a tiny run below `tmp_path / folder`."""
    from support.tiny_run import tiny_config

    return lambda *overrides, folder="runs": tiny_config(photos, tmp_path / folder, *overrides)
