"""What `embed` and `evaluate` refuse before they work: options without an effect, outputs that are there."""

from pathlib import Path

import numpy as np
import pytest
from support.tuned_folders import save_tuned

from vision_peft.cli.main import main
from vision_peft.inference.feature_files import Features, write_features


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with features of two classes and an adapter, which is the current one."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1])
    write_features(tmp_path / "f.npz", Features(rows, [f"{number}.png" for number in range(6)], labels, ["a", "b"]))
    save_tuned(tmp_path / "RUN")
    (tmp_path / "there.json").write_text("mine")
    return tmp_path


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "words",
    [
        ["--features", "patches"],
        ["--normalise"],
        ["--no-exif"],
        ["--backbone", "nonsense"],
        ["--checkpoint", "nowhere.pth"],
        ["--device", "cuda:7"],
        ["--precision", "bf16"],
        ["--batch-size", "4"],
        ["--workers", "0"],
    ],
)
def test_what_is_of_a_model_is_refused_with_features_from_files(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["embed", "f.npz", "--leave-one-out"]) == 0
    capsys.readouterr()
    assert stop(capsys, "embed", "f.npz", "--leave-one-out", *words) == (
        f"error: features from files are scored as they are, without a model: leave out {words[0]}"
    )


@pytest.mark.parametrize(
    "words", [["embed", "f.npz", "--leave-one-out"], ["evaluate", "RUN", "data=folder", "data.root=nowhere"]]
)
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("there.json", "--json there.json is there already: --overwrite replaces it"),
        ("none/a.json", "--json none/a.json: there is no folder none"),
        ("RUN", "--json RUN is a folder, wanted a file"),
    ],
)
def test_a_file_of_figures_is_checked_before_the_work(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], file: str, message: str
) -> None:
    assert stop(capsys, *words, "--json", file) == f"error: {message}"
    assert Path("there.json").read_text() == "mine"


def test_figures_go_to_a_file_that_may_be_replaced_and_to_a_device(here: Path) -> None:
    assert main(["embed", "f.npz", "--leave-one-out", "--json", "there.json", "--overwrite"]) == 0
    assert Path("there.json").read_text().startswith("{")
    assert main(["embed", "f.npz", "--leave-one-out", "--json", "/dev/null"]) == 0
