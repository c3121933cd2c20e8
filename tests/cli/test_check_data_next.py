"""The command that `vision-peft check-data` ends with trains, whatever the kind of task and of the items."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.mask_files import write_depths, write_set
from support.tiny_run import TINY

from vision_peft.cli import check_data
from vision_peft.config.command_line import compose_config
from vision_peft.tasks import learn_task
from vision_peft.training.build import check_items, load_splits

SPLITS = {"train": 8, "val": 4, "test": 4}


def write_folder(root: Path) -> list[str]:
    for split in SPLITS:
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                write_noise(root / split / name / f"{number}.png", f"{split}{name}{number}")
    return ["data=folder"]


def write_noise(path: Path, name: str) -> None:
    pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_list(labels: str) -> Callable[[Path], list[str]]:
    """Return what writes lists whose labels are those, separated by blanks, one image after another."""

    def write(root: Path) -> list[str]:
        root.mkdir()
        for split, count in SPLITS.items():
            names = [f"{split}{number}.png" for number in range(count)]
            for name in names:
                write_noise(root / name, name)
            cells = (labels.split() * count)[:count]
            lines = [f"{name},{cell}" for name, cell in zip(names, cells, strict=True)]
            (root / f"{split}.csv").write_text("path,label\n" + "".join(f"{line}\n" for line in lines))
        return ["data=list", *(f"data.{split}={split}.csv" for split in SPLITS)]

    return write


def write_segmentation(root: Path) -> list[str]:
    write_set(root, SPLITS)
    return ["data=segmentation"]


def write_depth(root: Path) -> list[str]:
    write_depths(root, SPLITS)
    return ["data=depth"]


KINDS = {
    "classes": (write_folder, [], []),
    "embedding": (write_folder, ["data.task_kind=embedding"], []),
    "multilabel": (write_list("a a;b b"), [], []),
    "regression": (write_list("0.5 1.5 2.5"), [], []),
    "ordinal": (write_list("0 1 2"), ["data.task_kind=ordinal"], []),
    "segmentation": (write_segmentation, [], ["recipe.head=seg_linear"]),
    "segmentation, another head typed": (write_segmentation, ["recipe.head=attentive"], ["recipe.head=seg_linear"]),
    "segmentation, a fitting head typed": (write_segmentation, ["recipe.head=seg_multi"], ["recipe.head=seg_multi"]),
    "depth": (write_depth, [], ["recipe.head=seg_linear"]),
    "classes, a head for maps typed": (write_folder, ["recipe.head=seg_linear"], ["recipe.head=linear"]),
    "images, clips typed": (
        write_folder,
        ["backbone.num_frames=8", "backbone.tubelet_size=2"],
        ["backbone.num_frames=null", "backbone.tubelet_size=null"],
    ),
    "clips": (None, ["data=moving_digits"], ["backbone.num_frames=8"]),
    "clips, frames typed": (None, ["data=moving_digits", "backbone.num_frames=4"], ["backbone.num_frames=4"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_command_fits_the_data(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, typed, expected = KINDS[kind]
    words = [*write(tmp_path / "data"), f"data.root={tmp_path / 'data'}", *typed] if write else typed
    assert check_data.main(words) == 0
    *_, head, command = capsys.readouterr().out.splitlines()
    assert head == "next:"
    _, *offered = shlex.split(command[command.index("train") :])
    keys = [word.partition("=")[0] for word in expected]
    assert [word for word in offered if word.partition("=")[0] in keys] == expected
    assert [word for word in offered if word.partition("=")[0] not in keys] == [
        word for word in words if word.partition("=")[0] not in keys
    ]
    config = compose_config([*TINY, *offered])
    splits = load_splits(config)
    check_items(config.backbone, config.data, splits["train"])
    learn_task(splits["train"], config.recipe)
