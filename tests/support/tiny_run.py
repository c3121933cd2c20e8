"""A training that takes a second: photographs of noise, a two-block ViT on 32 pixels, and what such a run leaves."""

import copy
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from vision_peft.config.command_line import Composed, compose_config, read_command_line
from vision_peft.config.find_configs import find_configs
from vision_peft.config.parse import Config
from vision_peft.config.typed_values import quote_values
from vision_peft.results.row import read_row

TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.pretrained=false",
    "backbone.img_size=32",
    "backbone.kwargs.depth=2",
    "backbone.kwargs.embed_dim=24",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "device=cpu",
    "workers=0",
]
# All that keeps a state or draws a number. 24 images in batches of 8 are 3 updates an epoch, of 2 parts each.
EVERYTHING = [
    "method.dropout=0.3",
    "recipe.accumulate=2",
    "recipe.ema=0.9",
    "recipe.mixup=0.4",
    "recipe.cutmix=0.5",
    "recipe.label_smoothing=0.1",
    "recipe.augment=crop_flip",
    "recipe.random_erasing=0.3",
    "recipe.clip_grad=1",
    "recipe.head=batchnorm_linear",
    "recipe.frozen_mode=train",
    "recipe.drop_path=0.2",
    "recipe.epochs=3",
]


# A number, a word or a path for one key. Hydra, which takes a tenth of a second, composes all else.
PLAIN = re.compile(r"(?!experiment|hydra|method_)[a-z]\w*(\.\w+)*=[\w./+-]+", re.ASCII)


def tiny_config(photos: Path, output_dir: Path, *overrides: str) -> Config:
    """The config of a tiny run, as `compose_config` gives it; what was composed before gets its values set."""
    words = ["data=folder", f"data.root={photos}", f"output_dir={output_dir}", *overrides]
    if not all(PLAIN.fullmatch(word) for word in words):
        return compose_config([*TINY, *words])
    groups = [word for word in words if (find_configs() / word.partition("=")[0]).is_dir()]
    composed = _compose(tuple(groups))
    raw: dict[str, Any] = copy.deepcopy(dict(composed.raw))
    for word in words:
        if word not in groups:
            *sections, key, value = read_value(word)
            section = raw
            for name in sections:
                section[name] = section = section[name] if isinstance(section.get(name), dict) else {}
            section[key] = value
    return Composed(raw, composed.choices).parse()


@functools.cache
def _compose(groups: tuple[str, ...]) -> Composed:
    (run,) = read_command_line([*TINY, *groups]).runs
    return run


@functools.cache
def read_value(word: str) -> tuple[Any, ...]:
    """The parts of a dotted key, and its value as Hydra reads it."""
    override = OverridesParser.create().parse_override(quote_values([word])[0])
    return (*override.key_or_group.split("."), override.value())


def write_photos(root: Path, images: Mapping[str, int]) -> None:
    """A tree of red, green and blue noise below `root`: so many `images` a class in each split."""
    generator = np.random.default_rng(0)
    for split, number in images.items():
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(0, 160, (12, 10, 3), dtype=np.uint8)
                pixels[..., channel] += 95
                Image.fromarray(pixels).save(folder / f"{index}.png")


def left_behind(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves in its run folder and that must not depend on what happened on the way."""
    row = read_row(folder / "result.json")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "adapter": {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()},
        "top1": row.top1,
        "mean_per_class": row.mean_per_class,
        "val_top1": row.val_top1,
        "confusion": row.confusion,
        "hardest": [each["item"] for each in row.hardest],
        "correct": row.correct,
        "curve": row.curve,
        "metrics": [json.loads(line) for line in lines],
        "unfinished": [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")],
    }
