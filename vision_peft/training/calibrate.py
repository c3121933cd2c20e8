"""What is chosen when training ends by a val that was not trained on: temperature, thresholds, as the task has it."""

from typing import Any

from torch import Tensor, nn

from vision_peft.data import ImageDataset
from vision_peft.distributed.device import Compute
from vision_peft.protocols import PHASES
from vision_peft.tasks.task import Task
from vision_peft.training.evaluation import collect_video_logits, create_eval_loader
from vision_peft.training.progress import Training

MOST_LOGITS = 50_000_000  # that something is chosen by


def calibrate(training: Training, model: Any) -> Task:
    """Choose on val how the answers of the model are read, where the model that is kept was not trained on it."""
    config, run, task = training.config, training.run, training.task
    if not task.fits_on_val:
        return task
    if PHASES[config.protocol][-1].watched != "val":
        run.say(f"{task.fits_on_val}: {config.protocol} leaves no val that was not trained on")
        return task
    outputs, labels = collect_outputs(model, training.splits["val"], task, training.compute, config.workers)
    task = task.fit_on_val(outputs, labels) if len(labels) else task
    if words := task.describe_fit():
        run.say(words)
    return task


def collect_outputs(
    model: nn.Module, dataset: ImageDataset, task: Task, compute: Compute, workers: int | str
) -> tuple[Tensor, Tensor]:
    """Compute the answers to a split that was not trained on, N outputs, and its labels, N.

    All processes get the same, however many there are: they are put in the order of the dataset. Of a split with more
    than `MOST_LOGITS` the first images are taken. What cannot be decoded is left out.
    """
    most = max(1, MOST_LOGITS // task.outputs)
    if len(dataset) > most:
        transform, dataset = dataset.transform, dataset.first(most)
        dataset.transform = transform
    found = collect_video_logits(model, create_eval_loader(dataset, compute, workers, bad="wrong"), compute)[0].gather()
    _, logits, labels = found.mean_logits()
    return logits, labels
