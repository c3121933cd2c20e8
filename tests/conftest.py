"""Fixtures shared by all tests."""

import gc
from pathlib import Path

import pytest
from support import selection
from support.tiny_fixtures import photos, tiny

__all__ = ["photos", "repository", "shared", "tiny"]

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Collect of the matrix what runs: with the default ``-m`` every worker made 30,000 cases to leave out."""
    selection.whole = config.getoption("markexpr") not in config.getini("addopts")
    if not config.getoption("numprocesses", default=None):  # the process that only hands out tests needs no torch
        import torch

        torch.set_num_threads(1)  # the tests run as parallel processes; more threads would only fight for the cores


def pytest_collection_finish() -> None:
    """Leave what imports and collection made, a million objects, out of the garbage collections to come."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real images, clips and golden files beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs real data and golden files, which are not at {folder}")
    return folder
