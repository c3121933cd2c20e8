"""The run folder: reported when finished, never overwritten unasked, untouched by what cannot be run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training import fit as fit_module
from vision_peft.training import trained as train_module
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_again_reports_the_finished_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    row = train(config).row
    before = tree(run_folder(config))
    monkeypatch.setattr(train_module, "_train_in", lambda *_: pytest.fail("it trained again"))
    capsys.readouterr()
    assert train(config).row == row
    assert "is finished" in capsys.readouterr().out
    assert tree(run_folder(config)) == before


def test_overwrite_starts_over(tiny: Tiny) -> None:
    config = tiny()
    train(config)
    (run_folder(config) / "bad_files.txt").write_text("of the run before")
    train(tiny("overwrite=true"))
    assert not (run_folder(config) / "bad_files.txt").exists()
    assert (run_folder(config) / "result.json").exists()


def test_the_run_of_another_config_is_refused_and_left_alone(tiny: Tiny) -> None:
    config = tiny()
    train(config)
    folder = run_folder(config)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("bottleneck: 64", "bottleneck: 8"))
    before = tree(folder)
    with pytest.raises(
        ValueError, match=r"another config \(method.bottleneck: 8 there, 64 here\): nothing was changed"
    ):
        train(config)
    assert tree(folder) == before


def test_a_run_that_another_process_trains_is_left_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("recipe.epochs=1")
    real = fit_module.seed_everything

    def start_again(*key: Any) -> None:
        for same in (config, tiny("recipe.epochs=1", "overwrite=true")):
            with pytest.raises(ValueError, match="is being trained by another process"):
                train(same)
        real(*key)

    monkeypatch.setattr(fit_module, "seed_everything", start_again)
    assert train(config).row.top1 is not None


def test_a_folder_that_is_no_run_is_refused(tiny: Tiny) -> None:
    folder = run_folder(tiny())
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"has no config\.yaml"):
        train(tiny())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.root=nowhere"], "data.root=nowhere"),
        (["backbone.img_size=33"], "33 is not a multiple of the patch size"),
        (["backbone.name=vit_tiny_patch61_224"], "vit_tiny_patch61_224"),
        (["recipe.drop_path=0.1"], "recipe.frozen_mode=train"),
        (["device=cuda:7"], "device=cuda:7"),
        (["backbone.checkpoint=nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises((ValueError, OSError), match=expected):
        train(tiny(*overrides))
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_neither_emptied_nor_followed(tiny: Tiny, tmp_path: Path) -> None:
    folder, precious = run_folder(tiny("recipe.epochs=1")), tmp_path / "thesis.tex"
    folder.mkdir(parents=True)
    precious.write_text("precious")
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(ValueError, match=r"\.lock is a link: only files and folders belong there, remove it"):
        train(tiny("recipe.epochs=1"))
    assert precious.read_text() == "precious"
