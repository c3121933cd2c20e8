"""Facts are read from the files of a machine; here from folders that stand for one."""

import os
import socket
from pathlib import Path

import pytest

from vision_peft.backbones.pypi_weights import check_cached
from vision_peft.doctor.gather import ask, find_driver, look_at, read_quota, read_requirements


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
        ({"cpu.max": "damaged"}, None),
    ],
)
def test_the_cores_that_a_control_group_grants(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert read_quota(tmp_path) == quota


def test_the_version_of_the_driver(tmp_path: Path) -> None:
    assert find_driver(tmp_path) is None
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    write(tmp_path / "proc/driver/nvidia/version", module)
    assert find_driver(tmp_path) == "535.183.01"


def test_a_folder_that_is_not_there_is_judged_by_the_one_above_it(tmp_path: Path) -> None:
    place = look_at("runs", tmp_path / "a" / "b")
    assert place.writable
    assert place.free > 0
    write(tmp_path / "file", "")
    assert not look_at("runs", tmp_path / "file").writable
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert not look_at("runs", tmp_path / "a").writable
        tmp_path.chmod(0o700)


def test_requirements_come_from_the_installed_metadata() -> None:
    found = read_requirements("hydra-core")
    assert {each.name for each in found} >= {"omegaconf", "packaging"}
    assert all(each.fits and each.extra == "" for each in found)
    assert read_requirements("no-such-package-anywhere") == []
    assert {each.extra for each in read_requirements("pytest")} >= {"", "dev"}


def test_kept_weights_are_missing_or_damaged(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    assert check_cached(file) == "missing"
    file.write_bytes(b"half of a download")
    assert check_cached(file) == "damaged"


def test_an_address_that_nobody_listens_at_is_told_by_its_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "refused" in (ask(address) or "")
