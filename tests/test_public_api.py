"""The public names: written out for editors, imported when used, and nothing heavy before."""

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import vision_peft as vp

HEAVY = (
    *("torch", "torchvision", "timm", "hydra", "omegaconf", "matplotlib", "tensorboard", "sklearn", "onnx"),
    *("decord", "av", "torchcodec", "pytorchvideo", "torchmetrics", "numpy", "PIL"),
)


def run(text: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    shown = run(f"import sys, vision_peft as vp; vp.__version__; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert shown == "[]\n"


def test_importing_the_package_and_a_method_imports_no_part_of_the_program() -> None:
    programs = ("hydra", "matplotlib", "tensorboard", "sklearn", "onnx", "decord", "av", "torchcodec", "pytorchvideo")
    shown = run(
        f"import sys, vision_peft as vp; vp.LoRA; vp.attach; vp.save_adapter; vp.create_backbone; vp.read_foreign\n"
        f"print([m for m in {programs!r} if m in sys.modules])"
    )
    assert shown == "[]\n"


def test_a_folder_of_the_package_is_imported_when_it_is_named() -> None:
    assert run("import vision_peft as vp; print(vp.data.DATASETS['digits'].name, vp.formats.__name__)").split() == [
        "digits",
        "vision_peft.formats",
    ]


def written_imports() -> dict[str, str]:
    """Names and modules of the imports that only type checkers follow."""
    tree = ast.parse(Path(str(vp.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_every_name_written_for_type_checkers_is_there_and_public() -> None:
    """A line that nothing stands behind any more fails here: run .ci/list_methods.py. A missing one does not."""
    written = written_imports()
    for name, module in written.items():
        assert getattr(vp, name) is getattr(sys.modules[module], name), name
    assert {*written, "__version__"} == set(vp.__all__)


def test_a_type_checker_knows_a_method_and_finds_a_wrong_keyword(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text("import vision_peft as vp\nreveal_type(vp.LoRA)\nvp.LoRA(rnk=4)\n")
    # An editable install is found by an import hook, which type checkers do not run: they are given the folder.
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(Path(str(vp.__file__)).parents[1])]}))
    words = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [(each["severity"], each["range"]["start"]["line"]) for each in found] == [
        ("information", 1),
        ("error", 2),
    ]
    assert 'Type of "vp.LoRA" is "type[LoRA]"' in found[0]["message"]
    assert 'No parameter named "rnk"' in found[1]["message"]
