"""`vision-peft doctor` on this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.forked import run_tool


@pytest.mark.parametrize("place", ["runs", "file"])
def test_one_line_a_finding_and_exit_code_1_for_problems_only(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")  # cannot hold runs
    done = run_tool("doctor.py", tmp_path, f"--output-dir={place}")
    *lines, empty, total = done.stdout.splitlines()
    assert empty == ""
    levels = [re.match(r"(ok|note|problem) +\w+ +\S", line) for line in lines]
    assert all(levels), lines
    problems = [line for line in lines if line.startswith("problem")]
    assert total.startswith(f"{len(problems)} problems, ")
    assert done.returncode == (1 if problems else 0)
    assert any("runs: file cannot be written -> set another folder" in line for line in problems) == (place == "file")
    assert not any("network" in line.split()[1] for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_without_torch_gets_a_diagnosis_too(repository: Path, tmp_path: Path) -> None:
    blocked = (
        "import sys; sys.modules['torch'] = None; from vision_peft.cli.main import main; sys.exit(main(['doctor']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = [sys.executable, "-c", blocked]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^problem +torch +cannot be imported: .* -> pip install torch torchvision$", done.stdout, re.M)
    assert done.stdout.splitlines()[-1].endswith("notes")


def test_json_says_the_same(tmp_path: Path) -> None:
    done = run_tool("doctor.py", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert {"python", "torch", "gpu", "disk", "weights"} <= {finding["topic"] for finding in report["findings"]}
    assert report["problems"] == sum(finding["level"] == "problem" for finding in report["findings"])
    assert all(finding["fix"] for finding in report["findings"] if finding["level"] == "problem")


def test_nothing_heavy_but_torch_is_imported(repository: Path, tmp_path: Path) -> None:
    asked = """if True:
        import sys
        from vision_peft.cli.main import main
        main(["doctor", "--json"])
        heavy = {"timm", "torchvision", "torchcodec", "torch._dynamo.convert_frame", "sympy", "transformers"}
        print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
    """
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = [sys.executable, "-c", asked]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
