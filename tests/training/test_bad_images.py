"""Undecodable images in a run: replaced and listed in training, an error or wrong answers in evaluation."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.pair import in_two_processes
from support.tiny_run import tiny_config
from torch import nn

from vision_peft.config.errors import ConfigError
from vision_peft.config.run_id import run_folder
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.bad_files import TooManyBadFiles
from vision_peft.data.loading.loader import eval_loader
from vision_peft.data.transforms.images import eval_transform
from vision_peft.distributed.device import choose_compute
from vision_peft.packed_bits import unpack_bits
from vision_peft.tasks.classes import Classes
from vision_peft.training import trained as train_module
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.evaluation import evaluate
from vision_peft.training.trained import train

Break = Callable[..., Path]


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Break:
    """`broken("train/red/0.png", ...)`: a copy of the photos in which these are web pages."""

    def make(*names: str) -> Path:
        root = tmp_path / "photos"
        shutil.copytree(photos, root)
        for name in names:
            (root / name).write_text("<html>404</html>")
        return root

    return make


@pytest.mark.parametrize("cache_mb", ["auto", "0"])
def test_a_bad_training_image_is_replaced_said_and_listed_once(broken: Break, tmp_path: Path, cache_mb: str) -> None:
    root = broken("train/red/3.png")
    (root / "train/red/notes.txt").touch()
    config = tiny_config(root, tmp_path / "runs", "max_bad_fraction=0.05", f"cache_mb={cache_mb}", "recipe.epochs=3")
    row = train(config).row
    assert row.n_bad == 0
    (line,) = (run_folder(config) / "bad_files.txt").read_text().splitlines()
    assert line.startswith(f"{root / 'train/red/3.png'}\tnot a known image format")
    log = (run_folder(config) / "log.txt").read_text()
    assert log.count("3.png: not a known image format") == 1
    assert log.count("training uses the next image instead") == 1
    assert log.count(f"warning: {root}: 1 file left out: 1 .txt\n") == 1


def test_too_many_bad_training_images_stop_the_run_which_goes_on_once_they_are_allowed(
    broken: Break, tmp_path: Path
) -> None:
    root = broken("train/red/3.png", "train/blue/0.png")
    with pytest.raises(TooManyBadFiles, match=r"of 24 training images cannot be decoded so far.*\n.*\.png: not a") as e:
        train(tiny_config(root, tmp_path / "runs", "check_files=off"))
    config = tiny_config(root, tmp_path / "runs", "max_bad_fraction=0.1")
    assert str(run_folder(config) / "bad_files.txt") in str(e.value)
    assert train(config).row.top1 is not None
    assert len((run_folder(config) / "bad_files.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_bad_image_in_evaluation_is_an_error_or_a_wrong_answer(broken: Break, tmp_path: Path, split: str) -> None:
    root = broken(*(f"{split}/{name}/{number}.png" for name in ("red", "green", "blue") for number in (1, 2)))
    with pytest.raises(ImageDecodeError, match=r"1\.png.*count such images as wrong answers with bad_eval=wrong"):
        train(tiny_config(root, tmp_path / "runs", "check_files=off"))
    config = tiny_config(root, tmp_path / "runs", "bad_eval=wrong", "recipe.lr=0.01")
    row = train(config).row
    assert len((run_folder(config) / "bad_files.txt").read_text().splitlines()) == 6
    assert row.n_bad == (6 if split == "test" else 0)
    if split == "test":
        assert row.n_test == 24
        assert sum(map(sum, row.confusion or [])) == 18
        right = sum(counts[k] for k, counts in enumerate(row.confusion or []))
        assert row.top1 == pytest.approx(100 * right / 24)
        with pytest.raises(ImageDecodeError):
            evaluate_saved(run_folder(config), ["bad_eval=error"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = evaluate_saved(run_folder(config), [])
        assert (again.metrics.top1, again.metrics.bad) == (row.top1, 6)
        assert sum("counts it as wrong" in str(warning.message) for warning in caught) == 6
    else:
        best = max(entry["val_top1"] for entry in row.curve)
        assert row.val_top1 == best <= 75


def cut(*paths: Path) -> None:
    """Cut images behind their headers."""
    for path in paths:
        path.write_bytes(path.read_bytes()[:-60])


ALL_BAD = (
    r"(?s)files cannot be decoded\. Fix or remove them; .*: 4 problems\n  train: .*/blue/0\.png: not a known .*"
    r"train: .*/red/3\.png: not a known .*val: .*/blue/2\.png: OSError.*test: .*/red/1\.png: OSError: [^\n]*$"
)


@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_all_files_of_all_splits_are_looked_at_before_anything_is_trained(
    broken: Break, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: str
) -> None:
    root = broken("train/red/3.png", "train/blue/0.png")
    cut(root / "val/blue/2.png", root / "test/red/1.png", root / "train/red/5.png")
    monkeypatch.setattr(train_module, "_train_in", lambda *_: pytest.fail("it trained"))
    with pytest.raises(ValueError, match=ALL_BAD):
        train(tiny_config(root, tmp_path / "runs", f"dry_run={dry_run}"))
    assert not (tmp_path / "runs").exists()


def test_a_search_trial_does_not_look_at_test(broken: Break, tmp_path: Path) -> None:
    root = broken("test/red/3.png")
    assert train(tiny_config(root, tmp_path / "runs", "read_test=false", "recipe.epochs=1")).row.n_test == 0


def look(rank: int, folder: Path) -> str:
    """What a process of two says of four bad files."""
    try:
        train(tiny_config(folder / "photos", folder / "runs"))
    except ValueError as error:
        return str(error)
    return "it trained"


def test_processes_share_the_files_and_say_the_same(broken: Break, tmp_path: Path) -> None:
    root = broken("train/red/3.png", "train/blue/0.png")
    cut(root / "val/blue/2.png", root / "test/red/1.png")
    first, second = in_two_processes(look, tmp_path)
    assert first["given"] == second["given"]
    assert re.search(ALL_BAD, first["given"])


class Brightness(nn.Module):
    """Answers class 0 to a dark image and class 1 to a bright one, of seven classes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 7)
        bright = images.mean((1, 2, 3)) > 0.5
        logits[:, 0], logits[:, 1] = (~bright).float(), bright.float()
        return logits


def test_a_bad_image_counts_in_every_accuracy(tmp_path: Path) -> None:
    from PIL import Image

    labels = [0, 0, 0, 0, 1, 1, 2]
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path, label in zip(paths, labels, strict=True):
        Image.new("RGB", (4, 4), (255,) * 3 if label else (0,) * 3).save(path)
    for number in (0, 4, 6):
        paths[number].write_bytes(b"")
    classes = list("abcdefg")
    dataset = ImageFiles(paths, labels, classes, max_pixels=99, exif_rotation=False)
    dataset.transform = eval_transform(size=4, mean=(0, 0, 0), std=(1, 1, 1))
    compute = choose_compute("cpu", "fp32")
    metrics = evaluate(Brightness(), eval_loader(dataset, 1, 0, bad="wrong"), Classes(classes), compute)
    assert (metrics.images, metrics.bad) == (7, 3)
    assert metrics.top1 == pytest.approx(100 * 4 / 7)
    assert metrics.top5 == pytest.approx(100 * 4 / 7)
    assert unpack_bits(metrics.to_row()["correct"], 7).tolist() == [False, True, True, True, False, True, False]
    assert metrics.per_class == {**dict.fromkeys(classes, None), "a": 75.0, "b": 50.0, "c": 0.0}
    assert metrics.mean_per_class == pytest.approx((75 + 50 + 0) / 3)
    assert [sum(counts) for counts in metrics.confusion or []] == [3, 1, 0, 0, 0, 0, 0]
    right = torch.tensor(1.0).exp()
    assert metrics.loss == pytest.approx(-(right / (right + 6)).log().item(), rel=1e-5)
    assert metrics.describe().endswith("(7 images, 3 of them undecodable and counted as wrong)")
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 7 images can be decoded"):
        evaluate(Brightness(), eval_loader(dataset, 2, 0, bad="wrong"), Classes(classes), compute)


def test_the_settings_are_checked_and_make_no_other_run(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(photos, tmp_path)
    for override in ("cache_mb=7", "max_bad_fraction=0.5", "bad_eval=wrong", "check_files=off"):
        assert run_folder(tiny_config(photos, tmp_path, override)) == run_folder(config)
    for override, message in {
        "cache_mb=some": "cache_mb must be auto or a number of megabytes from 0, got 'some'",
        "cache_mb=-1": "cache_mb must be auto or a number of megabytes from 0, got -1",
        "max_bad_fraction=1.5": "max_bad_fraction must be in 0..1, got 1.5",
        "bad_eval=drop": "bad_eval must be one of error, wrong; got 'drop'",
        "check_files=all": "check_files must be one of decode, headers, off; got 'all'",
    }.items():
        with pytest.raises(ConfigError) as caught:
            tiny_config(photos, tmp_path, override)
        assert message in str(caught.value)


def test_a_run_says_what_it_keeps_in_memory_and_the_figures_are_the_same(photos: Path, tmp_path: Path) -> None:
    rows = []
    for cache_mb, words in (
        ("auto", "images are kept decoded: 48 of train and val, 1 MB"),
        ("0", "images are decoded in every epoch: cache_mb=0"),
    ):
        config = tiny_config(photos, tmp_path / cache_mb, f"cache_mb={cache_mb}", "recipe.augment=flip")
        rows.append(train(config).row)
        assert words in (run_folder(config) / "log.txt").read_text()
    assert rows[0].curve == rows[1].curve
    assert json.dumps(rows[0].confusion) == json.dumps(rows[1].confusion)
