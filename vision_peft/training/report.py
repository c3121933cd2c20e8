"""What a run says about itself: the opening lines and the row of result.json."""

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import vision_peft as vp
from vision_peft import backbones
from vision_peft.backbones.file_hash import hash_weights
from vision_peft.config.parse import Config
from vision_peft.config.recommended import describe_recipe
from vision_peft.config.run_id import digest_setting, setting_fields, task_name
from vision_peft.data import ImageDataset
from vision_peft.data.normalisation import resolve_normalisation
from vision_peft.distributed.device import Compute, describe_device, peak_memory_mb
from vision_peft.distributed.processes import on_rank0
from vision_peft.distributed.stopping import Interrupted
from vision_peft.printable import printable
from vision_peft.protocols import CHOICES
from vision_peft.results.row import DIVERGED, STATUS, STOPPED, UNFINISHED, Row, write_row
from vision_peft.results.table import format_count
from vision_peft.runs.checkpoint import SaveError
from vision_peft.runs.data_record import name_wrong
from vision_peft.tasks import describe_classes, describe_task
from vision_peft.tasks.metrics import Metrics
from vision_peft.training.progress import Diverged, Progress, Training
from vision_peft.tuning.backbone import input_channels
from vision_peft.tuning.head_kinds import head_text, read_head

LONGEST_REASON = 1000  # letters; a message may name every sample of a batch


def describe_run(
    config: Config, model: nn.Module, splits: Mapping[str, ImageDataset], folder: Path, compute: Compute
) -> str:
    """Describe what is about to be trained, on what and where."""
    counts = vp.count_parameters(model)
    methods = " + ".join(str(method) for method in config.methods)
    numbers = ", ".join(f"{name} {dataset.count_sources()}" for name, dataset in splits.items())
    asked = describe_classes(next(iter(splits.values())))
    data = " ".join(filter(None, (config.data.name, task_name(config.data))))
    items = "images" if config.backbone.num_frames is None else f"videos ({_describe_clips(config)})"
    processes = f", {describe_processes(compute)}" if compute.world_size > 1 else ""
    odd = on_rank0(lambda: [f"\n{name}: {it}" for name, part in splits.items() if (it := part.describe_oddities())])
    remarks = [f"{method.name}: {method.remark}\n" for method in config.methods if method.remark]
    return (
        f"backbone  {backbone_name(config, model)}, {format_count(counts.backbone)} parameters\n"
        f"method    {methods}\n"
        f"trains    {format_count(counts.trained)} parameters of the method, {format_count(counts.head)} of the head\n"
        f"{''.join(remarks)}"
        f"data      {data}: {asked}, {items}: {numbers}\n"
        f"protocol  {config.protocol}: {CHOICES[config.protocol]}\n"
        f"recipe    {describe_recipe(config.recipe, config.methods)}\n"
        f"device    {describe_device(compute.device)}, {compute.precision}{processes}\n"
        f"folder    {folder}{''.join(odd)}"
    )


def describe_processes(compute: Compute) -> str:
    """Describe the processes of a training as a state remembers them."""
    return f"{compute.world_size} processes ({compute.strategy})" if compute.world_size > 1 else "1 process"


def describe_other_processes(before: str, compute: Compute) -> str:
    """Describe how the processes that saved a state differ from those that resume it; "" if they do not."""
    now = describe_processes(compute)
    if not before.strip() or before == now:
        return ""
    drawn = "" if before.split()[0] == now.split()[0] else ", and dropout, drop path and mixup draw other numbers"
    return (
        f"\nthe state was saved by {printable(before)}, it goes on in {now}: the samples come in the same order, but "
        f"the result is not bit for bit that of either, as sums are rounded in another way{drawn}"
    )


def note_start(
    config: Config, start: Mapping[str, Any], progress: Progress, world_size: int, tried: Mapping[str, list[Any]] | None
) -> str:
    """Have the progress remember what the run is started with, and describe what is different since its last start.

    Args:
        config: of the run.
        start: of this process, see `runs.provenance`.
        progress: of a new run, or of the state that it resumes from.
        world_size: processes that train.
        tried: values that a search compared before, by dotted key.
    """
    weights = on_rank0(lambda: hash_weights(config.backbone.name, config.backbone.checkpoint))
    settings = setting_fields(config, weights, world_size)
    words = progress.note_start({**start, "weights": weights}, settings, None if tried is None else dict(tried))
    return f"\nchanges since its last start: {printable(words, LONGEST_REASON)}" if words else ""


def make_row(
    training: Training,
    model: nn.Module,
    progress: Progress,
    metrics: Metrics | None = None,
    temperature: float | None = None,
) -> Row:
    """Make the row of a run: without `metrics` that of a search trial, and before its end that of an unfinished run."""
    config, splits, settings = training.config, training.splits, training.settings
    recipe, counts, start = config.recipe, vp.count_parameters(model), progress.start
    nothing = {"top1": None, "top5": None, "mean_per_class": None, "per_class": {}, "confusion": None}
    trained_on = splits["trainval" if "trainval" in splits else "train"]
    height, width = settings["size"]
    return Row(
        methods=[{"name": m.name, "fields": _fields(m)} for m in _as_chosen(config, progress)],
        backbone=backbone_name(config, model),
        dataset=config.data.name,
        task=task_name(config.data),
        seed=config.seed,
        protocol=config.protocol,
        setting=digest_setting(progress.settings),
        settings=progress.settings,
        temperature=temperature,
        **(nothing | ({} if metrics is None else metrics.to_row())),
        hardest=[] if metrics is None else name_wrong(splits["test"], config.data, metrics.list_hardest()),
        **describe_task(training.task),
        n_train=trained_on.count_sources(),
        n_val=splits["val"].count_sources() if "val" in splits else 0,
        n_test=splits["test"].count_sources() if "test" in splits else 0,
        lr=(progress.best or {}).get("lr", recipe.lr),
        weight_decay=(progress.best or {}).get("weight_decay", recipe.weight_decay),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        img_size=height if height == width else [height, width],
        num_frames=settings.get("num_frames"),
        views=_count_views(settings, splits),
        normalisation=resolve_normalisation(recipe.normalisation, config.data),
        head=_head_name(config),
        params_trained=counts.trained,
        params_stored=counts.stored,
        params_head=counts.head,
        params_backbone=counts.backbone,
        adapter_bytes=sum(path.stat().st_size for path in (training.run.folder / "adapter").glob("*")),
        flops_forward=None,
        world_size=start["world_size"],
        precision=start["precision"],
        device=start["device"],
        versions=start["versions"],
        commit=start["commit"],
        command=training.command,
        data_digest=training.data_digest,
        **_describe_progress(training, progress),
    )


def _describe_progress(training: Training, progress: Progress) -> dict[str, Any]:
    """Return the fields of a row that change while a run goes on."""
    updates, best = training.timing.updates, progress.best
    return {
        "val_top1": best.get("val_top1") if best else None,
        "val_figure": best.get(f"val_{training.task.metric}") if best else None,
        "chosen_epoch": best["epoch"] if best else None,
        "updates": progress.step,
        "step_ms": 1000 * statistics.median(updates) if updates else None,
        "images_per_s": training.timing.images / sum(updates) if updates else None,
        "reused_features": training.timing.reused_features,
        "data_wait_share": training.timing.waited / sum(updates) if updates else None,
        "peak_memory_mb": peak_memory_mb(training.compute.device),
        "train_seconds": progress.seconds,
        "total_seconds": training.total_seconds,
        "resumed_with": progress.resumed_with,
        "tried": progress.tried,
        "curve": progress.history,
    }


@contextlib.contextmanager
def keep_status(training: Training, model: nn.Module, progress: Progress) -> Iterator[None]:
    """Inside, status.json holds the row as far as it goes: of a run that is unfinished, in the end stopped or diverged.

    It is gone once the run has its result. That it cannot be written (disk full) is said and stops nothing.
    """
    row = make_row(training, model, progress)
    _write_status(training, dataclasses.replace(row, status=UNFINISHED, updates=None))
    try:
        yield
    except (Interrupted, Diverged) as error:
        status = STOPPED if isinstance(error, Interrupted) else DIVERGED
        so_far = {
            **_describe_progress(training, progress),
            "status": status,
            "reason": printable(error, LONGEST_REASON),
        }
        _write_status(training, dataclasses.replace(row, **so_far))
        raise
    on_rank0(lambda: (training.run.folder / STATUS).unlink(missing_ok=True))


def _write_status(training: Training, row: Row) -> None:
    try:
        training.run.save(STATUS, lambda path: write_row(path, row))
    except SaveError as error:
        training.run.say(f"warning: {error}")


@torch.no_grad()
def flops_forward(model: nn.Module, size: Sequence[int], device: torch.device, num_frames: int | None = None) -> int:
    """Count the floating point operations of one forward pass on one image or clip.

    Attention is included; a multiply-add counts two.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which a training needs at its end only

    model.eval()
    item = torch.zeros(1, input_channels(model), *([num_frames] if num_frames else []), *size, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused CPU attention counts as zero
        model(item)
    return counter.get_total_flops()


def count_flops(training: Training, model: nn.Module) -> int:
    """Count the operations of the model on one image, or clip, of the run."""
    size, frames = training.settings["size"], training.settings.get("num_frames")
    with training.compute.autocast():  # frozen matrices may be stored in its type
        return flops_forward(model, size, training.compute.device, frames)


def backbone_name(config: Config, model: Any) -> str:
    """timm's name of the backbone with the tag of its weights, or that they are random."""
    if not config.backbone.pretrained and config.backbone.checkpoint is None:
        return f"{model.pretrained_cfg['architecture']} (random weights)"
    return backbones.backbone_name(model)


def _head_name(config: Config) -> str:
    """Name the head that answers, with its options."""
    own = next((method.name for method in config.methods if method.brings_head), None)
    return own or head_text(read_head(config.recipe.head, config.recipe.all_head_options))


def _as_chosen(config: Config, progress: Progress) -> list[Any]:
    """Return the methods with what val chose of their fields: the k of k-NN."""
    k = (progress.best or {}).get("k")
    return [dataclasses.replace(m, k=k) if m.brings_head and k is not None else m for m in config.methods]


def _describe_clips(config: Config) -> str:
    recipe, frames = config.recipe, config.backbone.num_frames
    taken = {
        "dense": f"1 of {recipe.frame_stride}",
        "segments": "spread over the video",
        "seconds": f"spread over {recipe.clip_seconds or 0:g} s",
    }[recipe.sampling]
    views = f", test {recipe.views} views x {recipe.crops} crops" if (recipe.views, recipe.crops) != (1, 1) else ""
    return f"{frames} frames, {taken}{views}"


def _count_views(settings: Mapping[str, Any], splits: Mapping[str, ImageDataset]) -> int:
    """Count the items that are averaged for one of test; where videos have different numbers, on average."""
    views, crops, test = settings.get("views", 1), settings.get("crops", 1), splits.get("test")
    if isinstance(views, int):
        return views * crops
    return crops if test is None else round(len(test) / test.count_sources())


def _fields(method: Any) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in method.recorded_fields().items()}
