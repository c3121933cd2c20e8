"""What is measured, ready to run: a model with its update and its forward pass, all on the same batch and backbone."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.benchmarks.counts import count_block_elements
from vision_peft.benchmarks.plain_loop import PlainLoop
from vision_peft.benchmarks.random_images import RandomImages
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.distributed.device import Compute, check_backbone_dtype, choose_compute, set_matmul_precision
from vision_peft.tasks.classes import CrossEntropy
from vision_peft.training.build import attach_methods, create_bare_model, input_settings
from vision_peft.training.fit import queue_update, run_update
from vision_peft.training.report import backbone_name
from vision_peft.training.step import TrainStep
from vision_peft.tuning.attention_kernels import find_kernels
from vision_peft.tuning.backbone import classifier_names, has_blocks, input_channels
from vision_peft.tuning.bake import baked_state_dict
from vision_peft.tuning.record import graft_tensors

CLASSES = 100


def check_recipe_has_updates(recipe: Recipe) -> None:
    """Raise ValueError where a training makes no updates that could be timed, or others than those of one head."""
    if recipe.optimizer == "lbfgs":
        raise ValueError(
            "recipe.optimizer=lbfgs solves for a head and makes no updates to time: give recipe.optimizer=adamw, or "
            "compare whole trainings (vision-peft compare)"
        )
    if recipe.head_grid:
        raise ValueError("recipe.head_grid trains several heads at once, and updates of one are timed: leave it out")


@dataclass
class Candidate:
    """One setting that is measured."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    update: Callable[[], object]
    compute_loss: Callable[[], Tensor]  # of the model itself, also where what is timed is compiled
    forward: Any  # what is called in place of the model
    train_mode: Callable[[], object]
    trained: int  # parameters, the head left out
    adapter_bytes: int | None  # of the tensors in the adapter folder, head included
    merged: nn.Module | None = None


class Bench:
    """The batch and the bare backbone that the candidates of one group share."""

    def __init__(self, config: Config) -> None:
        """Draw a batch for the backbone of `config` and create it; only what groups share is read of the config."""
        self.compute: Compute = choose_compute(config.device, config.precision)
        check_backbone_dtype(config.backbone_dtype, self.compute)
        set_matmul_precision(self.compute.device, config.tf32)
        self.compiled, self.train_set = bool(config.compile), RandomImages(CLASSES)
        self.bare = create_bare_model(config).to(self.compute.device)
        self.name = backbone_name(config, self.bare)
        settings = input_settings(self.bare, config.recipe)
        frames = (settings["num_frames"],) if "num_frames" in settings else ()
        generator = torch.Generator().manual_seed(0)
        self.size: list[int] = settings["size"]
        self.batch_size = config.recipe.batch_size
        images = torch.randn(self.batch_size, input_channels(self.bare), *frames, *self.size, generator=generator)
        labels = torch.randint(CLASSES, (self.batch_size,), generator=generator)
        self.images, self.labels = images.to(self.compute.device), labels.to(self.compute.device)

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @torch.no_grad()
    def infer(self, forward: Any) -> None:
        """Run a forward pass without gradient."""
        with self.compute.autocast():
            forward(self.images)

    def find_kernels(self, model: nn.Module) -> set[str]:
        """Name the kernels that compute the attention of `model`, whose backward pass has a say in it."""
        with torch.enable_grad(), self.compute.autocast():
            return find_kernels(model, self.images)

    def count_block_elements(self) -> int | None:
        """Count the elements that enter the blocks of the bare backbone; None where it has no blocks."""
        if not has_blocks(self.bare):
            return None
        return count_block_elements(self.bare, lambda: self.infer(self.bare))

    def create_method(self, config: Config) -> Candidate:
        """Attach the methods of `config`; the update is the one that training does.

        Raises:
            ValueError: a method that does not fit the backbone.
        """
        copied = self._copy_backbone()
        model = attach_methods(copied.model, config, self.train_set, CLASSES, self.device)
        copied.share_frozen()
        merged = None if config.compile else _merge(model)
        step = TrainStep(config, model, CrossEntropy(config.recipe.label_smoothing), CLASSES, self.compute)
        update = queue_update if step.decides_on_device else run_update
        parts = config.recipe.accumulate
        numbers = torch.arange(self.batch_size)
        batch = list(zip(self.images.chunk(parts), self.labels.chunk(parts), numbers.chunk(parts), strict=True))
        batches: Any = itertools.cycle(batch)

        def compute_loss() -> Tensor:
            with self.compute.autocast():
                logits = model(self.images)
            times = len(logits) // len(self.labels)  # of an ensemble of prompts more than once
            return step.compute_loss(logits.float(), torch.cat([self.labels] * times) if times > 1 else self.labels)

        return Candidate(
            model,
            step.optimizer,
            update=lambda: update(step, batches, parts, (0,)),
            compute_loss=compute_loss,
            forward=step.parallel.forward,
            train_mode=lambda: vp.train_mode(model, config.recipe.frozen_mode),
            trained=vp.count_parameters(model).trained,
            adapter_bytes=sum(tensor.nbytes for tensor in baked_state_dict(model).values()),
            merged=merged,
        )

    def create_plain(self, change: Callable[[Any], Any]) -> Candidate:
        """Train by the plain loop what `change` makes of a timm model with a new head.

        Raises:
            ValueError: what `change` raises where the backbone does not fit it.
        """
        copied = self._copy_backbone()
        copied.model.reset_classifier(CLASSES)
        head = [copied.model.get_submodule(name) for name in classifier_names(copied.model)]
        head_size = sum(parameter.numel() for module in head for parameter in module.parameters())
        copied.model.to(self.device).train()
        model = change(copied.model).to(self.device)
        copied.share_frozen()
        loop = PlainLoop(model, self.images, self.labels, self.compute, self.compiled)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return Candidate(
            model,
            loop.optimizer,
            update=loop.update,
            compute_loss=loop.compute_loss,
            forward=loop.forward,
            train_mode=model.train,
            trained=trained - head_size,
            adapter_bytes=None,
        )

    def _copy_backbone(self) -> "_CopiedBackbone":
        return _CopiedBackbone(self.bare)


class _CopiedBackbone:
    """A copy of a model whose weights can become those of the original again where they stay frozen."""

    def __init__(self, original: nn.Module) -> None:
        self.model: Any = copy.deepcopy(original)
        self._pairs = list(zip(self.model.parameters(), original.parameters(), strict=True))

    def share_frozen(self) -> None:
        """Let frozen weights share memory with the original, so that many candidates fit into memory at once."""
        for copied, original in self._pairs:
            if not copied.requires_grad and copied.dtype == original.dtype and torch.equal(copied, original):
                copied.data = original.data


def _merge(model: nn.Module) -> nn.Module | None:
    """Merge a copy of `model` and shorten its last block; None where nothing is added to it, or it does not merge."""
    if not graft_tensors(model):
        return None
    try:
        merged = vp.merge(copy.deepcopy(model)).eval()
    except ValueError:
        return None
    vp.shorten_last_block(merged)
    return merged
