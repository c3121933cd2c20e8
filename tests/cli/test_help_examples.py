"""The commands that a verb shows in its help can be typed; those of newer verbs are run by the tests of each verb."""

import hashlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.forked import run_tool
from support.tiny_run import TINY, write_photos
from support.tiny_vtab import write_vtab
from support.video_files import write_video

from vision_peft.cli import prepare_vtab
from vision_peft.cli.main import list_verbs, main
from vision_peft.config.find_configs import find_configs
from vision_peft.config.help import format_help

TRAINED = [*TINY, "recipe.epochs=1", "recipe.batch_size=200"]
SHORT = {
    "train": TRAINED,
    "tune": [*TRAINED, "grid.recipe.weight_decay=null"],  # 10 trials, not 40
    "benchmark": [*TRAINED, "--updates=2", "--seconds=0.1"],
}


def list_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words behind the verb of each command in its help."""
    if verb == "train":
        text = format_help(find_configs())
    else:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        text = capsys.readouterr().out
    lines = re.findall(r"^ *(?:\w.*\| )?(vision-peft \S.*)$", text, flags=re.MULTILINE)
    typed = [shlex.split(line.split("   ")[0]) for line in lines if "[key=value]" not in line]
    return [words[words.index(verb) + 1 :] for words in typed if verb in words]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `vtab-1k` and `photos`."""
    write_vtab(tmp_path / "vtab-1k", ["dtd"])
    write_photos(tmp_path / "photos", {"train": 8, "val": 8, "test": 8})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", list_verbs())
def test_every_verb_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_examples(verb, capsys)


@pytest.mark.parametrize(
    ("verb", "numbers"), [("train", (0, 2)), ("tune", (0,)), ("benchmark", (0,)), ("check-data", (0, 2))]
)
def test_examples_that_train_or_check_run(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, numbers: tuple[int, ...]
) -> None:
    examples = list_examples(verb, capsys)
    for number in numbers:
        done = run_tool(f"{verb.replace('-', '_')}.py", here, *examples[number], *SHORT.get(verb, []))
        assert done.returncode == 0, done.stdout + done.stderr


def test_examples_about_finished_runs_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_tool("train.py", here, *TRAINED)
    assert done.returncode == 0, done.stderr
    (run,) = here.glob("runs/digits/*/*/*seed0")
    shutil.copytree(run / "adapter", "ADAPTER")
    shutil.copytree(here / "runs" / "digits", here / "runs" / "vtab1k-dtd")
    shutil.copytree(here / "photos" / "test", here / "ten" / "test")
    for verb in ("evaluate", "plot", "report"):
        examples = list_examples(verb, capsys)
        assert len(examples) >= 2
        for words in examples:
            if "data=folder" in words:  # digits of the adapter, photographs of three colours
                continue
            known = {"RUN": str(run), "runs/vtab1k-*": str(here / "runs" / "vtab1k-dtd")}
            typed = [known.get(word, str(run) if word.endswith("...") else word) for word in words]
            assert main([verb, *typed]) == 0, words
    assert all(Path(name).stat().st_size for name in ("accuracy.png", "figures/digits.png", "results/vtab.md"))


def test_examples_that_make_videos_anew_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = list_examples("prepare-video", capsys)
    assert len(examples) == 4
    for words in examples:
        source = Path(words[0])
        source.mkdir(exist_ok=True)
        write_video(source / "wave.mp4", 3)
        assert main(["prepare-video", *words]) == 0, words
        assert (here / words[1] / "wave.mp4").stat().st_size


def test_the_example_that_verifies_vtab_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in prepare_vtab.TASKS:
        folder = here / "vtab-1k" / task
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "test.txt").write_text(task)
        digest = hashlib.sha256(task.encode()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps({"files_sha256": {"test.txt": digest}}))
    (words,) = [words for words in list_examples("prepare-vtab", capsys) if "--verify" in words]
    assert main(["prepare-vtab", *words]) == 0
    assert capsys.readouterr().out.count("every file is as it was written") == 19


def test_the_example_that_submits_runs(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'vision_peft[slurm]'")
    for name in ("sbatch", "srun"):
        (here / "bin").mkdir(exist_ok=True)
        (here / "bin" / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (here / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(here / "bin"), prepend=os.pathsep)
    (words,) = list_examples("submit", capsys)
    assert main(["submit", *words]) == 0
    assert "job 7:" in capsys.readouterr().out
    (script,) = here.glob("jobs/*.sh")
    assert "#SBATCH --nodes=2" in script.read_text()
