"""A complete result row to vary, and what scripts of docs/results define."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.results.row import Row


@pytest.fixture
def make_row() -> Callable[..., Row]:
    def make(name: str = "adaptformer", fields: dict[str, Any] | None = None, **changed: Any) -> Row:
        values = {
            "methods": [{"name": name, "fields": {"bottleneck": 64, "scale": 0.1} if fields is None else fields}],
            "backbone": "vit_base_patch16_224.augreg_in21k",
            "dataset": "digits",
            "task": None,
            "seed": 0,
            "protocol": "val_select",
            "top1": 96.4,
            "top5": 99.9,
            "mean_per_class": 96.3,
            "val_top1": 96.0,
            "n_train": 1000,
            "n_val": 200,
            "n_test": 597,
            "lr": 1e-3,
            "weight_decay": 0.05,
            "batch_size": 32,
            "epochs": 5,
            "img_size": 224,
            "num_frames": None,
            "views": 1,
            "normalisation": "backbone",
            "head": "linear",
            "params_trained": 1_189_632,
            "params_stored": 1_189_632,
            "params_head": 7_690,
            "params_backbone": 85_798_656,
            "adapter_bytes": 4_803_112,
            "step_ms": 300.5,
            "images_per_s": 106.5,
            "data_wait_share": 0.01,
            "peak_memory_mb": 1210.0,
            "train_seconds": 81.2,
            "flops_forward": 16_866_000_000,
            "world_size": 1,
            "precision": "fp32",
            "device": "cpu",
            "versions": {"torch": "2.14.1"},
            "commit": None,
            "command": "python tools/train.py",
            "setting": "0123456789abcdef",
            "settings": {},
        }
        return Row(**(values | changed))

    return make


@pytest.fixture
def read_script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return what the file of that name in docs/results defines."""
    folder = repository / "docs" / "results"
    monkeypatch.syspath_prepend(str(folder))
    return lambda name: runpy.run_path(str(folder / f"{name}.py"), run_name=name)
