"""Suggestions for misspelt names: what is found, how it is shown, and that thousands of names cost little."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vision_peft.suggest import Suggestions, did_you_mean, find_closest


def test_the_closest_come_first_and_nothing_comes_for_what_is_far() -> None:
    options = ["adaptformer", "adapter_plus", "lora", "vpt"]
    assert find_closest("adaptfomer", options, count=3) == ["adaptformer", "adapter_plus"]
    assert find_closest("xyz", options) == find_closest("", options) == find_closest("lora", []) == []
    assert find_closest("l0r", ["lora"]) == []
    assert find_closest("l0r", ["lora"], cutoff=0.5) == ["lora"]
    assert find_closest("listen", ["silent", "listens"]) == ["listens"]  # the order of letters counts


def test_capital_and_small_letters_are_the_same() -> None:
    assert find_closest("LoRA", ["lora", "vpt"]) == ["lora"]
    assert find_closest("oxford_pets", ["OXFORD_PETS", "other"]) == ["OXFORD_PETS"]
    assert did_you_mean("Dtl", ["dtl"]) == " (did you mean dtl?)"


def test_the_best_of_very_many_with_the_same_letters_is_found() -> None:
    options = [f"class_{number:04}" for number in range(5000)]
    assert find_closest("clas_1234", options) == ["class_1234"]


def test_a_suggestion_reads_as_a_part_of_a_sentence() -> None:
    assert did_you_mean("lorra", ["lora", "vpt"]) == " (did you mean lora?)"
    assert did_you_mean("lr", ["lr_"], prefix="recipe.") == " (did you mean recipe.lr_?)"
    assert did_you_mean("ab1", ["ab2", "ab3", "ab4"], count=3) == " (did you mean ab4, ab3 or ab2?)"
    assert did_you_mean("qqq", ["lora"]) == ""


def test_names_that_are_more_than_a_word_are_quoted_and_escaped() -> None:
    assert did_you_mean("gold fish", ["goldfish x"]) == " (did you mean 'goldfish x'?)"
    assert did_you_mean("aaaaaa", ["aaaaa\x1b[2K\n"]) == r" (did you mean 'aaaaa\x1b[2K\n'?)"


@pytest.mark.parametrize("length", [5, 60, 300_000])
def test_many_or_long_names_cost_little(length: int) -> None:
    options = [f"{number:05}".zfill(length) for number in range(20_000 if length < 1000 else 20)]
    name = "1" * length
    started = time.process_time()
    for _ in range(3):
        did_you_mean(name, options)
    assert time.process_time() - started < 3


def test_difflib_is_used_in_one_place(repository: Path) -> None:
    """`prepare_vtab.py` is by itself on purpose: it runs where TensorFlow is and this package is not."""
    files = [path for top in ("vision_peft", "tools") for path in (repository / top).rglob("*.py")]
    imported = {
        path.relative_to(repository).as_posix(): [
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        ]
        for path in files
    }
    assert {name for name, modules in imported.items() if "difflib" in modules} == {
        "vision_peft/suggest.py",
        "vision_peft/cli/prepare_vtab.py",
    }


def test_it_needs_no_torch(repository: Path) -> None:
    code = "import runpy, sys; runpy.run_path('vision_peft/suggest.py'); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_of_many_unknown_names_the_first_get_a_suggestion() -> None:
    options = [f"class number {i}" for i in range(1000)]
    suggest, started = Suggestions(options, most=3), time.process_time()
    found = [suggest(f"clas number {i}") for i in range(100_000)]
    assert "class number 0" in found[0]
    assert [bool(text) for text in found] == [True] * 3 + [False] * (len(found) - 3)
    assert time.process_time() - started < 3
