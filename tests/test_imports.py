"""What only one corner of the package needs is imported there and only there."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

# Package -> the rooms whose files may import it.
CORNERS = {
    "av": ("cli", "data"),
    "datasets": ("data/datasets",),
    "decord": ("data",),
    "hydra": ("cli", "config", "training"),
    "matplotlib": ("data/check", "results"),
    "onnx": ("backbones",),
    "optuna": ("training",),
    "pytorchvideo": ("data",),
    "scipy": (),
    "sklearn": ("data/datasets",),
    "submitit": ("cli",),
    "tensorboard": ("runs",),
    "torchcodec": ("data",),
    "torchmetrics": (),
    "webdataset": (),
}

# torchvision loads PyAV by itself in some versions, so what the base loads is taken off.
USE = """
import json, sys
import torch, torchvision, timm
base = set(sys.modules)
import vision_peft as vp

model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=3)
vp.attach(model, vp.AdaptFormer(bottleneck=4))
model(torch.zeros(1, 3, 32, 32))
vp.save_adapter(model, "adapter")
vp.detach(model)
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - base})))
"""


def test_the_library_loads_no_corner(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "vision_peft" in loaded
    assert {*CORNERS, "omegaconf"} & set(loaded) == set()


@functools.cache
def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("torch.utils.").partition(".")[0] for name in found}


@pytest.mark.parametrize("name", CORNERS)
def test_a_package_of_one_corner_is_imported_there_only(name: str, repository: Path) -> None:
    package = repository / "vision_peft"
    users = [path.relative_to(package).as_posix() for path in package.rglob("*.py") if name in imported(path)]
    assert [user for user in users if not user.startswith(tuple(f"{room}/" for room in CORNERS[name]))] == []
