"""`vision-peft predict --masks`: every image has a file of its own, a table says which, and depths are those found."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.map_adapters import save_maps
from support.mask_files import write_image

from vision_peft.cli.main import main
from vision_peft.inference.predict_masks import find_mask, write_masks
from vision_peft.inference.predictor import Predictor


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "masks.csv").read_text(encoding="utf-8").splitlines()))


def test_images_of_one_name_have_files_of_their_own_and_a_table_says_which(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_maps(here / "SEG")
    paths = ["x/a.jpg", "y/A.jpg", "y/a-2.jpg", "z/a.png", "z/b.png"]
    for seed, path in enumerate(paths):
        write_image(here / path, seed=seed)
    (here / "z" / "a-3.png").write_bytes(b"no image")
    words = ["predict", "SEG", *paths, "z/a-3.png", "--masks", "out", "--device", "cpu"]
    assert main(words) == 1
    rows = read_table(here / "out")
    assert [row["path"] for row in rows] == paths
    assert [row["mask"] for row in rows] == ["a.png", "A-2.png", "a-2-2.png", "a-3.png", "b.png"]
    assert {path.name for path in (here / "out").glob("*.png")} == {row["mask"] for row in rows}
    predictor = Predictor("SEG", device="cpu")
    for row in rows:
        with Image.open(here / "out" / row["mask"]) as image:
            assert np.array_equal(np.array(image), find_mask(predictor, row["path"])[1])
        assert (here / "out" / row["overlay"]).is_file()
    assert len({row["overlay"] for row in rows}) == len(paths)
    assert "wrote 5 masks to out, and overlays to out/overlays; out/masks.csv says which" in capsys.readouterr().out


def test_the_table_has_what_was_written_where_something_ends_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(save_maps(here / "SEG"), device="cpu")
    for name in ("a.jpg", "b.jpg"):
        write_image(here / name)

    def stop_at_b(used: Predictor, path: str) -> object:
        if path == "b.jpg":
            raise KeyboardInterrupt
        return find_mask(used, path)

    monkeypatch.setattr("vision_peft.inference.predict_masks.find_mask", stop_at_b)
    with pytest.raises(KeyboardInterrupt):
        write_masks(predictor, ["a.jpg", "b.jpg"], here / "out", overlays=False)
    assert [row["mask"] for row in read_table(here / "out")] == ["a.png"]


@pytest.mark.parametrize(("centre", "ending"), [(2.0, ".png"), (500.0, ".tif"), (1e-4, ".tif")])
def test_depths_of_any_range_are_in_the_files_in_millimetres(
    here: Path, capsys: pytest.CaptureFixture[str], centre: float, ending: str
) -> None:
    save_maps(here / "DEPTH", {"kind": "depth", "centre": centre})
    write_image(here / "a.jpg")
    assert main(["predict", "DEPTH", "a.jpg", "--masks", "out", "--device", "cpu"]) == 0
    _, wanted = find_mask(Predictor("DEPTH", device="cpu"), "a.jpg")
    (row,) = read_table(here / "out")
    assert row["mask"] == f"a{ending}"
    with Image.open(here / "out" / row["mask"]) as image:
        found = np.array(image).astype(np.float64) / 1000
        described = image.info["Description"] if ending == ".png" else image.tag_v2[270]  # pyright: ignore
    assert described == "depth in millimetres"
    assert np.abs(found - wanted).max() <= (0.0005 if ending == ".png" else 1e-6 * centre * 10)
    assert found.min() > 0  # which would be no measurement
    said = capsys.readouterr().out
    assert "depths are in millimetres, PNG of 16 bits" in said
    assert ("; 1 that do not fit into 1 to 65,535 are TIFF of floats" in said) == (ending == ".tif")


def test_an_output_that_is_no_number_is_listed_and_has_no_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = Predictor(save_maps(here / "SEG"), device="cpu")
    write_image(here / "a.jpg")
    predictor.model.head.classifier.bias.data.fill_(float("nan"))
    written = write_masks(predictor, ["a.jpg"], here / "out", overlays=False)
    assert written.failures == {"a.jpg": "the output of the model is NaN or infinite"}
    assert [path.name for path in (here / "out").iterdir()] == ["masks.csv"]
