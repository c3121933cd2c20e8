"""How sure the model that is kept may be: its temperature, fitted when training ends on a val it was not trained on."""

from typing import Any

from torch import nn

from vision_peft.calibration import fit_temperature
from vision_peft.data import ImageDataset
from vision_peft.distributed.device import Compute
from vision_peft.protocols import PHASES
from vision_peft.training.evaluation import Metrics, collect_video_logits, create_eval_loader
from vision_peft.training.progress import Training

MOST_LOGITS = 50_000_000  # that a temperature is fitted on


def calibrate(training: Training, model: Any) -> float | None:
    """Fit the temperature of the probabilities on val, where the model that is kept was not trained on it."""
    config, run = training.config, training.run
    if PHASES[config.protocol][-1].watched != "val":
        run.say(f"probabilities are not calibrated: {config.protocol} leaves no val that was not trained on")
        return None
    val = training.splits["val"]
    temperature = find_temperature(model, val, training.compute, config.workers)
    if temperature is None:
        run.say(
            "probabilities are not calibrated: no temperature is best where all of val or no more than chance is right"
        )
    return temperature


def find_temperature(model: nn.Module, dataset: ImageDataset, compute: Compute, workers: int | str) -> float | None:
    """Fit the temperature of the probabilities on a split that was not trained on; see `fit_temperature` for None.

    All processes get the same, however many there are: logits are put in the order of the data set first. Of a split
    with more than `MOST_LOGITS` the first images are taken. What cannot be decoded is left out.
    """
    most = max(1, MOST_LOGITS // len(dataset.classes))
    if len(dataset) > most:
        transform, dataset = dataset.transform, dataset.first(most)
        dataset.transform = transform
    found = collect_video_logits(model, create_eval_loader(dataset, compute, workers, bad="wrong"), compute)[0].gather()
    _, logits, labels = found.mean_logits()
    return fit_temperature(logits, labels) if len(labels) else None


def describe_calibration(metrics: Metrics, temperature: float | None) -> str:
    """Say in a line of its own how far the probabilities of test are from true, before and after a temperature."""
    if temperature is None or metrics.ece is None:
        return ""
    before, after = f"{metrics.ece_raw:.2f} %", f"{metrics.ece:.2f} %"
    return f"\nexpected calibration error of test: {before}, with temperature {temperature:.3g} of val {after}"
