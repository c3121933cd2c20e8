"""Python that a page shows, run as it stands: on narrow random models, with the files it names made on the spot."""

import contextlib
import copy
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from support.pages import Block

import vision_peft as vp
from vision_peft.config.registered import REGISTERED
from vision_peft.data import DATASETS

WIDTH = 48  # channels of the models in place of 192 to 1,024: as deep, and with as many heads
PIXELS = 56  # of the adapters that are made for a page, and of their images
CLASSES = 3
_IMPORTED = {"ClassVar": ClassVar, "dataclass": dataclass, "torch": torch, "vp": vp}

_FOLDER = re.compile(r"[\"']((?:runs|adapters)/[^\"'*]+|RUN|ADAPTER)[\"']")
_PICTURE = re.compile(r"[\"']([\w./-]+\.(?:jpe?g|png))[\"']")
_create = timm.create_model


def run_blocks(blocks: Sequence[Block], folder: Path, given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Run the blocks of one page one after another, in one namespace and in `folder`.

    Names that pages take for granted are there (see `_make_names`), and those of `given`, the module of a docstring.
    """
    text = "\n".join(block.text for block in blocks)
    with contextlib.chdir(folder), narrow_models(), forget_registered(), contextlib.redirect_stdout(io.StringIO()):
        _make_files(text)
        names: dict[str, Any] = {**_IMPORTED, **given, "__name__": "page", **_make_names(text)}
        for block in blocks:
            lines = "\n" * block.line + block.text  # an error names the line of the page
            exec(compile(lines, block.page, "exec"), names)


@contextlib.contextmanager
def forget_registered() -> Iterator[None]:
    """Take back what a page registers: other tests go over all methods and datasets."""
    try:
        yield
    finally:
        for known, names in ((vp.METHODS, REGISTERED["method"]), (DATASETS, REGISTERED["data"])):
            for name in names:
                known.pop(name, None)
            names.clear()


@contextlib.contextmanager
def narrow_models() -> Iterator[None]:
    """Have timm build every plain transformer with narrow blocks and random weights."""
    built = mock.patch.object(timm, "create_model", create_narrow)
    with (
        built,
        mock.patch("timm.models.create_model", create_narrow),
        mock.patch.object(vp, "create_backbone", create_backbone),
    ):
        yield


def create_narrow(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """Take the place of `timm.create_model`; folders of the page itself are read as they are."""
    if name.startswith("local-dir:"):
        return _create(name, pretrained=pretrained, **options)
    return _create(name, **{**_narrow(name), **options})


def create_backbone(name: str, *, pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """Take the place of `vp.create_backbone`."""
    from vision_peft.backbones import create_backbone as create

    name = name.replace("dinov2_small_pypi", "vit_small_patch14_dinov2")
    sized = {"img_size": PIXELS} if "dinov2" in name and "img_size" not in options else {}
    return create(name, **{**_narrow(name), **sized, **options})


def _narrow(name: str) -> Mapping[str, int]:
    return {"embed_dim": WIDTH} if re.match(r"(vit|deit|beit|eva)\w*_(tiny|small|base|large)", name) else {}


def _make_files(text: str) -> None:
    """Make what the page names: runs and adapters, pictures, a folder of photographs."""
    for name in dict.fromkeys(_FOLDER.findall(text)):
        _save_adapter(name)
    for name in dict.fromkeys([*_PICTURE.findall(text), "photos/cat/a.jpg", "photos/dog/b.jpg"]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_draw_pixels()).save(name)


def _make_names(text: str) -> dict[str, Any]:
    sides = re.findall(r"img_size=(\d+)", text)
    side = int(sides[0]) if sides else 224 if "create_backbone" in text or "create_model" in text else PIXELS
    images = torch.rand(3, 3, side, side)
    labels = torch.tensor([0, 1, 2])
    model = copy.deepcopy(_tuned()) if side == PIXELS else None
    optimizer = torch.optim.AdamW([tensor for _, tensor in vp.tuned_parameters(model)]) if model else None
    return {
        "model": model,
        "optimizer": optimizer,
        "loss": torch.nn.functional.cross_entropy(model(images), labels) if model else None,
        "step": 1,
        "total_steps": 2,
        "images": images,
        "labels": labels,
        "loader": [(images, labels)],
        "image": Image.fromarray(_draw_pixels()),
        "array": _draw_pixels(),
    }


def _draw_pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@functools.cache
def _tuned() -> torch.nn.Module:
    """Return the model whose adapter stands for all that a page has trained before."""
    torch.manual_seed(0)  # an adapter of weights that were drawn right behind a seed can be loaded again
    model = create_backbone("vit_small_patch14_dinov2", num_classes=CLASSES, depth=4)
    vp.attach(model, vp.LoRA(rank=2))
    return model.eval()


def _save_adapter(folder: str) -> None:
    size = {
        "size": [PIXELS, PIXELS],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize": "squash",
    }
    names = [f"class {number}" for number in range(CLASSES)]
    vp.save_adapter(_tuned(), folder, class_names=names, input_config=size)
