"""Every notebook of examples/ runs, its cells in order, on a small random backbone; all of them by

pytest -m slow tests/examples
"""

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.pretrained=false",
    "backbone.kwargs={depth: 2, embed_dim: 24, num_heads: 2}",
    "backbone.img_size=32",
    "recipe.epochs=1",
    "recipe.batch_size=200",
]
# What stands in place of the values of the cell with the tag `parameters`, the first after the installation
SMALL: dict[str, dict[str, Any]] = {
    "compare_methods": {
        "folder": None,
        "methods": {"linear": ["recipe=lbfgs"], "lora": []},
        "overrides": [*TINY, "recipe.batch_size=32"],
    },
    "look_inside": {
        "backbone": {"name": "vit_tiny_patch16_224", "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2}
    },
    "quickstart": {"overrides": ["method=adaptformer", *TINY, "workers=0"]},
}
SLOW = {"compare_methods", "quickstart"}


def read(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def list_code(notebook: Path) -> list[tuple[str, list[str]]]:
    """The text and the tags of every cell of code."""
    cells = [cell for cell in read(notebook) if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]


@pytest.mark.parametrize(
    "notebook", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in NOTEBOOKS]
)
def test_a_notebook_runs_from_its_first_cell_to_its_last(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, (text, tags) in enumerate(list_code(notebook)):
        exec(compile(text, f"{notebook.name}, code cell {number}", "exec"), names)
        names |= SMALL[notebook.stem] if "parameters" in tags else {}
    assert pyplot.get_fignums()
    pyplot.close("all")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs_and_begins_with_the_installation_and_its_values(notebook: Path) -> None:
    title, *_ = read(notebook)
    assert "".join(title["source"]).startswith("# ")
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in read(notebook))
    (install, _), (values, tags), *_ = list_code(notebook)
    assert 'find_spec("vision_peft") is None' in install
    assert tags == ["parameters"]
    assigned = {node.targets[0].id for node in ast.parse(values).body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    assert assigned == set(SMALL[notebook.stem])


def test_there_are_three_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)
