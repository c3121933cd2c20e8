"""Images of any number of channels, from files to an adapter and back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from support.band_images import write_bands
from support.killed import killed_at
from support.pair import in_two_processes
from support.tiny_run import left_behind, tiny_config

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training.build import create_bare_model
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

LORA = ["method=lora", "recipe.lr=1e-2", "max_bad_fraction=0.5"]


def configure(root: Path, output_dir: Path, channels: int, *overrides: str) -> Config:
    return tiny_config(root, output_dir, *LORA, f"data.channels={channels}", *overrides)


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_a_run_is_trained_evaluated_and_asked(tmp_path: Path, channels: int) -> None:
    root = write_bands(tmp_path / "data", channels)
    row = train(configure(root, tmp_path / "runs", channels, "recipe.augment=flip")).row
    folder = run_folder(configure(root, tmp_path / "runs", channels, "recipe.augment=flip"))
    info = json.loads((folder / "adapter/adapter.json").read_text())
    values = np.stack([tifffile.imread(path).reshape(13, 10, channels) for path in (root / "train").rglob("*.tif")])
    assert info["input"]["mean"] == pytest.approx(values.mean((0, 1, 2)).tolist(), rel=1e-12)
    assert info["input"]["std"] == pytest.approx(values.std((0, 1, 2)).tolist(), rel=1e-12)
    assert (info["input"]["channels"], info["input"]["dtype"]) == (channels, "uint16")
    assert info["backbone"]["architecture"]["in_chans"] == info["backbone"]["arguments"]["in_chans"] == channels
    assert row.normalisation == "bands"
    assert evaluate_saved(folder).metrics.confusion == row.confusion
    predict = vp.Predictor(folder)
    image = root / "test/bright/0.tif"
    (of_file,), (of_array,) = predict([image]), predict([tifffile.imread(image)])
    assert of_file == of_array
    with pytest.raises(ValueError, match=f"this model takes arrays of {channels} bands of uint16, got uint8"):
        predict(np.zeros((13, 10, channels), np.uint8))


def test_adapters_of_rgb_record_what_they_did(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "adapter"
    model = vp.attach(create_bare_model(tiny_config(photos, tmp_path)), vp.LoRA())
    info = json.loads((vp.save_adapter(model, folder) / "adapter.json").read_text())
    assert "in_chans" not in info["backbone"]["architecture"]
    assert "in_chans" not in info["backbone"]["arguments"]


def test_an_adapter_is_refused_on_a_backbone_of_other_channels(tmp_path: Path) -> None:
    def create(channels: int) -> Any:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 24}
        return vp.create_backbone("vit_tiny_patch16_224", num_classes=2, in_chans=channels, **sizes)

    vp.save_adapter(vp.attach(create(4), vp.LoRA()), tmp_path / "four")
    vp.save_adapter(vp.attach(create(3), vp.LoRA()), tmp_path / "three")
    with pytest.raises(ValueError, match=r"belongs to another backbone .*: in_chans: adapter 4, model 3"):
        vp.load_adapter(create(3), tmp_path / "four")
    with pytest.raises(ValueError, match=r"belongs to another backbone .*: in_chans: adapter 3, model 10"):
        vp.load_adapter(create(10), tmp_path / "three")


def test_data_of_other_channels_is_refused_in_evaluation(tmp_path: Path, photos: Path) -> None:
    root = write_bands(tmp_path / "four", 4, number=2)
    folder = train(configure(root, tmp_path / "runs", 4, "recipe.epochs=1")).folder
    of_bytes = write_bands(tmp_path / "bytes", 4, number=1, dtype="uint8")
    other = ["data=folder", "data.channels=4"]
    with pytest.raises(
        ValueError, match="takes images of 4 channels of uint16, data=folder has images of 4 channels of u"
    ):
        evaluate_saved(folder, [*other, f"data.root={of_bytes}"])
    for split in ("train", "val", "test"):
        for name, own in (("dark", "red"), ("bright", "blue")):
            shutil.copytree(photos / split / own, tmp_path / "photos" / split / name)
    with pytest.raises(ValueError, match=r"data=folder has RGB images: give data of that kind \(data.channels=4\)"):
        evaluate_saved(folder, ["data=folder", "data.channels=null", f"data.root={tmp_path / 'photos'}"])


def test_all_that_is_wrong_with_files_is_said_before_training(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 4, number=20, splits=("train", "val"))
    tifffile.imwrite(root / "train/dark/3.tif", np.zeros((12, 10, 3), np.uint16))
    tifffile.imwrite(root / "val/dark/4.tif", np.zeros((12, 10), np.uint16))
    np.save(root / "train/bright/x.npy", np.zeros((12, 10, 4), np.uint8))
    np.save(root / "train/bright/y.npy", np.zeros((12, 10, 4), np.complex64))
    config = configure(root, tmp_path / "runs", 4, "read_test=false")
    with pytest.raises(ValueError, match="files cannot be decoded") as caught:
        train(config)
    lines = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1].removeprefix(f"{root}/") for line in lines[1:]] == [
        "train/bright/x.npy: its values are uint8, the data has uint16: their scales differ",
        f"train/bright/y.npy: its values are complex64: wanted one of {', '.join(TYPES)}",
        "train/dark/3.tif: it has 3 channels, wanted 4",
        "val/dark/4.tif: it has 1 channel, wanted 4",
    ]
    assert not run_folder(config).exists()


TYPES = ("uint8", "uint16", "int8", "int16", "float16", "float32", "float64")


def test_nan_is_refused_or_becomes_the_mean(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 2, number=2, dtype="float32")
    for path in (root / "train/dark/0.tif", root / "val/dark/1.tif"):
        values = tifffile.imread(path)
        values[:4] = np.nan
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match="2 problems") as caught:
        train(configure(root, tmp_path / "runs", 2, "max_bad_fraction=0"))
    assert str(caught.value).count("80 values are NaN: data.missing=mean replaces them by the mean of their band") == 2
    row = train(configure(root, tmp_path / "runs", 2, "data.missing=mean", "recipe.epochs=1")).row
    assert row.n_bad == 0


def run_pair(rank: int, folder: Path) -> Any:
    config = configure(folder / "data", folder / "pair", 4)
    train(config)
    return {name: left_behind(run_folder(config))[name] for name in ("top1", "confusion", "val_top1")}


def test_two_processes_measure_and_answer_as_one_does(tmp_path: Path) -> None:
    write_bands(tmp_path / "data", 4, number=8)
    config = configure(tmp_path / "data", tmp_path / "alone", 4)
    row = train(config).row
    first, second = in_two_processes(run_pair, tmp_path)
    assert first["given"] == second["given"]
    folders = [run_folder(config), run_folder(configure(tmp_path / "data", tmp_path / "pair", 4))]
    alone, pair = (json.loads((folder / "adapter/adapter.json").read_text())["input"] for folder in folders)
    assert alone == pair
    assert first["given"]["val_top1"] == pytest.approx(row.val_top1)


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 4)
    words = ["recipe.augment=crop_flip", "recipe.random_erasing=0.3", "save_every=1", "recipe.batch_size=4"]
    whole, killed = (configure(root, tmp_path / name, 4, *words) for name in ("whole", "killed"))
    train(whole)
    killed_at((3, 0), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.channels=0"], "data.channels must be 1 to 4096, got 0"),
        (["data.channels=2", "data.bands=[a,a]"], "data.bands names one twice: a, a"),
        (["data.channels=2", "data.stack=[a.tif]"], "data.stack must have 2 entries (data.channels), got 1"),
        (["data.channels=2", "data.show_bands=[2]"], "data.show_bands must be 1 or 3 numbers from 0 to 1, got [2]"),
        (["data.channels=2", "data.value_range=image"], "data.value_range=image is for grey images"),
        (["data.channels=2", "data.exif_rotation=true"], "data.exif_rotation is for photographs"),
        (["data.nodata=-1"], "data.nodata: for images with bands; give data.channels too"),
        (["data.channels=2", "recipe.augment=randaugment"], "recipe.augment=randaugment changes colours"),
        (["data.channels=2", "recipe.normalisation=imagenet"], "needs data.value_range=[low,high]: give it"),
        (["data.channels=2", "data.value_range=[0,9]", "recipe.normalisation=imagenet"], "is for 3 channels"),
        (["recipe.normalisation=bands"], "recipe.normalisation=bands needs data.channels"),
        (["data.channels=2", "backbone.in_chans=4"], "backbone.in_chans=4 does not fit the images, which are of data"),
        (["backbone.in_chans=4"], "backbone.in_chans=4 does not fit the images, which are RGB (data.channels=null)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, photos: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(photos, tmp_path, *overrides)
    assert words in str(caught.value)
