"""Run and adapter folders of strangers: what leads out of them, or never ends, is an error that names it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.adapters import tuned_model
from support.families import tiny as tiny_model
from support.hostile_inputs import is_one_line

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.results.find_rows import find_rows
from vision_peft.runs.run_files import WRITTEN
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
SHORT = ("recipe.epochs=1", "trackers=[]")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links are those of POSIX")


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Fail a test that waits for a pipe."""

    def late(*_: Any) -> None:
        raise TimeoutError("it waits for something that never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder elsewhere, which must stay as it is."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    return folder


def untouched(precious: Path) -> bool:
    return [(path.name, path.read_text()) for path in precious.iterdir()] == [("thesis.tex", "precious")]


FILES = ("log.txt", "metrics.jsonl", "bad_files.txt", "result.json", "config.yaml", "config.yaml.tmp", ".lock")
FOLDERS = ("state", "adapter", "events", "wandb")


@pytest.mark.parametrize("overrides", [(), ("overwrite=true",)], ids=["resume", "overwrite"])
@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "state/step_1.tmp", "adapter/adapter.json"])
def test_a_run_folder_with_a_link_is_left_alone(
    tiny: Tiny, precious: Path, name: str, overrides: tuple[str, ...]
) -> None:
    config = tiny(*SHORT, *overrides)
    folder = run_folder(config)
    (folder / name).parent.mkdir(parents=True)
    target = precious if name in FOLDERS or name.endswith("step_1.tmp") else precious / "thesis.tex"
    (folder / name).symlink_to(target)
    with pytest.raises(ValueError, match=rf"{name.rpartition('/')[2]} is a link") as refused:
        train(config)
    assert is_one_line(refused.value)
    assert untouched(precious)
    assert [path for path in folder.rglob("*") if path.is_file()] in ([], [folder / name])


@pytest.mark.parametrize("name", [".lock", "log.txt", "config.yaml", "result.json", "state/latest"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(tiny: Tiny, name: str) -> None:
    config = tiny(*SHORT)
    (run_folder(config) / name).parent.mkdir(parents=True)
    os.mkfifo(run_folder(config) / name)
    with pytest.raises(ValueError, match=f"{name.rpartition('/')[2]} is a pipe"):
        train(config)


@pytest.mark.parametrize("overrides", [(), ("overwrite=true",)], ids=["resume", "overwrite"])
def test_a_link_in_place_of_the_run_folder_is_not_followed(
    tiny: Tiny, precious: Path, overrides: tuple[str, ...]
) -> None:
    config = tiny(*SHORT, *overrides)
    run_folder(config).parent.mkdir(parents=True)
    run_folder(config).symlink_to(precious)
    with pytest.raises(ValueError, match="is a link: a run is written to a folder of its own"):
        train(config)
    assert untouched(precious)


def test_overwrite_refuses_a_folder_that_holds_something_else_than_a_run(tiny: Tiny) -> None:
    config = tiny(*SHORT, "overwrite=true")
    folder = run_folder(config)
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"has no config\.yaml, so it is not a run: move it away"):
        train(config)
    assert untouched(folder)


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tiny: Tiny) -> None:
    train(tiny("recipe.epochs=1"))
    folder = run_folder(tiny("recipe.epochs=1"))
    theirs = [folder / "notes.txt", folder / "adapter" / "README.md", folder / "figures" / "a.png"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (folder / "log.txt").write_text("of the run before\n")
    (folder / "confusion.csv").write_text("of the run before\n")
    train(tiny("recipe.epochs=1", "overwrite=true", "read_test=false"))
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    assert "before" not in (folder / "log.txt").read_text()
    assert not (folder / "confusion.csv").exists()


def test_all_that_a_run_leaves_is_known_to_overwrite(tiny: Tiny) -> None:
    train(tiny("recipe.epochs=1", "save_every=1"))
    found = {path.name for path in run_folder(tiny("recipe.epochs=1")).iterdir()}
    assert found - {".lock"} <= {*WRITTEN["."], *WRITTEN}
    assert {"config.yaml", "log.txt", "adapter", "state", "events"} <= found


def test_a_run_with_a_link_is_neither_evaluated_nor_loaded(tiny: Tiny, precious: Path) -> None:
    config = tiny(*SHORT)
    folder = train(config).folder
    (folder / "adapter" / "adapter.json").rename(precious / "thesis.tex")
    (folder / "adapter" / "adapter.json").symlink_to(precious / "thesis.tex")
    for read in (evaluate_saved, vp.load):
        with pytest.raises(ValueError, match=r"adapter\.json is a link"):
            read(folder)
    (folder / "result.json").rename(precious / "row")
    (folder / "result.json").symlink_to(precious / "row")
    with pytest.raises(ValueError, match=r"result\.json is a link"):
        find_rows([folder.parent])


@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_an_adapter_folder_holds_files(tmp_path: Path, name: str) -> None:
    folder = vp.save_adapter(tuned_model(), tmp_path / "adapter")
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{name} is a link, wanted a file"):
        vp.load_adapter(tiny_model("vit"), folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe, wanted a file"):
        vp.load_adapter(tiny_model("vit"), folder)


def test_the_links_of_the_hubs_cache_are_files(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1234", tmp_path / "models--a--b" / "blobs"
    model = tuned_model()
    vp.save_adapter(model, snapshot)
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / f"hash-{path.name}")
        path.symlink_to(f"../../blobs/hash-{path.name}")
    vp.load_adapter(tiny_model("vit"), snapshot)
    (snapshot / "adapter.json").unlink()
    (snapshot / "adapter.json").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"adapter\.json is a link"):
        vp.load_adapter(tiny_model("vit"), snapshot)
