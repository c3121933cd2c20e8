"""What the frozen part of a model makes of images, computed once: all epochs then cost what is behind it.

Where only the head learns that is what enters the head: pooled features (N D), for an attentive head tokens
(N tokens D), for one that answers every pixel maps (N C h w). Else it is what the last block gives below everything
that trains (N tokens D, maps N H W D), as ``tuning.frozen_part`` finds it.
"""

import contextlib
import dataclasses
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset
from vision_peft.data.loading.cache import limit_bytes
from vision_peft.data.loading.kept_rows import RowsInFile, RowsInMemory, create_file
from vision_peft.distributed.processes import all_gather, all_gather_tensors
from vision_peft.protocols import Phase
from vision_peft.training.evaluation import create_eval_loader
from vision_peft.training.progress import Training
from vision_peft.tuning.backbone import classifier_names, input_channels
from vision_peft.tuning.frozen_part import FrozenPart, NotConstant, find_frozen_part
from vision_peft.tuning.graft import Graft, depth, graft, ungraft
from vision_peft.tuning.head_maps import is_flat, reads_layers


class Features(ImageDataset):
    """The features (N D), or tokens (N tokens D), of a dataset's images in place of the images."""

    in_memory = True

    def __init__(self, dataset: ImageDataset, features: Tensor) -> None:
        super().__init__(dataset.classes, dataset.labels, dataset.targets)
        self.whole, self.features, self.bands = dataset, features, dataset.bands
        self.kept_labels = None if dataset.label_bytes() is None else dataset.label_tensor()

    def label_tensor(self) -> Tensor:
        assert self.kept_labels is not None
        return self.kept_labels

    def count_labels(self) -> list[int]:
        """Count the pixels of every class in all masks, where the items have masks."""
        whole: Any = self.whole
        return whole.count_labels()

    def as_tensor(self) -> Tensor:
        return self.features

    def image(self, index: int) -> Any:
        return self.whole.image(index)

    def path(self, index: int) -> str:
        return self.whole.path(index)


class MapFeatures(Features):
    """Feature maps (N C h w) or tokens in place of the images, with the mask of each, which have several sizes."""

    def __init__(self, dataset: ImageDataset, features: Tensor) -> None:
        super().__init__(dataset, features)
        self.eval_batch_size = dataset.eval_batch_size  # pyright: ignore[reportAttributeAccessIssue]  as masks allow it

    def as_tensor(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  masks are no labels
        return None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.features[index], self.whole[index][1]


class HeadOnly(Graft):
    """A timm model that is given features (B D), tokens or maps, as they enter its head, and answers with logits."""

    get_classifier: Any

    def forward(self, features: Tensor) -> Tensor:
        return self.get_classifier()(features.float())


class Backbone:
    """All of a model but its head; the counterpart of a ``FrozenPart``.

    Args:
        blank: an image (1 ...) as the model gets them.
    """

    def __init__(self, model: nn.Module, blank: Tensor) -> None:
        self.tokens = self.run(model, blank)

    @torch.no_grad()
    def run(self, model: Any, images: Tensor) -> Tensor:
        """Return what enters the head, (B D), tokens (B tokens D) or maps of one size (B D h w)."""
        return model.forward_head(model.forward_features(images), pre_logits=True).float()

    @contextlib.contextmanager
    def left_out(self, model: nn.Module) -> Iterator[None]:
        """Let `model` take what ``run`` returned in place of images, inside."""
        layers = depth(model)
        graft(model, HeadOnly)
        try:
            yield
        finally:
            ungraft(model, keep=layers)


class NotKept(Exception):
    """Why features are computed in every epoch."""


def images_are_constant(config: Config) -> bool:
    """Whether a frozen part of the model is given the same pixels in every epoch and draws no numbers."""
    recipe = config.recipe
    random = recipe.augment != "none" or recipe.random_erasing or recipe.mixup or recipe.cutmix
    return not random and recipe.frozen_mode == "eval"


def features_are_constant(config: Config, model: Any) -> bool:
    """Whether the head is all that learns and an image always gives it the same features."""
    one_head = len(classifier_names(model)) == 1  # a distilled model has two, and VOLO one for patches
    return one_head and images_are_constant(config) and vp.count_parameters(model).trained == 0


@contextlib.contextmanager
def cached_features(training: Training, model: nn.Module, phase: Phase) -> Iterator[tuple[Training, str]]:
    """Let `model` take features inside, and hand out a training whose splits hold them, where they are constant.

    Else, and with videos, whose clips come from random places, and where an image cannot be decoded, the training is
    handed out as it is. The text says what was done; it is empty where there was nothing to decide.
    """
    config, splits = training.config, training.splits
    kept_already = any(method.brings_head for method in config.methods)  # those of what is trained on, by k-NN
    names = [name for name in (None if kept_already else phase.trained, phase.watched) if name]
    # in shards all take part in a forward; windows are cut out of images of all sizes
    unfit = not names or splits[names[0]].varies or training.compute.sharded or config.recipe.window
    if not config.reuse_features or unfit or not images_are_constant(config):
        yield training, ""
        return
    with contextlib.ExitStack() as stack:
        found, words = _keep(training, model, names, stack)
        yield dataclasses.replace(training, splits={**splits, **found}), words


def _keep(
    training: Training, model: nn.Module, names: list[str], stack: contextlib.ExitStack
) -> tuple[dict[str, ImageDataset], str]:
    """Compute the features of these splits and let `model` take them until `stack` ends; say what was done.

    There are none where nothing is frozen in front of what trains, or they cannot be kept.
    """
    started = time.perf_counter()
    try:
        part = _find_part(training, model)
        if part is None:
            return {}, ""
        rows = _make_room(part, training, names, stack)
        for each, name in zip(rows, names, strict=True):
            _fill(each, part, model, training, training.splits[name])
    except (NotKept, NotConstant) as reason:
        stack.close()  # a file takes room of the disk as long as it is open
        return {}, f"features are computed in every epoch: {reason}"
    stack.enter_context(part.left_out(model))
    training.timing.reused_features = True
    tensors = [each.finish() for each in rows]
    count, size = sum(map(len, tensors)), sum(each.numel() * each.element_size() for each in tensors)
    if isinstance(part, Backbone):
        what = f"only the head learns: the features of {count:,} images were computed once"
    else:
        last, kind = len(part.blocks) - 1, str(tensors[0].dtype).removeprefix("torch.")
        blocks = f"blocks 0 to {last} are frozen: what they make" if last else "block 0 is frozen: what it makes"
        what = f"{blocks} of {count:,} images was computed once, as {kind}"
    where = f", in a file of {rows[0].path.parent}" if isinstance(rows[0], RowsInFile) else ""
    words = f"{what}, {size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s{where}"
    kept = zip(names, tensors, strict=True)
    return {name: _put_in_place(training.splits[name], each) for name, each in kept}, words


def _put_in_place(dataset: ImageDataset, features: Tensor) -> Features:
    return (Features if dataset.label_bytes() is not None else MapFeatures)(dataset, features)


def _find_part(training: Training, model: nn.Module) -> Backbone | FrozenPart | None:
    """Find what is frozen in front of all that trains; None where nothing is."""
    compute, settings = training.compute, training.settings
    frames = () if settings.get("num_frames") is None else (settings["num_frames"],)
    model.eval()
    blank = torch.zeros(1, input_channels(model), *frames, *settings["size"], device=compute.device)
    with compute.autocast():
        several = reads_layers(model) > 1
        if features_are_constant(training.config, model):
            if several and not is_flat(model):
                raise NotKept("the head reads maps of several sizes")
            return Backbone(model, blank)
        if several:
            raise NotKept("the head reads what earlier layers give, too")
        return find_frozen_part(model, blank)


def _make_room(
    part: Backbone | FrozenPart, training: Training, names: list[str], stack: contextlib.ExitStack
) -> list[RowsInMemory] | list[RowsInFile]:
    """Make room for the features of these splits: in memory within `cache_mb`, else in files within `reuse_file_mb`."""
    config, compute, counts = training.config, training.compute, [len(training.splits[name]) for name in names]
    shape, dtype = part.tokens.shape[1:], _choose_type(config, part)
    size = sum(counts) * math.prod(shape) * dtype.itemsize
    size += sum(training.splits[name].label_bytes() or 0 for name in names) * training.task.answers_maps
    limit = min(all_gather(limit_bytes(config.cache_mb) // compute.processes_here))
    if size <= limit or len(shape) == 1:  # pooled features always fit
        return [RowsInMemory(count, shape, dtype) for count in counts]
    if size > config.reuse_file_mb * 10**6:
        needed = math.ceil(size / 1e6)
        half = "" if dtype.itemsize == 2 else f", or in half of it in memory (reuse_dtype=bf16 cache_mb={needed})"
        raise NotKept(
            f"the tokens of {sum(counts):,} images take {size / 1e6:,.0f} MB, more than the {limit / 1e6:,.0f} MB of "
            f"cache_mb={config.cache_mb}: keep them in a file (reuse_file_mb={needed}){half}"
        )
    rows = []
    for count in counts:
        rows.append(RowsInFile(_create_file(training, size, stack), count, shape, dtype))
        stack.callback(rows[-1].close)
        _raise_together("")  # until all have it open
        rows[-1].take_out_of_folder()
    return rows


def _choose_type(config: Config, part: Backbone | FrozenPart) -> torch.dtype:
    """Choose the type in which features are kept; "auto" rounds the tokens of an attentive head only."""
    tokens, attentive = part.tokens, isinstance(part, Backbone) and not config.recipe.answers_maps
    rounded = config.reuse_dtype == "bf16" or (config.reuse_dtype == "auto" and attentive)
    return torch.bfloat16 if rounded and tokens.ndim > 2 else tokens.dtype


def _create_file(training: Training, size: int, stack: contextlib.ExitStack) -> Path:
    """Create one file on each machine, which its processes share; `size` bytes of all files are still to be written."""
    folder, machine = training.config.reuse_folder or training.run.folder, socket.gethostname()
    path, failure = None, ""
    if _leads_machine():
        try:
            path = create_file(Path(folder), size)
            stack.callback(path.unlink, missing_ok=True)
        except OSError as error:
            failure = f"{error}; give reuse_folder, a folder on a disk with room"
    _raise_together(failure)
    paths = dict(each for each in all_gather([machine, str(path)]) if each[1] != str(None))
    return Path(paths[machine])


def _leads_machine() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _fill(
    rows: RowsInMemory | RowsInFile,
    part: Backbone | FrozenPart,
    model: nn.Module,
    training: Training,
    images: ImageDataset,
) -> None:
    """Compute the features of this process' share, and write those of all."""
    compute, dtype = training.compute, _choose_type(training.config, part)
    loader = create_eval_loader(images, compute, training.config.workers, bad="wrong")
    batches, writes = iter(loader), isinstance(rows, RowsInMemory) or _leads_machine()
    failure = ""
    for _ in range(math.ceil(len(images) / (images.eval_batch_size * compute.world_size))):
        indices, features = torch.empty(0, dtype=torch.int64), part.tokens[:0].to("cpu", dtype)
        if (batch := next(batches, None)) is not None:
            with compute.autocast():
                features = part.run(model, batch[0].to(compute.device, non_blocking=True)).to("cpu", dtype)
            indices = batch[2]
        if loader.unreadable:  # the loop knows what becomes of it
            failure = "an image cannot be decoded"
        for items, given in zip(all_gather_tensors(indices), all_gather_tensors(features), strict=True):
            try:
                rows.write(items, given) if writes else None
            except OSError as error:
                failure = f"{error}; give reuse_folder, a folder on a disk with room"
        _raise_together(failure)


def _raise_together(failure: str) -> None:
    """Raise NotKept in all processes where one of them has a reason; else they go on together."""
    if reason := next(filter(None, all_gather(failure)), None):
        raise NotKept(reason)
