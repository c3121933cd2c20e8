"""Features of a frozen backbone, computed once where only the head learns: all epochs then cost one forward pass.

They are what enters the head: pooled features (N D), or for an attentive head tokens (N tokens D). Those are kept in
bf16, half of what they take, and within the memory of `cache_mb`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset
from vision_peft.data.loading.cache import limit_bytes
from vision_peft.distributed.device import Compute
from vision_peft.distributed.processes import all_gather, all_gather_tensors
from vision_peft.protocols import Phase
from vision_peft.training.evaluation import create_eval_loader
from vision_peft.training.progress import Training
from vision_peft.tuning.graft import Graft, depth, graft, ungraft


class Features(ImageDataset):
    """The features (N D), or tokens (N tokens D), of a dataset's images in place of the images."""

    in_memory = True

    def __init__(self, dataset: ImageDataset, features: Tensor) -> None:
        super().__init__(dataset.classes, dataset.labels)
        self.whole, self.features = dataset, features

    def as_tensor(self) -> Tensor:
        return self.features

    def image(self, index: int) -> Image.Image:
        return self.whole.image(index)

    def path(self, index: int) -> str:
        return self.whole.path(index)


class HeadOnly(Graft):
    """A timm model that is given features (B D) or tokens, as they enter its head, and answers with logits."""

    get_classifier: Any

    def forward(self, features: Tensor) -> Tensor:
        return self.get_classifier()(features.float())


class TooLarge(Exception):
    """Features would take more memory than they may."""


def features_are_constant(config: Config, model: Any) -> bool:
    """Whether the head is all that learns and an image always gives it the same features."""
    recipe = config.recipe
    random = recipe.augment != "none" or recipe.random_erasing or recipe.mixup or recipe.cutmix
    one_head = isinstance(model.get_classifier(), nn.Module)  # a distilled model has two
    return one_head and not random and recipe.frozen_mode == "eval" and vp.count_parameters(model).trained == 0


@contextlib.contextmanager
def cached_features(training: Training, model: nn.Module, phase: Phase) -> Iterator[tuple[Training, str]]:
    """Let `model` take features inside, and hand out a training whose splits hold them, where `features_are_constant`.

    Else, and with videos, whose clips come from random places, and where an image cannot be decoded, the training is
    handed out as it is. The text says what was done; it is empty where there was nothing to decide.
    """
    config, compute, splits = training.config, training.compute, training.splits
    kept_already = any(method.brings_head for method in config.methods)  # those of what is trained on, by k-NN
    names = [name for name in (None if kept_already else phase.trained, phase.watched) if name]
    unfit = not names or splits[names[0]].varies or compute.sharded  # in shards all take part in a forward
    if not config.reuse_features or unfit or not features_are_constant(config, model):
        yield training, ""
        return
    started = time.perf_counter()
    found: dict[str, Features] = {}
    room = Room(limit_bytes(config.cache_mb) // compute.processes_here, sum(len(splits[name]) for name in names))
    try:
        for name in names:
            if (features := _compute_features(model, splits[name], config, compute, room)) is None:
                yield training, "features are computed in every epoch: an image cannot be decoded"
                return
            found[name] = features
    except TooLarge as reason:
        yield training, f"features are computed in every epoch: {reason} of cache_mb={config.cache_mb}"
        return
    tensors = [features.features for features in found.values()]
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
    layers = depth(model)
    training.timing.reused_features = True
    graft(model, HeadOnly)
    try:
        yield (
            dataclasses.replace(training, splits={**splits, **found}),
            f"only the head learns: the features of {sum(map(len, tensors)):,} images were computed once, "
            f"{megabytes:.1f} MB in {time.perf_counter() - started:.1f} s",
        )
    finally:
        ungraft(model, keep=layers)


@dataclasses.dataclass
class Room:
    """The memory for tokens."""

    limit: int  # bytes
    items: int  # of all splits that are kept

    def check(self, features: Tensor) -> None:
        """Raise TooLarge where those of all items, as large as these (B ...), do not fit; pooled ones always do."""
        size = features[0].numel() * features.element_size() * self.items if features.ndim > 2 and len(features) else 0
        if size > self.limit:
            raise TooLarge(
                f"the tokens of {self.items:,} images take {size / 1e6:,.0f} MB, more than the "
                f"{self.limit / 1e6:,.0f} MB"
            )


@torch.no_grad()
def _compute_features(
    model: Any, images: ImageDataset, config: Config, compute: Compute, room: Room
) -> Features | None:
    """None where an image cannot be decoded: the loop knows what becomes of it."""
    model.eval()
    batches = create_eval_loader(images, compute, config.workers, bad="wrong")
    whole, own = torch.empty(0), [torch.empty(0, dtype=torch.int64)]
    for batch, _, indices in batches:
        with compute.autocast():
            tokens = model.forward_features(batch.to(compute.device, non_blocking=True))
            features = model.forward_head(tokens, pre_logits=True).float().cpu()
        features = features.to(_type_of([*features.shape[1:]]))
        if not len(whole):
            room.check(features)
            whole = features.new_empty(len(images), *features.shape[1:])
        whole[indices] = features
        own.append(indices)
    places = all_gather_tensors(torch.cat(own))
    if sum(map(len, places)) < len(images):
        return None
    if compute.world_size > 1:
        shape = max(all_gather(list(whole.shape[1:])))
        rows = whole[places[compute.rank]] if len(whole) else torch.empty(0, *shape, dtype=_type_of(shape))
        whole = rows.new_empty(len(images), *shape)
        for indices, part in zip(places, all_gather_tensors(rows), strict=True):
            whole[indices] = part
    return Features(images, whole)


def _type_of(shape: list[int]) -> torch.dtype:
    return torch.bfloat16 if len(shape) > 1 else torch.float32
