"""Look at the files of a run before it trains, and measure the bands of images that are not RGB."""

import dataclasses
from collections.abc import Mapping

from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset
from vision_peft.data.check.contents import ProgressLine
from vision_peft.data.decoding.images import ImageDecodeError, MisfitError
from vision_peft.data.decoding.mask_dataset import list_mask_problems
from vision_peft.data.loading.bad_files import is_share
from vision_peft.data.loading.find_bad_files import find_bad_files
from vision_peft.data.loading.measure_bands import combine, measure_bands
from vision_peft.data.problems import raise_problems
from vision_peft.distributed.device import Compute
from vision_peft.distributed.processes import all_gather, on_rank0
from vision_peft.protocols import PHASES


def check_files(config: Config, splits: Mapping[str, ImageDataset], compute: Compute) -> None:
    """Look at the files of all splits, shared by the processes, before anything is trained; see `config.check_files`.

    Of images with bands those that are trained on are decoded in any case, for the statistics of their bands.

    Raises:
        ValueError: files that would end the run, all of them: any of val and test, of train more than are replaced,
            and any with other bands than the data.
    """
    own: dict[str, list[ImageDecodeError]] = {split: [] for split in splits}
    if config.check_files != "off":
        decoded = [split for split in ("val", "test") if config.check_files == "decode"]
        progress = ProgressLine("files looked at") if compute.is_main else None
        own = find_bad_files(splits, decoded, **compute.share, progress=progress)
    trained = PHASES[config.protocol][0].trained
    if trained in splits and splits[trained].bands is not None:
        own[trained] += _measure(splits[trained], compute, {error.path for error in own[trained]})
    elif config.check_files == "off":
        return
    words = {
        split: [[error.path, error.cause, isinstance(error, MisfitError)] for error in errors]
        for split, errors in own.items()
    }
    shares = all_gather(words)
    problems = []
    for split, dataset in splits.items():
        bad = sorted(error for share in shares for error in share[split])
        evaluated = split in ("val", "test")
        allowed = config.bad_eval == "wrong" if evaluated else is_share(len(bad), config.max_bad_fraction, len(dataset))
        problems += [f"{split}: {path}: {cause}" for path, cause, misfits in bad if misfits or not allowed]
    raise_problems(
        f"data={config.data.name}: files cannot be decoded. Fix or remove them; else max_bad_fraction is the share of "
        "train that may be bad, and bad_eval=wrong counts those of val and test as wrong answers",
        problems,
    )
    if config.check_files == "decode":
        raise_problems(f"data={config.data.name}: labels", on_rank0(lambda: [*list_mask_problems(splits)]))


def _measure(dataset: ImageDataset, compute: Compute, known: set[str]) -> list[ImageDecodeError]:
    """Measure the bands of the training images; returns files that cannot be read, but those that are known."""
    progress = ProgressLine("training images measured") if compute.is_main else None
    sums, errors = measure_bands(dataset, **compute.share, progress=progress)
    parts = all_gather(dataclasses.asdict(sums))
    if dataset.bands is not None and any(any(part["counts"]) for part in parts):
        dataset.bands.statistics = combine(parts)
    return [error for error in errors if error.path not in known]
