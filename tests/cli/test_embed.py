"""vision-peft embed: what a user types, what is written, and how a search is scored."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import randomise_tuned
from support.tiny_states import NAME, TINY

import vision_peft as vp
from vision_peft.cli import _embed
from vision_peft.cli.main import main
from vision_peft.config.parse import parse_backbone
from vision_peft.retrieval.episodes import score_episodes
from vision_peft.retrieval.score import score_retrieval
from vision_peft.training.build import create_model

INPUT: dict[str, Any] = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
FROZEN = ["backbone=timm", f"backbone.name={NAME}", "backbone.pretrained=false", "backbone.img_size=32"]
FROZEN += ["backbone.kwargs.depth=2", "backbone.kwargs.embed_dim=24"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY)
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "linear", 2)
    randomise_tuned(model)
    return vp.save_adapter(model, tmp_path_factory.mktemp("adapter"), class_names=["a", "b"], input_config=INPUT)


@pytest.fixture
def here(tmp_path: Path, photos: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an adapter of other classes and photographs, which is the current one."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(adapter, tmp_path / "RUN")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> None:
    assert main(["embed", *words]) == code


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as end:
        main(["embed", *words])
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    return line.removeprefix("error: ")


def list_photos(folder: str) -> tuple[list[str], list[str]]:
    paths = sorted(Path(folder).glob("*/*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def test_features_are_those_of_the_python_call_and_bad_files_are_listed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "photos" / "val" / "red" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run("RUN", "photos/val", "gone.png", "--out", "a.npz", "--normalise", "--workers", "0", "--batch-size", "5", code=1)
    shown = capsys.readouterr()
    paths, labels = list_photos("photos/val")
    paths.remove("photos/val/red/bad.png")
    found = np.load("a.npz", allow_pickle=False)
    assert found["paths"].tolist() == paths
    assert found["classes"][found["labels"]].tolist() == labels[: len(paths)]
    expected = vp.embed("RUN", paths, normalise=True, device="cpu")
    torch.testing.assert_close(torch.from_numpy(found["features"]), expected)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(len(paths)))
    assert shown.out.splitlines() == [f"{len(paths)} images, 16 numbers each", "wrote a.npz"]
    assert "2 inputs could not be read:\n  gone.png: there is no such file\n  photos/val/red/bad.png: " in shown.err
    assert not list(here.glob("*.tmp"))


@pytest.mark.parametrize("which", ["head", "class", "patches"])
def test_of_a_frozen_backbone_any_tokens_can_be_taken(here: Path, which: str) -> None:
    run(*FROZEN, "photos/val", "--out", "a.npz", "--features", which, "--workers", "0")
    paths, _ = list_photos("photos/val")
    found = torch.from_numpy(np.load("a.npz")["features"])
    assert found.shape == (len(paths), 24)
    kwargs = {"depth": 2, "embed_dim": 24}
    section = {"name": NAME, "pretrained": False, "img_size": 32, "kwargs": kwargs}
    model = create_model(parse_backbone(section), seed=0)
    torch.testing.assert_close(found, vp.embed(model, paths, features=which))
    one = vp.embed(model, paths[0], features=which)
    torch.testing.assert_close(one, found[0])
    assert (which == "patches") != torch.allclose(one, vp.embed(model, paths[0]), atol=1e-5)


def test_a_search_is_scored_over_classes_that_the_model_does_not_know(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("photos/val/red", "photos/train/pink")  # of the gallery alone
    (here / "photos" / "val" / "loose.png").write_bytes(next((here / "photos/val/red").iterdir()).read_bytes())
    words = ["--json", "s.json", "--picture", "p.png", "--k", "3", "--at", "2,1", "--workers", "0"]
    run("RUN", "photos/val", "--against", "photos/train", *words)
    shown = capsys.readouterr()
    (queries, asked), (gallery, given) = list_photos("photos/val"), list_photos("photos/train")
    names = sorted({*asked, *given})
    numbers = [torch.tensor([names.index(name) for name in each]) for each in (asked, given)]
    sides = [vp.embed("RUN", each, device="cpu") for each in (queries, gallery)]
    expected = score_retrieval(sides[0], numbers[0], sides[1], numbers[1], at=[1, 2], k=3)
    figures = json.loads(Path("s.json").read_text())
    assert figures["map_at_r"] == pytest.approx(expected.map_at_r, abs=1e-6)
    assert figures["recall"] == pytest.approx({str(k): value for k, value in expected.recall.items()}, abs=1e-6)
    assert f"{len(queries) + 1} images, 16 numbers each; gallery {len(gallery)}" in shown.out
    assert expected.describe() in shown.out
    assert "1 queries without a known class are left out of the scores" in shown.err
    with Image.open("p.png") as picture:
        assert picture.size[1] > 12 * 132


def test_each_is_searched_among_the_others_and_episodes_are_drawn(here: Path) -> None:
    words = ["--leave-one-out", "--shot", "2", "--way", "all", "--queries", "0", "--episodes", "7", "--seed", "5"]
    run("RUN", "photos/val", *words, "--json", "s.json", "--picture", "p.png", "--workers", "0")
    paths, labels = list_photos("photos/val")
    numbers = torch.tensor([sorted({*labels}).index(name) for name in labels])
    features = vp.embed("RUN", paths, device="cpu")
    figures = json.loads(Path("s.json").read_text())
    assert figures["knn"] == pytest.approx(score_retrieval(features, numbers).knn, abs=1e-6)
    episodes = score_episodes(features, numbers, way=None, shot=2, queries=None, episodes=7, seed=5)
    assert figures["few_shot"]["class_mean"] == pytest.approx(episodes.class_mean, abs=1e-6)


def test_a_split_of_data_is_embedded_and_searched_in_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data=folder", "data.root=photos"]
    run("RUN", *data, "split=val", "--against", "split=train", "--out", "v.npz", "--workers", "0")
    first = capsys.readouterr().out.splitlines()[1]
    run("RUN", *data, "split=train", "--out", "t.npz", "--workers", "0")
    capsys.readouterr()
    found = np.load("v.npz")
    assert found["classes"].tolist() == ["blue", "green", "red"]
    run("v.npz", "--against", "t.npz")
    assert capsys.readouterr().out.splitlines()[1] == first, "features that were written give the same score"
    run("v.npz", "t.npz", "--shot", "1", "--way", "3", "--episodes", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "48 rows, 16 numbers each"
    assert lines[1].startswith("3-way 1-shot: nearest class mean")


def test_a_query_is_not_its_own_neighbour_in_the_picture(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(_embed, "draw_neighbours", lambda queries, gallery, rows, *rest: drawn.extend(rows))
    run("RUN", "photos/val", "--leave-one-out", "--picture", "p.png", "--workers", "0")
    for query, near in drawn:
        assert len(near) == 5
        assert query.place not in [shown.place for shown in near]
        assert [shown.cosine for shown in near] == sorted((shown.cosine for shown in near), reverse=True)
    assert len(drawn) == 12


@pytest.mark.parametrize("kind", ["ordinal", "embedding", "regression"])
def test_grades_and_classes_to_embed_are_classes_and_numbers_are_not(
    here: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    paths, labels = list_photos("photos/val")
    grades = ["blue", "green", "red"]
    lines = [f"{path},{grades.index(label)}" for path, label in zip(paths, labels, strict=True)]
    Path("list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    data = ["data=list", "data.root=.", "data.train=list.csv", f"data.task_kind={kind}", "split=trainval"]
    if kind == "regression":
        assert stop(capsys, "RUN", *data, "--leave-one-out").startswith("no class of the images is known")
        return
    run("RUN", *data, "--leave-one-out", "--workers", "0")
    numbers = torch.tensor([grades.index(label) for label in labels])
    expected = score_retrieval(vp.embed("RUN", paths, device="cpu", exif_rotation=False), numbers)
    assert f"R@1 {expected.recall[1]:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give a model first"),
        (("photos",), "give either files, folders or lists, or data=<config>"),
        (("RUN", "photos"), "nothing to do: give --out FILE, --against INPUT, --leave-one-out or --shot N"),
        (("RUN", "photos", "data=folder", "--leave-one-out"), "give either files, folders or lists, or data=<config>"),
        (("RUN", "photos", "split=val", "--leave-one-out"), "split=... selects from a dataset"),
        (("RUN", "photos", "--against", "split=val"), "split=... selects from a dataset"),
        (("RUN", "data=folder", "--against", "split=val", "photos"), "--against takes either files"),
        (("RUN", "photos", "--against", "photos", "--leave-one-out"), "--against searches a gallery"),
        (("RUN", "photos", "--out", "a.npz", "--picture", "a.png"), "--picture shows a search"),
        (("RUN", "photos", "--out", "a.npz", "--json", "a.json"), "--json holds scores"),
        (("RUN", "photos", "--out", "a.npz", "--way", "3"), "--way is for few-shot episodes: give --shot N as well"),
        (("RUN", "photos", "--leave-one-out", "--at", "0"), "--at must be whole numbers above 0"),
        (("RUN", "photos", "--leave-one-out", "--k", "0"), "--k must be at least 1"),
        (("RUN", "photos", "--out", "a.csv"), "--out must end in .npz or .parquet, got a.csv"),
        (("RUN", "photos", "--out", "none/a.npz"), "--out none/a.npz: there is no folder none"),
        (("RUN", "photos", "--out", "there.npz"), "--out there.npz is there already: --overwrite replaces it"),
        (("there.npz", "--against", "photos"), "photos is not a feature file"),
        (("there.npz", "--out", "a.npz"), "features from files can only be scored"),
        ((*FROZEN, "photos", "--out", "a.npz", "--backbone", "x"), "--backbone is for an adapter"),
        (("nowhere", "photos", "--out", "a.npz"), "nowhere is not a folder"),
        (("RUN", "data=foldr", "--out", "a.npz"), "data=foldr: no such config (did you mean folder?)"),
        (("RUN", "empty", "--out", "a.npz"), "nothing to embed: no images among empty"),
        (("RUN", "photos/val/red/0.png", "--leave-one-out"), "no class of the images is known"),
        (("there.npz", "--leave-one-out"), "there.npz is not a file of features"),
    ],
)
def test_mistakes_are_answered_in_a_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    Path("there.npz").write_bytes(b"x")
    Path("empty").mkdir()
    if not words:
        words = ("data=folder", "--out", "a.npz")
    assert stop(capsys, *words).startswith(expected)
    assert not Path("a.npz").exists()
