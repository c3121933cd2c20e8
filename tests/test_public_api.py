"""The public names: written out for editors. That they are imported when used is in test_imports.py."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import vision_peft as vp


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
