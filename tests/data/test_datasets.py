"""What all families promise: they are found by existing, and their config files say what their dataclasses say."""

import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import yaml

from vision_peft.data import DATASETS, DataConfig, datasets

FAMILIES = sorted(DATASETS)


def test_the_families_are_found_by_reading_the_folder() -> None:
    assert {"digits", "folder", "vtab1k"} <= set(DATASETS)
    for name, family in DATASETS.items():
        assert issubclass(family, DataConfig)
        assert family.__module__ == f"vision_peft.data.datasets.{name}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_config_file_holds_the_fields_and_their_defaults(repository: Path, name: str) -> None:
    config = yaml.safe_load((repository / "configs" / "data" / f"{name}.yaml").read_text())
    defaults = {field.name: field.default for field in fields(DATASETS[name])}
    lists = {key: list(value) for key, value in defaults.items() if isinstance(value, tuple)}
    assert config == {"name": name, **defaults, **lists}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_of_a_config_file_has_a_comment(repository: Path, name: str) -> None:
    lines = (repository / "configs" / "data" / f"{name}.yaml").read_text().splitlines()
    assert all("  # " in line for line in lines if not line.startswith(("#", "name:")))


@pytest.mark.parametrize("name", FAMILIES)
def test_configs_are_frozen_and_refuse_unknown_splits(name: str) -> None:
    config = DATASETS[name]()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"unknown split 'trian' \(did you mean train\?\)"):
        config.load("trian")


@pytest.mark.parametrize("name", [name for name in FAMILIES if "root" in {f.name for f in fields(DATASETS[name])}])
def test_a_missing_root_names_the_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"data\.root"):
        DATASETS[name]().load("train")
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*imagse.*did you mean .*images\?"):
        DATASETS[name](root=str(tmp_path / "imagse" / "deeper")).load("train")  # pyright: ignore[reportCallIssue]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"data\.root"):
        DATASETS[name](root=str(tmp_path / "file")).load("train")  # pyright: ignore[reportCallIssue]


def test_a_family_added_as_one_file_is_found_without_editing_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postcards.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "import numpy as np\n"
        "from vision_peft.data.decoding.arrays import ArrayImages\n"
        "from vision_peft.data.config import DataConfig\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Postcards(DataConfig):\n"
        "    name: ClassVar[str] = 'postcards'\n"
        "    def load(self, split):\n"
        "        return ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], ['sea', 'alps'], [0, 1], split)\n"
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    try:
        found = datasets._find()
        assert set(found) == {*DATASETS, "postcards"}
        assert found["postcards"]().load("val").path(1) == "val[1]"
    finally:
        sys.modules.pop("vision_peft.data.datasets.postcards", None)
