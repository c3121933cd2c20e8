"""Small photographs and tiny configs: a training that takes a second and needs no network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training.tiny_run import tiny_config

from vision_peft.training.config import Config


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree train/val/test of red, green and blue noise: 8 images a class in each part."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(8):
                pixels = generator.integers(0, 160, (12, 10, 3), dtype=np.uint8)
                pixels[..., channel] += 95
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture
def tiny(photos: Path, tmp_path: Path) -> Callable[..., Config]:
    """`tiny("recipe.lr=1", folder="a")`: the config of a tiny run below `tmp_path / folder`."""
    return lambda *overrides, folder="runs": tiny_config(photos, tmp_path / folder, *overrides)
