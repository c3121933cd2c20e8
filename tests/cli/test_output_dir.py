"""An output_dir where no run can be written is refused at the start, by every verb that writes runs."""

import sys
from pathlib import Path

import pytest

from vision_peft.cli._roots import check_output_dir
from vision_peft.cli.main import main

VERBS = {
    "train": [],
    "tune": ["grid.recipe.lr=[1e-3,1e-2]"],
    "sweep": ["sweep=learning_rate", "method=lora"],
    "compare": ["methods=LoRA"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("given", "said"), [("afile", "is a file"), ("afile/runs", "lies below ")])
def test_a_file_is_refused_with_the_key(
    verb: str,
    given: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("")
    with pytest.raises(SystemExit) as ended:
        main([verb, "data=digits", f"output_dir={given}", *VERBS[verb]])
    errors = capsys.readouterr().err
    assert ended.value.code == 2
    assert errors.startswith(f"error: output_dir={given} {said}")
    assert errors.endswith("is a file: give a folder, new or not\n")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder in which nobody can make files: /proc")
def test_a_place_that_takes_no_folder_is_refused_with_the_key() -> None:
    with pytest.raises(
        OSError, match=r"^output_dir=/proc/x/y cannot be written \(.+\): give a folder in which you may"
    ):
        check_output_dir("/proc/x/y", "digits")


def test_a_name_that_no_file_can_have_is_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^output_dir=.*aaa cannot be written \(File name too long\)"):
        check_output_dir(str(tmp_path / ("a" * 5000)), "digits")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    check_output_dir(str(tmp_path / "new" / "runs"), "digits")
    check_output_dir(str(tmp_path), "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_runs_is_left_to_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is reported where nothing can be written any more."""
    (tmp_path / "digits").mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", None)
    check_output_dir(str(tmp_path), "digits")
