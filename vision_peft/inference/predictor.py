"""Predict images and clips: labels with probabilities, numbers, logits, or the features before the head."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vision_peft.distributed.device import Compute, choose_device, choose_precision
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.inference.load import load
from vision_peft.inference.prepare import Item, Preparation
from vision_peft.tasks import read_task
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_maps import find_windows, reads_maps
from vision_peft.tuning.heads import classifier_of
from vision_peft.tuning.pool_tokens import POOLED, check_pooling, pool_tokens

BATCH_IMAGES, BATCH_CLIPS = 64, 16  # those of evaluation, so that no figure moves
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


class Outputs(NamedTuple):
    """What a model says of some items, on the CPU in fp32."""

    logits: Tensor  # N classes
    features: Tensor  # N D, as they enter the head


class Predictor:
    """Predict the labels of images or videos with a tuned model.

        predict = vp.Predictor("runs/digits/...")
        predict("photo.jpg")  # [("7", 0.98), ("1", 0.01), ...]
        predict(["a.jpg", "b.jpg"], top=1)  # a list for each
        predict.features(["a.jpg", "b.jpg"])  # N D

    An item is a path, a PIL image, an array, or the bytes of an image file. For a video model it is a path or an array
    T H W 3, and predictions are averaged over the views that evaluation uses.

    Args:
        source: a run folder, an adapter folder, `hf-hub:OWNER/NAME`, or a model from `vp.load`.
        device: as for `vp.load`; "auto" leaves a given model where it is.
        batch_size: images, or clips, at a time; None: 64 images or 16 clips, as in evaluation. It is halved for good
            when memory runs out.
        raw: do not calibrate probabilities by the temperature that the adapter records.
        precision: as in training; `auto` is what a run on this device would use.
        classes: class names in label order, instead of those that the adapter records.
        exif_rotation: rotate photographs as their EXIF data say.
        features: what `features` returns: `head` (the input of the head), `class` (the class token), `patches` (the
            mean of the patch tokens) or `output` (the output of the model). With `class` and `patches` nothing can be
            predicted. None: `head`, or `output` after metric learning, or `patches` where the model answers for every
            pixel, which has no other features than these and `class`.
        options: further arguments of `vp.load`: `backbone`, `checkpoint`, ...

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `vp.load`; the number of names is not that of the classes, or
            the model has no such tokens.
    """

    def __init__(
        self,
        source: str | Path | nn.Module,
        device: str = "auto",
        batch_size: int | None = None,
        *,
        raw: bool = False,
        precision: str = "auto",
        classes: Sequence[str] | None = None,
        exif_rotation: bool = True,
        features: str | None = None,
        **options: Any,
    ) -> None:
        self.model: Any = _as_model(source, device, options)
        info: AdapterInfo | None = getattr(self.model, "adapter_info", None)
        self.prepare = Preparation.of(self.model, exif_rotation=exif_rotation)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        task = None if info is None or info.task is None else info.task["kind"]
        maps = reads_maps(self.model)
        self.features_of = features or ("output" if task == "embedding" else "patches" if maps else "head")
        if self.features_of not in ("head", "output"):
            check_pooling(self.model, self.features_of)
        elif maps:
            raise ValueError(
                f"this model answers for every pixel, and what its head reads is a map: take the features 'patches' or "
                f"'class', got {self.features_of!r}"
            )
        self.batch_size = batch_size or (BATCH_CLIPS if self.prepare.gives_clips else BATCH_IMAGES)
        self.temperature = None if raw or info is None else info.temperature
        target = next(self.model.parameters()).device
        self.compute = Compute(target, choose_precision(precision, target))
        named = classes or (info and info.class_names)
        self.classes_are_named = bool(named)
        self.names_classes = bool(self.model.num_classes) and task != "embedding"
        self.classes = list((named if self.names_classes else None) or map(str, range(self.model.num_classes)))
        self.task = read_task(info and info.task, self.classes, self.temperature)
        if self.names_classes and self.task.outputs != self.model.num_classes:
            raise ValueError(f"got {len(self.classes)} class names for a head of {self.model.num_classes} classes")

    def __call__(self, items: Any, top: int = 5) -> Any:
        """Return the most likely labels with their probabilities, the most likely first.

        Multi-label models return the labels above their thresholds, ordinal ones the predicted grade first. Regression
        models return names with numbers, in the unit `task.unit`.

        Args:
            items: one item, or a list of them.
            top: number of labels, at most that of the classes.

        Returns:
            A list of (label, probability) or (name, number); for a list of items, a list of such lists.

        Raises:
            ImageDecodeError: an item that cannot be decoded.
            MemoryError: a single image does not fit into the memory of the device.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        guesses = self.task.name_answers(self.logits(_as_list(items)), top)
        return guesses if isinstance(items, list | tuple) else guesses[0]

    def logits(self, items: Any) -> Tensor:
        """Return logits: N classes for a list of items, classes for one item."""
        self._check_head()
        return _unwrap(self.run(_as_list(items)).logits, items)

    def probabilities(self, items: Any) -> Tensor:
        """Return the probabilities of all classes: N classes for a list of items, classes for one item."""
        logits = self.logits(_as_list(items))
        return _unwrap(self.task.probabilities(logits), items)

    def features(self, items: Any) -> Tensor:
        """Return features: N D for a list of items, D for one item; for clips the mean over their views."""
        self.check_features()
        return _unwrap(self.run(_as_list(items)).features, items)

    def check_features(self) -> None:
        """Raise ValueError where the model looks at images through windows, so that an image has no features."""
        if find_windows(self.model) is not None:
            raise ValueError(
                "this model looks at an image through windows (recipe.window=true), so that there are no features of "
                "the whole image: take a model that was trained without"
            )

    def run(self, items: Sequence[Item]) -> Outputs:
        """Return what the model says of each item, of clips averaged over their views."""
        found: list[Outputs] = []
        views: list[int] = []

        def list_views() -> Iterator[Tensor]:
            for item in items:
                views.append(0)
                for view in self.prepare.iterate_views(item):
                    views[-1] += 1
                    yield view

        batch: list[Tensor] = []
        for view in list_views():
            batch.append(view)
            if len(batch) >= self.batch_size:
                found.append(self.forward(torch.stack(batch)))
                batch = []
        if batch:
            found.append(self.forward(torch.stack(batch)))
        if not found:
            return Outputs(torch.empty(0, self.task.outputs), torch.empty(0, self.model.num_features))
        whole = Outputs(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        if not self.prepare.gives_clips:
            return whole
        logits, features = (part.split(views) for part in whole)
        means = [self.prepare.average(part) for part in logits], [part.double().mean(0).float() for part in features]
        return Outputs(*map(torch.stack, means))

    def forward(self, inputs: Tensor) -> Outputs:
        """Return what the model says of prepared images B 3 H W or clips B 3 T H W, of as many at a time as fit.

        Raises:
            MemoryError: a single one does not fit.
        """
        while True:
            try:
                parts = [self._forward(part) for part in inputs.split(self.batch_size)]
                return Outputs(*(torch.cat(part) for part in zip(*parts, strict=True)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                words = str(error).split("\n")[0]
            # outside of the except, where the frames of the failed forward pass would keep its tensors
            fitting = min(self.batch_size, len(inputs))
            if fitting == 1:
                one = "clip" if self.prepare.gives_clips else "image"
                raise MemoryError(f"a single {one} does not fit into the memory of {self.compute.device}: {words}")
            self.batch_size = fitting // 2
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()

    @torch.no_grad()
    def _forward(self, inputs: Tensor) -> Outputs:
        if self.features_of in POOLED:
            with self.compute.autocast():
                pooled = pool_tokens(self.model, inputs.to(self.compute.device, non_blocking=True), self.features_of)
            return Outputs(torch.zeros(len(inputs), self.task.outputs), pooled.float().cpu())
        entered: list[Tensor] = []
        heads = [classifier_of(self.model.get_submodule(name)) for name in classifier_names(self.model)]
        hooks = [head.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for head in heads]
        try:
            with self.compute.autocast():
                logits = self.model(inputs.to(self.compute.device, non_blocking=True)).float().cpu()
        finally:
            for hook in hooks:
                hook.remove()
        if self.features_of == "output":
            return Outputs(logits, logits)
        features = torch.stack([each.float().cpu() for each in entered]).mean(0)  # a distilled model has two heads
        if len(features) > len(inputs):  # an ensemble of prompts has features of each, member by member
            features = features.unflatten(0, (-1, len(inputs))).mean(0)
        return Outputs(logits, features)

    def _check_head(self) -> None:
        if reads_maps(self.model):
            raise ValueError(
                "this model answers for every pixel: vision-peft predict --masks FOLDER, or in Python "
                "vision_peft.inference.predict_masks.find_mask(predictor, image)"
            )
        if self.features_of in POOLED:
            raise ValueError(f"this predictor gives features ({self.features_of}) only, no predictions")
        if not self.names_classes:
            raise ValueError("this adapter has no head for classes: it only has features")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _as_model(source: str | Path | nn.Module, device: str, options: dict[str, Any]) -> nn.Module:
    if not isinstance(source, nn.Module):
        return load(source, device, **options)
    if options:
        raise TypeError(f"an existing model takes no {', '.join(options)}")
    return (source if device == "auto" else source.to(choose_device(device))).eval()


def _as_list(items: Any) -> Sequence[Any]:
    return items if isinstance(items, list | tuple) else [items]


def _unwrap(rows: Tensor, items: Any) -> Tensor:
    return rows if isinstance(items, list | tuple) else rows[0]
