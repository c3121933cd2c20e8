"""Every script of examples/ runs, on a small random backbone; those that import much are marked slow.

pytest -m slow tests/examples
"""

import ast
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vision_peft as vp
from vision_peft.config.registered import REGISTERED

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
LONGEST = 40  # lines that are not blank
NEEDS = {"hf_trainer": "accelerate", "lightning_module": "lightning"}
SLOW = {*NEEDS, "export_onnx"}
SAYS = {
    "export_onnx": "onnxruntime answers",
    "lightning_module": "a checkpoint holds",
    "own_loop": "the loaded adapter gives the same logits: True",
    "own_method": "loaded again: [{'name': 'shift'",
    "stack_methods": "every weight is what it was: True",
}


@pytest.fixture(autouse=True)
def _forget_methods() -> Iterator[None]:
    """Leave no method behind that a script registered."""
    before = {*vp.METHODS}
    yield
    for name in {*vp.METHODS} - before:
        del vp.METHODS[name]
        del REGISTERED["method"][name]


@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in SCRIPTS]
)
def test_a_script_runs_and_prints_a_result(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if package := NEEDS.get(script.stem):
        pytest.importorskip(package, reason=f"needs {package}, which examples/{script.name} alone imports")
    monkeypatch.setattr(sys, "argv", [str(script), "--tiny"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert SAYS.get(script.stem, " ") in shown
    assert shown.strip()
    assert list(tmp_path.iterdir()) == [], "a script leaves nothing behind"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_says_how_it_is_run(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= LONGEST
    what, empty, how = (ast.get_docstring(ast.parse(text)) or "").split("\n")
    assert (what[-1], empty) == (".", "")
    assert f"python examples/{script.name}" in how
    assert "--tiny" in how


def test_there_are_ten_scripts_and_what_is_said_of_them_is_of_some() -> None:
    names = {path.stem for path in SCRIPTS}
    assert len(names) == 10
    assert {*SLOW, *SAYS} <= names
