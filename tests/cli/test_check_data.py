"""`vision-peft check-data` as a user types it: exit code, report, sheet, mistakes."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.forked import run_tool

Check = Callable[..., tuple[int | str | None, str, str]]


def run(repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("check_data.py", folder, *arguments)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders with two images a class and split, all different."""
    images = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = images.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def check_here(
    repository: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Run the tool beside the photos in this process, which saves importing torch: (exit code, stdout, stderr)."""

    def check(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(photos.parent)
        monkeypatch.setattr(sys, "argv", ["check_data.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(repository / "tools" / "check_data.py"), run_name="__main__")
        shown, errors = capsys.readouterr()
        return exit_.value.code, shown, errors

    return check


def test_a_sound_set_ends_with_0_a_report_and_a_sheet(repository: Path, tmp_path: Path, photos: Path) -> None:
    done = run(repository, tmp_path, "data=folder", "data.root=photos", "--out", "checked", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"folder: 2 classes, 12 images below {photos}",
        "split     images  per class  empty classes  width  height  sizes  formats and modes",
        "train     4       2          0              8      8       1      PNG, RGB",
        "val       4       2          0              8      8       1      PNG, RGB",
        "trainval  8       4          0              8      8       1      PNG, RGB",
        "test      4       2          0              8      8       1      PNG, RGB",
        "no problems",
        "no warnings",
        f"samples: {Path('checked', 'folder.png')}",
        f"report: {Path('checked', 'report.json')}",
        "",
        "next:",
        f"  python {repository / 'tools' / 'train.py'} data=folder data.root=photos",
    ]
    report = json.loads((tmp_path / "checked" / "report.json").read_text())
    assert (report["version"], report["problems"], report["warnings"]) == (1, 0, 0)
    assert Image.open(tmp_path / "checked" / "folder.png").format == "PNG"


def test_problems_end_with_1_and_stand_in_the_json(repository: Path, tmp_path: Path, photos: Path) -> None:
    copied = photos / "test" / "dog" / "0.png"
    copied.write_bytes((photos / "train" / "cat" / "1.png").read_bytes())
    (photos / "val" / "cat" / "1.png").write_bytes(b"")
    done = run(repository, tmp_path, "--json", "new/report.json", "data=folder", "data.root=photos")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[6:] == [
        "3 problems",
        "  unreadable: val/cat/1.png: the file is empty (0 bytes)",
        "  overlap: train and test share an image (the same file): train/cat/1.png (train), test/dog/0.png (test)",
        "  label_conflict: one image has several labels (the same file): train/cat/1.png is cat, test/dog/0.png is dog",
        "no warnings",
        f"report: {Path('new', 'report.json')}",
    ]
    (task,) = json.loads((tmp_path / "new" / "report.json").read_text())["tasks"]
    assert task["data"] | {"name": "folder", "root": "photos", "seed": 0} == task["data"]
    assert task["findings"][0] == {
        "severity": "problem",
        "kind": "unreadable",
        "text": f"{photos}/val/cat/1.png: the file is empty (0 bytes)",
        "splits": ["val", "trainval"],
        "items": [{"split": split, "path": f"{photos}/val/cat/1.png", "label": 0} for split in ("val", "trainval")],
    }
    trainval = {"split": "trainval", "path": f"{photos}/train/cat/1.png", "label": 0}
    assert trainval in task["findings"][2]["items"]
    assert trainval not in task["findings"][1]["items"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=folder", "data.rot=photos"], "error: unknown key data.rot: did you mean data.root?"),
        (["data=folder", "data.root=photoss"], "error: data.root=photoss is not a folder"),
        (["data=foldr"], "error: data=foldr: no such config (did you mean folder?)"),
        (["data.root=photos"], "error: no dataset given: add data=<config>"),
        (["data=folder", "data.root=photos", "split=val"], "error: unknown key split"),
        (["data=folder", "data.root"], "error: "),
    ],
)
def test_a_mistake_ends_with_2_and_writes_nothing(check_here: Check, tmp_path: Path, words: list[str], message: str):
    code, shown, errors = check_here(*words, "--json", "report.json")
    assert (code, shown) == (2, "")
    assert errors.startswith(message)
    assert len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_command_line_of_train_is_accepted_and_what_does_not_matter_is_named(check_here: Check, tmp_path: Path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "pets.yaml").write_text("name: folder\nroot: photos\n")
    words = ["method=lora", "recipe.lr=1e-3", "backbone.num_frames=8", "data.seed=1", "--config-dir", "mine"]
    code, shown, errors = check_here("data=pets", *words)
    assert (code, shown.splitlines()[0]) == (0, f"folder: 2 classes, 12 images below {tmp_path / 'photos'}")
    said = "ignored, because it does not affect the data: method, recipe.lr, backbone.num_frames"
    assert errors.splitlines()[0] == said
    words[2] = "backbone.num_frames=null"  # train refuses clips of single images
    assert shown.splitlines()[-1].endswith("train.py --config-dir=mine data=pets " + " ".join(words[:4]))
    code, _, errors = check_here("data=pets")
    assert (code, errors.startswith("error: data=pets: no such config")) == (2, True)


def test_a_number_of_threads_starts_at_1(check_here: Check) -> None:
    code, _, errors = check_here("data=digits", "--workers", "0")
    assert (code, "must be at least 1, got 0" in errors) == (2, True)


def test_help_shows_what_to_type(repository: Path, check_here: Check) -> None:
    code, shown, _ = check_here("--help")
    assert code == 0
    for words in (
        f"{repository / 'tools' / 'check_data.py'} data=vtab1k",
        "--out DIR",
        "--json FILE",
        "--workers",
        "Exit code 0",
    ):
        assert words in shown
