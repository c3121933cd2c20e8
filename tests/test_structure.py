"""The shape of the package and its tests: who may import whom, how long a file may be, names that say something."""

import ast
from pathlib import Path

import pytest

# Folder -> folders of the package it may import. Imports run downwards only.
ALLOWED = {
    "tuning": set(),
    "methods": {"tuning"},
    "formats": {"methods", "tuning", "backbones"},
    "backbones": set(),
    "data": set(),
    "results": set(),
    "distributed": {"tuning"},
    "config": {"methods", "tuning", "data", "distributed"},
    "runs": {"config", "data", "distributed", "results"},
    "training": {"runs", "config", "distributed", "formats", "methods", "tuning", "backbones", "data", "results"},
}
PUBLIC_API = {"config", "distributed", "runs", "training"}  # may say `import vision_peft`; all below may not
LONGEST = 300


def imported_folders(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "vision_peft":
            names += [f"vision_peft.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("vision_peft.")}
        found |= {"(package)" for name in names if name == "vision_peft" and isinstance(node, ast.Import)}
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_run_downwards_only(repository, folder):
    allowed = ALLOWED[folder] | {folder} | ({"(package)"} if folder in PUBLIC_API else set())
    wrong = {
        str(path.relative_to(repository)): sorted(extra)
        for path in (repository / "vision_peft" / folder).rglob("*.py")
        if (extra := imported_folders(path) & {*ALLOWED, "(package)"} - allowed)
    }
    assert wrong == {}


def test_every_folder_of_the_package_has_a_rule(repository):
    folders = {path.parent.name for path in (repository / "vision_peft").glob("*/__init__.py")}
    assert folders == set(ALLOWED)


def test_files_fit_in_one_sitting_and_names_say_something(repository):
    files = [path for top in ("vision_peft", "tools", "tests") for path in (repository / top).rglob("*.py")]
    assert [p.name for p in files if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST] == []
    assert [p for p in files if {"utils", "helpers", "common", "misc"} & {*p.with_suffix("").parts}] == []
