"""`vision-peft merge` as a user types it."""

from pathlib import Path

import pytest
from support.examples import list_examples
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.cli.main import main


def test_the_examples_of_the_help_run_and_end_in_lines_to_paste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tuned(tmp_path / "adapter")
    first, second = list_examples("merge", RUN="adapter", ADAPTER="adapter")
    assert main(["merge", *first]) == 0
    shown = capsys.readouterr().out
    assert "wrote flowers/model.safetensors and config.json beside it; logits differ by at most " in shown
    lines = [line.strip().removeprefix("model = ") for line in shown.splitlines() if "timm.create_model" in line]
    made = [eval(line, {"timm": __import__("timm")}) for line in lines]
    assert [model.num_classes for model in made] == [3, 3]
    assert main(["merge", *second]) == 0
    assert (tmp_path / "flowers.safetensors").is_file()
    assert "local-dir" not in capsys.readouterr().out, "timm takes model.safetensors of a folder first"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "-o", "out"], "nowhere is not a folder: wanted a run folder, an adapter folder or hf-hub:"),
        (["adapter", "-o", "out.pth"], "-o out.pth ends in .pth: wanted a folder, or a file that ends in .safetensors"),
        (
            ["adapter", "-o", "there"],
            "already there: there/config.json; nothing was written, --overwrite replaces them",
        ),
        (["vpt", "-o", "out"], "cannot merge VPT: VPTAttention is not a constant update of the weights it sits on; "),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tuned(tmp_path / "adapter")
    save_tuned(tmp_path / "vpt", vp.VPT(tokens=2))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["merge", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "there", "vpt"]
    assert (tmp_path / "there" / "config.json").read_text() == "mine"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["config.json"]
