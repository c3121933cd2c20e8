"""From a checked config to what the loop needs: datasets with transforms, a model with methods and head."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from timm.layers import DropPath
from torch import nn

import vision_peft as vp
from vision_peft.backbones import input_config
from vision_peft.data import ImageDataset
from vision_peft.data.loader import eval_loader
from vision_peft.data.transforms import eval_transform, normalisation, train_transform
from vision_peft.training.config import Config
from vision_peft.training.device import seed_everything
from vision_peft.training.evaluate import BATCH_SIZE
from vision_peft.training.schema import BackboneConfig, Recipe


def load_splits(config: Config) -> dict[str, ImageDataset]:
    """Every split that the protocol reads, by name; lists and folders are checked here, images are decoded later.

    Raises:
        ValueError, FileNotFoundError: what the dataset finds wrong, or splits that disagree about the classes.
    """
    names = {
        "val_select": ["train", "val", "test"],
        "val_select_retrain": ["train", "val", "trainval", "test"],
        "last_epoch": ["trainval", "test"],
        "best_test": ["trainval", "test"],
    }[config.protocol]
    if not config.read_test and config.protocol != "best_test":
        names.remove("test")  # a search trial does not even open it
    splits = {name: config.data.load(name) for name in names}
    first = splits[names[0]]
    for name, dataset in splits.items():
        if dataset.classes != first.classes:
            raise ValueError(
                f"data={config.data.name}: split {name} has other classes than {names[0]}: "
                f"{_some(dataset.classes)} against {_some(first.classes)}"
            )
    if len(set(first.classes)) < len(first.classes):
        twice = sorted({name for name in first.classes if first.classes.count(name) > 1})
        raise ValueError(f"data={config.data.name}: class names must differ, twice there: {', '.join(twice)}")
    if len(first.classes) < 2:
        raise ValueError(f"data={config.data.name}: there is nothing to learn from {len(first.classes)} class")
    return splits


class Part(ImageDataset):
    """Chosen items of a dataset."""

    def __init__(self, dataset: ImageDataset, items: Sequence[int]) -> None:
        super().__init__(dataset.classes, [dataset.labels[item] for item in items])
        self.whole, self.items = dataset, items

    def image(self, index: int) -> Image.Image:
        return self.whole.image(self.items[index])

    def path(self, index: int) -> str:
        return self.whole.path(self.items[index])


def first(dataset: ImageDataset, size: int) -> Part:
    """The first `size` items of a dataset, all if there are fewer."""
    return Part(dataset, range(min(size, len(dataset))))


def create_model(backbone: BackboneConfig, seed: int, drop_path: float = 0.0) -> Any:
    """The bare backbone without a head; `seed` draws its weights where they are random."""
    seed_everything(seed, "backbone")
    return vp.create_backbone(
        backbone.name,
        pretrained=backbone.pretrained,
        checkpoint=backbone.checkpoint,
        num_classes=0,
        img_size=backbone.img_size,
        drop_path=drop_path,
        **backbone.kwargs,
    )


def tune(model: Any, config: Config, train_set: ImageDataset, device: torch.device) -> nn.Module:
    """Attach the methods and a fresh head for the classes of `train_set`, ready to train on `device`.

    Methods that start from images get some of `train_set`, without augmentation.

    Raises:
        ValueError: a method that does not fit the backbone, or a `drop_path` that would never act.
    """
    seed_everything(config.seed, "methods")
    for method in config.methods:
        samples = None
        if method.samples_per_class:
            samples = _samples(model.to(device), config, train_set, method.samples_per_class)
        vp.attach(model, method, samples=samples)
    vp.replace_head(model, config.recipe.head, len(train_set.classes))
    if config.recipe.grad_checkpointing:
        model.set_grad_checkpointing(True)
    vp.train_mode(model, config.recipe.frozen)
    if config.recipe.drop_path and not any(isinstance(m, DropPath) and m.training for m in model.modules()):
        raise ValueError("recipe.drop_path would never act: the blocks are frozen; set recipe.frozen=train")
    return model.to(device)


def _samples(model: nn.Module, config: Config, dataset: ImageDataset, per_class: int) -> Iterable[Any]:
    """Batches of the first `per_class` images of every class, as evaluation sees them."""
    of_class: dict[int, list[int]] = {}
    for item, label in enumerate(dataset.labels):
        of_class.setdefault(label, []).append(item)
    part = Part(dataset, sorted(item for items in of_class.values() for item in items[:per_class]))
    part.transform = eval_transform(**input_settings(model, config.recipe))
    # an undecodable image is left out here; training meets it again and reports it
    return eval_loader(part, BATCH_SIZE, config.workers, bad="wrong")


def input_settings(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """How an image becomes the model's input; recorded in adapter.json and enough for `eval_transform`."""
    found = input_config(model)
    mean, std = normalisation(recipe.normalisation, found["mean"], found["std"])
    return {
        "size": list(found["size"]),
        "mean": list(mean),
        "std": list(std),
        "interpolation": found["interpolation"] if recipe.interpolation == "backbone" else recipe.interpolation,
        "resize": recipe.resize,
        "crop_pct": recipe.crop_pct,
    }


def set_transforms(splits: Mapping[str, ImageDataset], settings: Mapping[str, Any], recipe: Recipe) -> None:
    """Give train and trainval the recipe's augmentation, val and test the plain geometry."""
    for name, dataset in splits.items():
        if name in ("train", "trainval"):
            further = {"augment": recipe.augment, "random_erasing": recipe.random_erasing}
            dataset.transform = train_transform(**settings, **further)
        else:
            dataset.transform = eval_transform(**settings)


def _some(names: list[str]) -> str:
    """Number and first names of classes."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
