"""What a forward pass costs with a trained adapter, as a ratio to the bare backbone: both in turn, on one batch."""

import contextlib
from functools import partial
from typing import Any

import torch

from vision_peft.benchmarks.costs import find_ratio
from vision_peft.benchmarks.times import Run, measure_seconds, measure_times
from vision_peft.data.loading.batches import use_one_thread
from vision_peft.distributed.device import choose_compute
from vision_peft.training.build import create_bare_model
from vision_peft.training.trained import Trained
from vision_peft.tuning.backbone import input_channels
from vision_peft.tuning.merge import merge
from vision_peft.tuning.record import graft_tensors

ROUNDS, SHORT_S, OF_SHORT = 7, 0.05, 25  # as many rounds, and of passes shorter than so many seconds more
BARE, TUNED, MERGED = "bare", "inference", "merged"


def measure_inference(trained: Trained) -> dict[str, float | None]:
    """Return the ratio of a forward pass to that of the bare backbone, and that of the merged model where it merges.

    Medians over rounds, in each of which all run once; on a CPU by the CPU time of one thread.
    """
    config, row = trained.config, trained.row
    compute = choose_compute(config.device, config.precision)
    models: dict[str, Any] = {BARE: create_bare_model(config).to(compute.device).eval(), TUNED: trained.model}
    if graft_tensors(models[TUNED]):
        with contextlib.suppress(ValueError):  # it does not merge
            models[MERGED] = merge(Trained(row, trained.folder, config).model).eval()
    size = [row.img_size] * 2 if isinstance(row.img_size, int) else row.img_size
    frames = [] if row.num_frames is None else [row.num_frames]
    images = torch.randn(
        min(row.batch_size, 32),
        input_channels(models[BARE]),
        *frames,
        *size,
        generator=torch.Generator().manual_seed(0),
    ).to(compute.device)

    @torch.no_grad()
    def infer(model: Any) -> None:
        with compute.autocast():
            model(images)

    runs = {name: Run(partial(infer, model)) for name, model in models.items()}
    with use_one_thread():
        for model in models.values():
            infer(model)  # warms up
        number = ROUNDS if measure_seconds(runs[BARE].run, compute.device) > SHORT_S else OF_SHORT
        rounds = list(measure_times(runs, range(number), compute.device))
    times = {name: [taken for each in rounds if (taken := each.get(name)) is not None] for name in models}
    return {name: find_ratio(times[name], times[BARE]) for name in models if name != BARE}
