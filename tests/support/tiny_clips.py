"""Videos in memory: coloured noise in frames of 40 x 56 pixels, and the config of a training on them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from support.tiny_run import TINY
from torch import nn

from vision_peft.backbones import create_backbone
from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.data import DataConfig
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.decoding.video_file import VideoDecodeError
from vision_peft.data.loading.loader import eval_loader
from vision_peft.distributed.device import Compute, choose_compute
from vision_peft.distributed.processes import join
from vision_peft.tasks.classes import Classes
from vision_peft.training.build import input_settings
from vision_peft.training.evaluation import collect_video_logits, evaluate

CLASSES = ["red", "green", "blue"]
LENGTHS = (9, 12, 5, 30, 1)  # frames of a video, in turn
CPU = Compute(torch.device("cpu"), "fp32")


class ColourVideos(VideoFiles):
    """`number` videos whose class is their strongest channel; those in `damaged` cannot be decoded."""

    def __init__(self, number: int, seed: int = 0, damaged: Sequence[int] = ()) -> None:
        paths = [f"video {seed}-{index}" for index in range(number)]
        super().__init__(paths, [index % 3 for index in range(number)], CLASSES)
        self.seed, self.damaged = seed, damaged

    def frames(self, video: int, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
        number = int(self.paths[video].rpartition("-")[2])  # the dataset may be a part of another
        if number in self.damaged:
            raise VideoDecodeError(self.paths[video], "none", "it is damaged")
        generator = np.random.default_rng([self.seed, number])
        pixels = generator.integers(0, 160, (LENGTHS[number % 5], 40, 56, 3), dtype=np.uint8)
        pixels[..., number % 3] += 95
        return pixels[list(choose(len(pixels)))]


@dataclass(frozen=True, kw_only=True)
class ColourData(DataConfig):
    """Splits of `ColourVideos`."""

    name: ClassVar[str] = "colour_videos"
    damaged: tuple[int, ...] = ()  # of test

    def load(self, split: str) -> VideoFiles:
        number = {"train": 16, "val": 6, "trainval": 22, "test": 11}[split]
        return ColourVideos(number, seed=len(split), damaged=self.damaged if split == "test" else ())


def clips_config(output_dir: Path, *overrides: str, **data: Any) -> Config:
    """The config of a tiny run on clips of four frames, in tubelets of two."""
    clips = ["backbone.num_frames=4", "backbone.tubelet_size=2", "backbone.kwargs.num_heads=2"]
    config = compose_config([*TINY, *clips, f"output_dir={output_dir}", *overrides])
    return dataclasses.replace(config, data=ColourData(**data))


def tiny_video_model() -> nn.Module:
    """A one-block tubelet model with random weights, always the same."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    return create_backbone(
        "vit_tiny_patch16_224", img_size=32, num_frames=4, tubelet_size=2, num_classes=3, **sizes
    ).eval()


def evaluate_share(_: int, __: Path, damaged: Sequence[int]) -> dict[str, Any]:
    """Metrics of 11 videos and the logits of each, by all processes of the group that this one is in."""
    compute = choose_compute("cpu", "fp32")
    join(compute, 120)
    model, videos = tiny_video_model(), ColourVideos(11, damaged=damaged)
    videos.set_evaluation(input_settings(model, Recipe(resize="shortest", views=2, crops=3)))
    loader = eval_loader(videos, videos.eval_batch_size * compute.world_size, 0, **compute.share, bad="wrong")
    metrics = evaluate(model, loader, Classes(CLASSES), compute)
    numbers, logits, labels = collect_video_logits(model, loader, compute)[0].gather().mean_logits()
    return {"metrics": dataclasses.asdict(metrics), "videos": numbers, "logits": logits, "labels": labels}
