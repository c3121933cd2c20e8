"""k-NN: every image gets the class that its nearest training images have; nothing trains.

Weighted votes over cosines as DINO's evaluation has them (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294;
after Wu et al., CVPR 2018; official: facebookresearch/dino, eval_knn.py): see ``tuning.neighbours`` for the equation.

Deviations: k is compared on val where a training has one (``tried``), while that code prints several on the set that it
reports; features are what enters the head of the timm model (with ``global_pool`` as it is), there the class token.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning import record
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_kinds import Neighbours, head_text
from vision_peft.tuning.heads import replace_head
from vision_peft.tuning.method import Method, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.neighbours import NeighbourHead
from vision_peft.tuning.samples import SamplesNeeded


@dataclass(frozen=True)
class KNN(Method):
    """Votes of the ``k`` nearest training images, weighted by exp(cosine / ``temperature``).

    ``vp.attach(model, KNN(), samples=loader)`` keeps the features of all samples; ``method=knn`` those of the training
    images, and of ``tried`` takes the k that is best on val. An adapter holds them: 2 bytes a channel and image. What
    was attached before stays: k-NN on tuned features.
    """

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "k-NN"
    task_kinds: ClassVar[tuple[str, ...]] = ("classes",)
    recommended: ClassVar = {"lr": 0.0, "epochs": 1, "weight_decay": 0.0}  # nothing trains

    k: int = 20
    temperature: float = 0.07
    tried: tuple[int, ...] = field(default=(1, 2, 5, 10, 20, 50, 100, 200), kw_only=True)  # (): k stands

    def __post_init__(self) -> None:
        positive(k=self.k, temperature=self.temperature, **{f"tried[{i}]": k for i, k in enumerate(self.tried)})

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def changes_features(self) -> bool:
        return False

    @property
    def brings_head(self) -> bool:
        return True

    @property
    def samples_needed(self) -> SamplesNeeded:
        return SamplesNeeded("to compare others with", logits=True)

    def attach(self, model: nn.Module) -> None:
        """Nothing to do: ``initialise`` or a loaded adapter puts the kept features in the head's place."""

    def initialise(self, model: Any, samples: Iterable[Any] | None) -> None:
        """Keep the features of ``samples``, batches of (images, labels).

        Raises:
            ValueError: no images, labels beyond the model's classes, or several features of an image.
        """
        features, labels = _compute_features(model, samples or ())
        classes = model.num_classes or int(labels.max()) + 1
        if int(labels.max()) >= classes:
            raise ValueError(f"KNN got labels up to {int(labels.max())} for a model of {classes} classes")
        kind = Neighbours(images=len(labels), k=self.k, temperature=self.temperature)
        replace_head(model, head_text(kind), classes)
        for name, found in zip(classifier_names(model), features, strict=True):
            model.get_submodule(name).fill(found, labels)


def choose_k(model: Any, k: int) -> None:
    """Let ``k`` neighbours vote on ``model``, whose adapter then records that k."""
    tuning = record.find(model)
    assert tuning is not None
    tuning.methods = [dataclasses.replace(m, k=k) if isinstance(m, KNN) else m for m in tuning.methods]
    for name in classifier_names(model):
        head = model.get_submodule(name)
        assert isinstance(head, NeighbourHead)
        head.choose(k)


@torch.no_grad()
def _compute_features(model: Any, samples: Iterable[Any]) -> tuple[list[Tensor], Tensor]:
    """Return what enters each classification layer (images D), and the labels (images), on the CPU."""
    like = next(model.parameters())
    entered: dict[str, list[Tensor]] = {name: [] for name in classifier_names(model)}
    labels = []
    modes = {module: module.training for module in model.modules()}
    hooks = [model.get_submodule(name).register_forward_pre_hook(_note(entered[name])) for name in entered]
    try:
        model.eval()
        for images, own, *_ in samples:
            model(images.to(like))
            labels.append(own.cpu())
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not labels:
        raise ValueError("KNN got no images to compare with")
    if labels[0].ndim != 1 or labels[0].is_floating_point():
        raise ValueError("KNN wants the number of a class for each image, and gets other labels")
    features, every = [torch.cat(found) for found in entered.values()], torch.cat(labels)
    if any(found.ndim != 2 or len(found) != len(every) for found in features):
        shape = tuple(features[0].shape)
        raise ValueError(
            f"KNN wants one row of features of each of {len(every)} images, and gets {shape}: pooled, not "
            "tokens of an attentive head, nor those of an ensemble of prompts"
        )
    return features, every


def _note(found: list[Tensor]) -> Any:
    return lambda module, given: found.append(given[0].float().cpu())
