"""Every block of Python that a page or a docstring shows runs."""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from support.page_python import run_blocks
from support.pages import REPOSITORY, Block, find_blocks, list_pages, read_page

import vision_peft as vp

NOT_RUN = {  # docstrings; blocks of pages say it themselves, in a comment above: <!-- not run: needs a GPU -->
    "vision_peft/training/__init__.py": "trains for minutes; tests/training/test_api.py does it on a tiny model",
}
MARKED: dict[str, list[str]] = {}  # page -> reasons: needs a GPU, a download, a server
PAGES = {
    page: blocks
    for page in list_pages(made=False)
    if page != "README.md"  # tests/test_readme.py runs it in a process of its own
    if (blocks := [block for block in find_blocks(page, read_page(page)) if block.kind == "python"])
}


def find_examples() -> Iterator[Block]:
    """Find the paragraphs of docstrings that are Python which uses the package."""
    for file in sorted((REPOSITORY / "vision_peft").rglob("*.py")):
        page, text = str(file.relative_to(REPOSITORY)), file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "vp." in text else ():
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for part in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                indented = all(line.startswith("    ") for line in part.splitlines())
                if indented and re.search(r"\bvp\.|^ *from vision_peft", part, flags=re.MULTILINE):
                    yield Block(page, getattr(node, "lineno", 1), "python", textwrap.dedent(part))


EXAMPLES = {file: list(blocks) for file, blocks in itertools.groupby(find_examples(), lambda block: block.page)}


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    run_blocks([block for block in PAGES[page] if block.not_run is None], tmp_path)


@pytest.mark.parametrize("file", [file for file in EXAMPLES if file not in NOT_RUN])
def test_examples_of_a_docstring_run(file: str, tmp_path: Path) -> None:
    module = import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    run_blocks(EXAMPLES[file], tmp_path, vars(module))


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    blocks = [block for page in list_pages(made=False) for block in find_blocks(page, read_page(page))]
    marked: dict[str, list[str]] = {}
    for block in blocks:
        if block.not_run:
            marked.setdefault(block.page, []).append(block.not_run)
    assert marked == MARKED
    assert set(NOT_RUN) <= set(EXAMPLES)


def test_a_block_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(NameError) as caught:
        run_blocks([Block("a.md", 3, "python", "x = 1\ny = nothing\n")], tmp_path)
    assert caught.traceback[-1].lineno == 4  # from 0: line 5 of the page
    run_blocks([Block("a.md", 1, "python", "x = 1"), Block("a.md", 9, "python", "assert x == 1")], tmp_path)
    assert vp.create_backbone.__module__.startswith("vision_peft.")
