"""Workers of a config: far more than cores are refused before any is started, and a run from elsewhere can be read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vision_peft.config.parse import Config, parse_config, to_dict
from vision_peft.config.schema import Settings
from vision_peft.runs.run_config import CONFIG, read_config
from vision_peft.safe_files import write_file


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.mark.parametrize("workers", [33, 100_000])
def test_far_more_workers_than_cores_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be at most 32 on 2 cores, 16 a core; got {workers}: give"):
        Settings(workers=workers)


@pytest.mark.parametrize("workers", [0, 2, 32, "auto"])
def test_what_the_cores_can_take_is_accepted(workers: int | str) -> None:
    assert Settings(workers=workers).workers == workers


def test_the_run_of_a_machine_with_more_cores_can_be_read(tiny: Callable[..., Config], tmp_path: Path) -> None:
    raw = {**to_dict(tiny()), "workers": 64}
    write_file(tmp_path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(raw)))
    assert parse_config(read_config(tmp_path)).workers == "auto"
