"""From a checked config to what the loop needs: datasets with transforms, a model with methods and head."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

import vision_peft as vp
from vision_peft.backbones import input_config
from vision_peft.config.parse import Config
from vision_peft.config.schema import QUANTIZED, BackboneConfig, Recipe
from vision_peft.data import DataConfig, ImageDataset
from vision_peft.data.decoding.band_statistics import choose_band_normalisation
from vision_peft.data.few_items import take_few
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.data.loading.order import list_groups
from vision_peft.data.transforms.images import choose_normalisation
from vision_peft.distributed.device import DTYPES, seed_everything
from vision_peft.distributed.processes import take_from_rank0
from vision_peft.protocols import PHASES, list_splits
from vision_peft.runs.compare_data import describe_since
from vision_peft.runs.data_record import DataRecord
from vision_peft.runs.find_run import find_other_root
from vision_peft.tasks import find_task, learn_task
from vision_peft.tasks.task import Task
from vision_peft.tuning.head_kinds import MapHead, TokenHead, read_head
from vision_peft.tuning.record import clear_record
from vision_peft.tuning.samples import SamplesNeeded


def load_splits(config: Config) -> dict[str, ImageDataset]:
    """Load every split that the protocol reads, by name; lists and folders are checked here, images are decoded later.

    Raises:
        ValueError, FileNotFoundError: what the dataset finds wrong, splits that disagree about the classes, or videos
            for a backbone of images and the other way round.
    """
    names = list_splits(config.protocol, config.read_test)
    load = config.data.open_splits()
    trained = {phase.trained for phase in PHASES[config.protocol]}
    splits = {name: take_few(load(name), config.data) if name in trained else load(name) for name in names}
    first = splits[names[0]]
    check_items(config.backbone, config.data, first)
    if len(set(first.classes)) < len(first.classes):
        twice = sorted(name for name, times in Counter(first.classes).items() if times > 1)
        raise ValueError(f"data={config.data.name}: class names must differ, twice there: {', '.join(twice)}")
    try:
        find_task(first).check_splits(splits)
        task = learn_task(first, config.recipe)
        task.create_loss(config.recipe, first)
        if config.data.balanced:
            list_groups(first)
    except ValueError as error:
        raise ValueError(f"data={config.data.name}: {error}") from None
    check_methods(config, task)
    return splits


def check_methods(config: Config, task: Task) -> None:
    """Raise ValueError where a method is not for tasks of this kind, or nothing would be trained."""
    for method in config.methods:
        if method.task_kinds and task.kind not in method.task_kinds:
            raise ValueError(
                f"method={method.name} is for tasks of {' and '.join(method.task_kinds)}, got a task of {task.kind}: "
                "give another method, such as method=lora"
            )
    if config.methods and not task.outputs and not any(method.changes_features for method in config.methods):
        names = "+".join(method.name for method in config.methods)
        raise ValueError(
            f"nothing would be trained: method={names} trains a head alone, and a task of {task.kind} has none here: "
            "give recipe.embedding_width=128, or a method that trains, such as method=lora"
        )


def check_shares(recipe: Recipe, processes: int, samples: int) -> None:
    """Check that every process can pair the images of its share of a batch.

    Raises:
        ValueError: mixup or cutmix, and the share is odd, or of fewer than two images.
    """
    if not (recipe.mixup or recipe.cutmix):
        return
    share, odd = divmod(recipe.batch_size // recipe.accumulate, processes)
    if share % 2 or odd:
        raise ValueError(
            f"mixup and cutmix pair the images of a process: recipe.batch_size {recipe.batch_size} in "
            f"{recipe.accumulate * processes} parts ({processes} processes, recipe.accumulate={recipe.accumulate}) "
            f"must be an even number of images each: take a multiple of {2 * recipe.accumulate * processes}"
        )
    if samples // processes < 2:
        raise ValueError(f"mixup and cutmix pair images: {samples} of them are too few for {processes} processes")


def describe_data_since(config: Config, folder: Path) -> str:
    """Say in a line how the data has changed since the run in `folder` finished; see `describe_since`."""
    other_root = find_other_root(config, folder)
    return describe_since(folder, lambda: DataRecord(load_splits(config), config.data), other_root)


def check_items(backbone: BackboneConfig, data: DataConfig, dataset: ImageDataset) -> None:
    """Raise ValueError for videos where the backbone takes single images, and for images where it takes clips."""
    if dataset.gives_clips and backbone.num_frames is None:
        raise ValueError(
            f"data={data.name} holds videos, backbone.name={backbone.name} takes single images: give "
            "backbone.num_frames=8 (each frame by itself), with backbone.tubelet_size=2 tokens that span two frames"
        )
    if not dataset.gives_clips and backbone.num_frames is not None:
        raise ValueError(
            f"data={data.name} holds images, backbone.num_frames={backbone.num_frames} makes a backbone of clips: give "
            "backbone.num_frames=null backbone.tubelet_size=null, or data of videos"
        )


def create_model(
    backbone: BackboneConfig, seed: int, drop_path: float = 0.0, dtype: str | None = None, channels: int | None = None
) -> Any:
    """Build the bare backbone without a head; `seed` draws its weights where they are random, `dtype` may pack them.

    `channels` are those of the data; None: RGB.
    """
    seed_everything(seed, "backbone")
    wanted = backbone.in_chans or channels or 3
    own = {} if wanted == 3 or "in_chans" in backbone.kwargs else {"in_chans": wanted}
    model = vp.create_backbone(
        backbone.name,
        pretrained=backbone.pretrained,
        checkpoint=backbone.checkpoint,
        num_classes=0,
        img_size=backbone.img_size,
        drop_path=drop_path,
        num_frames=backbone.num_frames,
        tubelet_size=backbone.tubelet_size,
        inflate=backbone.inflate,
        **own,
        **backbone.kwargs,
    )
    return vp.quantize_backbone(model, dtype) if dtype in QUANTIZED else model


def create_bare_model(config: Config) -> Any:
    """Create the backbone of a config, before anything is attached."""
    channels = getattr(config.data, "channels", None)  # which not all datasets have
    return create_model(config.backbone, config.seed, config.recipe.drop_path, config.backbone_dtype, channels)


def attach_methods(
    model: Any, config: Config, train_set: ImageDataset, outputs: int, device: torch.device
) -> nn.Module:
    """Attach the methods and a fresh head that answers with so many `outputs` (0: none), ready to train on `device`.

    Methods that need images (`samples_needed`) get those of `train_set` that they ask for.

    Raises:
        ValueError: a method that does not fit the backbone, or a `drop_path` that would never act.
    """
    recipe = config.recipe
    reads_tokens = isinstance(
        read_head(recipe.head), TokenHead | MapHead
    )  # first: methods ask whether the head reads patches
    seed_everything(config.seed, "methods")
    needed = [method.samples_needed for method in config.methods]
    head_first = bool(outputs) and (reads_tokens or any(each is not None and each.logits for each in needed))
    if head_first:
        vp.replace_head(model, recipe.head, outputs, **(recipe.all_head_options if reads_tokens else {}))
    for method in config.methods:
        samples = None
        if method.samples_needed is not None:
            samples = _load_samples(model.to(device), config, train_set, method.samples_needed)
        vp.attach(model, method, samples=samples)
        if samples is not None:
            take_from_rank0(vp.tuned_state_dict(model).values())
    if outputs and not head_first:
        vp.replace_head(model, recipe.head, outputs)
    if recipe.recompute != "none":
        vp.set_recompute(model, recipe.recompute)
    vp.train_mode(model, config.recipe.frozen_mode)
    if config.recipe.drop_path and not any(isinstance(m, DropPath) and m.training for m in model.modules()):
        raise ValueError("recipe.drop_path has no effect on frozen blocks: give recipe.frozen_mode=train")
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            _store_frozen(layer, DTYPES.get(config.backbone_dtype, torch.float32))
        if isinstance(layer, nn.Conv2d) and config.channels_last:
            layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.to(device)


def forget_tuning(*models: nn.Module) -> None:
    """Take off `models`, which nothing needs any more, what refers back to them, so that their memory is free at once.

    Python would look for it only now and then, and a search would hold the models of many trials.
    """
    for model in models:
        clear_record(model)


def _store_frozen(layer: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen weights of one layer, not of layers inside it, in `dtype`; autocast computes with them as before.

    Norms, positions and tokens stay fp32: they are small, and the sums they enter are to stay fp32.
    """
    for parameter in layer.parameters(recurse=False):
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def _load_samples(model: nn.Module, config: Config, dataset: ImageDataset, needed: SamplesNeeded) -> Iterable[Any]:
    """Batches of the images that a method needs, in the order of `dataset`; every pass over them is the same."""
    part = dataset.subset(needed.choose(dataset.labels))
    settings, recipe = input_settings(model, config.recipe, None, dataset), config.recipe
    if needed.augmented:
        part.set_training(settings, recipe.augment, recipe.random_erasing, recipe.clip_place)
    else:
        part.set_evaluation(settings)
    if needed.views > 1:
        batch_size = needed.views * part.eval_batch_size
        loader = TrainLoader(
            part,
            batch_size,
            config.seed,
            config.workers,
            max_bad_fraction=config.max_bad_fraction,
            repeated_augmentation=needed.views,
        )
        return loader.epoch(0)
    # an undecodable image is left out here; training meets it again and reports it
    return eval_loader(part, part.eval_batch_size, config.workers, bad="wrong")


def input_settings(
    model: nn.Module, recipe: Recipe, data: DataConfig | None = None, dataset: ImageDataset | None = None
) -> dict[str, Any]:
    """Say how an image or a video becomes the model's input: what adapter.json records and `set_evaluation` takes.

    `data` adds how it decodes greyscale of more than 8 bits, where that is not as by default; `dataset`, of images with
    bands, how they are read, and the statistics of the bands.
    """
    found, bands = input_config(model), None if dataset is None else dataset.bands
    name = "backbone" if recipe.normalisation == "bands" else recipe.normalisation
    mean, std = choose_normalisation(name, found["mean"], found["std"])
    if bands is not None:
        mean, std = choose_band_normalisation(recipe.normalisation, bands, mean, std)
    clips: dict[str, Any] = {}
    if "num_frames" in found:
        clips = {key: found[key] for key in ("num_frames", "tubelet_size")}
        clips |= {key: getattr(recipe, key) for key in ("sampling", "frame_stride", "views", "crops", "view_average")}
        clips |= {"clip_seconds": recipe.clip_seconds} if recipe.clip_seconds else {}
    value_range = getattr(data, "value_range", "full")  # which not all datasets have
    deep: dict[str, Any] = (
        {} if value_range == "full" else {"value_range": [*value_range] if value_range != "image" else value_range}
    )
    return {
        "size": list(found["size"]),
        "mean": list(mean),
        "std": list(std),
        "interpolation": found["interpolation"] if recipe.interpolation == "backbone" else recipe.interpolation,
        "resize": recipe.resize,
        "crop_pct": recipe.crop_pct,
        **({"window": True} if recipe.window else {}),
        **clips,
        **(deep if bands is None else bands.record()),
    }


def set_transforms(splits: Mapping[str, ImageDataset], settings: Mapping[str, Any], recipe: Recipe) -> None:
    """Give train and trainval the recipe's augmentation, val and test the plain geometry.

    Of videos, train and trainval give one clip, from a random place by default, test all views, val one, the middle.
    """
    for name, dataset in splits.items():
        if name in ("train", "trainval"):
            dataset.set_training(settings, recipe.augment, recipe.random_erasing, recipe.clip_place)
        else:
            dataset.set_evaluation(settings if name == "test" else {**settings, "views": 1, "crops": 1})
