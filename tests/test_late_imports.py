"""What is put off is not loaded by an eager training, and is all there for whoever asks for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vision_peft import late_imports

pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(late_imports.TRIED), reason="with this version of torch nothing is put off"
)

PUT_OFF = "from vision_peft.late_imports import put_off_imports; put_off_imports()\n"

EAGER_THEN_COMPILED = """
import json, sys
import torch, torchvision, timm
from torchvision.ops import roi_align

def real(name):
    return name in sys.modules and hasattr(sys.modules[name], "__file__")

def train(weight):
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.state_dict()["state"][0]["step"].item()

weight = torch.ones(3, requires_grad=True)
(told_gradient,) = torch.autograd.grad(weight * 2, weight, torch.ones(3))
try:
    torch.autograd.grad(weight * 2, weight, torch.ones(2))
except RuntimeError as error:
    mismatch = "shape" in str(error)
told = {"gradient": told_gradient.tolist(), "mismatch": mismatch, "steps": train(weight)}
told["before"] = [name for name in NAMES if real(name)]
import timm.optim
double = torch._dynamo.disable(lambda x: x * 2, True, wrapping=False)  # asked for before there is a compiler
told["disabled before"] = double(torch.ones(1)).item()
told["still late"] = not real("torch._dynamo")

graphs = []
def count(graph, inputs):
    graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
    return graph.forward

compiled = torch.compile(lambda x: double(x + 1) - 3, backend=count)
told["compiled"] = compiled(torch.ones(1)).item()
told["multiplied in a graph"] = sum("mul" in name for graph in graphs for name in graph)
told["graphs"] = len(graphs)
import torch._dynamo.backends.registry as registry
told["one module"] = registry is sys.modules["torch._dynamo"].backends.registry is torch._dynamo.backends.registry
told["real"] = real("torch._dynamo") and real("torch._dynamo.utils")
told["setting of timm"] = torch._dynamo.config.cache_size_limit
told["supported"] = roi_align.__globals__["is_compile_supported"]("cpu")
told["steps again"] = train(weight)
print(json.dumps(told))
"""

SUBMODULE_FIRST = """
import json, sys, torch
import torch._dynamo
from torch._dynamo.backends.registry import list_backends
from torch._dynamo import utils
print(json.dumps({
    "listed": "eager" in list_backends(None),
    "spec": sys.modules["torch._dynamo.backends.registry"].__spec__.name,
    "loader": type(sys.modules["torch._dynamo.backends"].__spec__.loader).__name__,
    "utils": hasattr(utils, "__file__"),
}))
"""


def run(code: str, folder: Path | None = None) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PUT_OFF + code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eager_steps_load_no_compiler_and_a_compiler_then_finds_all_as_it_was() -> None:
    names = ["torch._dynamo", "torch._dynamo.utils", "torch._dynamo.eval_frame", "torch._inductor", "wandb"]
    names += ["torch.fx.experimental.symbolic_shapes", "sympy"]
    told = run(f"NAMES = {names}\n{EAGER_THEN_COMPILED}")
    assert told == {
        "gradient": [2, 2, 2],
        "mismatch": True,
        "steps": 1.0,
        "before": [],
        "disabled before": 2.0,
        "still late": True,
        "compiled": 1.0,
        "multiplied in a graph": 0,
        "graphs": 2,
        "one module": True,
        "real": True,
        "setting of timm": 1_000_000,
        "supported": True,
        "steps again": 1.0,
    }


def test_another_module_of_the_package_brings_the_real_one() -> None:
    told = run(SUBMODULE_FIRST)
    assert told == {
        "listed": True,
        "spec": "torch._dynamo.backends.registry",
        "loader": "SourceFileLoader",
        "utils": True,
    }


@pytest.fixture
def fake_wandb(tmp_path: Path) -> Path:
    package = tmp_path / "wandb"
    package.mkdir()
    (package / "__init__.py").write_text("print('loaded')\nVERSION = 3\n", encoding="utf-8")
    (package / "sdk.py").write_text("PLACE = 'sdk'\n", encoding="utf-8")
    return tmp_path


def run_plainly(code: str, folder: Path) -> list[str]:
    words = [sys.executable, "-c", PUT_OFF + code]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import wandb, inspect; inspect.getmodule(print); print('quiet')", ["quiet"]),
        ("import wandb; print('quiet'); print(wandb.VERSION, wandb.VERSION)", ["quiet", "loaded", "3", "3"]),
        ("from wandb.sdk import PLACE; import wandb; print(PLACE, wandb.VERSION)", ["loaded", "sdk", "3"]),
        ("import wandb; put_off_imports(); import wandb.sdk; print(wandb.sdk.PLACE)", ["loaded", "sdk"]),
        ("from wandb import VERSION; print(VERSION)", ["loaded", "3"]),
    ],
)
def test_a_package_runs_when_it_is_first_used(fake_wandb: Path, code: str, seen: list[str]) -> None:
    assert run_plainly(code, fake_wandb) == seen


def test_a_name_that_the_real_package_lacks_is_an_error_of_it(fake_wandb: Path) -> None:
    code = "import wandb\ntry:\n  wandb.nothing\nexcept AttributeError as error:\n  print(str(error).replace(' ', '_'))"
    assert run_plainly(code, fake_wandb) == ["loaded", "module_'wandb'_has_no_attribute_'nothing'"]


def test_a_package_that_is_not_installed_stays_so(tmp_path: Path) -> None:
    code = "import sys; sys.path[:] = ['']\ntry:\n  import wandb\nexcept ImportError as error:\n  print(error.name)"
    assert run_plainly(code, tmp_path) == ["wandb"]


def test_what_is_loaded_already_is_left_alone(fake_wandb: Path) -> None:
    code = f"import wandb\n{PUT_OFF}import wandb\nprint(wandb.VERSION)"
    done = subprocess.run([sys.executable, "-c", code], cwd=fake_wandb, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["loaded", "3"]


def test_with_another_version_of_torch_nothing_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    finders = list(sys.meta_path)
    monkeypatch.setattr(late_imports, "version", lambda name: "2.15.0")
    late_imports.put_off_imports()
    assert sys.meta_path == finders


FIRST_UPDATE = """
import json, sys
import vision_peft.cli.main as command
import vision_peft.training.fit as fit

def stop(*given, **options):
    result = update(*given, **options)
    loaded = [name for name in NAMES if hasattr(sys.modules.get(name), "__file__")]
    print(json.dumps({"loss": result.loss, "loaded": loaded}), flush=True)
    raise KeyboardInterrupt

update, fit.run_update = fit.run_update, stop
try:
    command.main(["train", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"])
except SystemExit:
    pass
"""


def test_the_first_update_of_a_training_comes_without_what_it_does_not_need(tmp_path: Path) -> None:
    names = ["torch._dynamo", "torch.distributed.tensor", "torch.distributed.checkpoint", "torch.utils.tensorboard"]
    names += ["sklearn", "sympy", "pandas", "scipy", "onnx", "matplotlib", "wandb", "timm.optim", "decord", "av"]
    told = run(f"NAMES = {names}\n{FIRST_UPDATE}", tmp_path)
    assert told["loaded"] == []
    assert told["loss"] > 0
