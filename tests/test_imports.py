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
    "matplotlib": ("data/check", "inference", "results", "tasks"),
    "onnx": ("backbones",),
    "optuna": ("search",),
    "python_multipart": ("inference/serve",),
    "pytorchvideo": ("data",),
    "scipy": (),
    "sklearn": ("data/datasets",),
    "starlette": ("inference/serve",),
    "submitit": ("distributed",),
    "tensorboard": ("runs",),
    "tifffile": ("data",),
    "torchcodec": ("data",),
    "torchmetrics": (),
    "uvicorn": ("inference/serve",),
    "webdataset": (),
}

# What a fresh interpreter does, step by step; a step asks for what stands in SEEN. One interpreter for all: it takes
# seconds to import torch. torchvision loads PyAV by itself in some versions, hence the step of its own.
STEPS = {
    "package": "import vision_peft as vp; SEEN = vp.__version__",
    "training": "import vision_peft.training as training; SEEN = sorted(dir(training)) == dir(training)",
    "frameworks": "import torch, torchvision, timm",
    "names": "SEEN = [vp.LoRA, vp.attach, vp.save_adapter, vp.create_backbone, vp.read_foreign]",
    "library": """
model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=3)
vp.attach(model, vp.AdaptFormer(bottleneck=4))
model(torch.zeros(1, 3, 32, 32))
vp.save_adapter(model, "adapter")
vp.detach(model)
""",
    "folders": "SEEN = [vp.data.DATASETS['digits'].name, vp.formats.__name__]",
    "loop": "import vision_peft.training.trained",
    "trained": """
from vision_peft.training import BackboneConfig, Config, Recipe, evaluate, train
SEEN = [callable(train), callable(evaluate), callable(training.train)]
""",
}
STEP_BY_STEP = """
import json, sys
names, told = {}, {}
for step, code in json.loads(sys.argv[1]).items():
    before = set(sys.modules)
    names.pop("SEEN", None)
    exec(code, names)
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    told[step] = {"loaded": sorted(loaded), "seen": repr(names.get("SEEN"))}
print(json.dumps(told))
"""
HEAVY = (
    *("torch", "torchvision", "timm", "hydra", "omegaconf", "matplotlib", "tensorboard", "sklearn", "onnx"),
    *("decord", "av", "torchcodec", "pytorchvideo", "torchmetrics", "numpy", "PIL"),
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """For each step of a fresh interpreter the packages that it loaded, and what was seen."""
    words = [sys.executable, "-c", STEP_BY_STEP, json.dumps(STEPS)]
    folder = tmp_path_factory.mktemp("fresh")
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["package", "training"])
def test_importing_the_package_imports_nothing_heavy(fresh: dict[str, dict], step: str) -> None:
    assert {*HEAVY} & {*fresh[step]["loaded"]} == set()
    assert "vision_peft" in fresh["package"]["loaded"]


@pytest.mark.parametrize("step", ["names", "library"])
def test_the_library_loads_no_corner(fresh: dict[str, dict], step: str) -> None:
    assert {*CORNERS, "omegaconf"} & {*fresh[step]["loaded"]} == set()


def test_the_loop_loads_no_tracker(fresh: dict[str, dict]) -> None:
    assert "hydra" in fresh["loop"]["loaded"] + fresh["folders"]["loaded"] + fresh["trained"]["loaded"]
    assert {"tensorboard"} & {*fresh["loop"]["loaded"], *fresh["folders"]["loaded"]} == set()


def test_names_and_folders_are_imported_when_they_are_used(fresh: dict[str, dict]) -> None:
    assert fresh["folders"]["seen"] == "['digits', 'vision_peft.formats']"
    assert fresh["trained"]["seen"] == "[True, True, True]"
    assert fresh["training"]["seen"] == "True"


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
