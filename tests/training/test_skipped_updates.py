"""An update whose loss is not finite is skipped and named, and leaves nothing behind in what the run saves."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training import fit as fit_module
from vision_peft.training.step import TrainStep
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
real_update = fit_module.run_update


def nan_at(*steps: int) -> Callable[..., Any]:
    """A `run_update` that gets NaN for images at these updates, from 0."""

    def poisoned(batches: Iterator[Any]) -> Iterator[Any]:
        for images, labels, indices in batches:
            yield torch.full_like(images, float("nan")), labels, indices

    def run_update(step: TrainStep, batches: Iterator[Any], micro_batches: int, key: Any, votes: Any) -> Any:
        return real_update(step, poisoned(batches) if key[-1] in steps else batches, micro_batches, key, votes)

    return run_update


def test_a_skipped_update_leaves_tuned_tensors_and_batch_statistics_as_they_were(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("recipe.head=batchnorm_linear", "recipe.ema=0.9", "recipe.accumulate=2", "save_every=1")
    before: list[dict[str, torch.Tensor]] = []
    real_skip = TrainStep.skip

    def skip(self: TrainStep) -> None:
        before.append({name: tensor.clone() for (tensor, _), name in zip(self._statistics, "mvn", strict=True)})
        real_skip(self)
        assert all(tensor.isfinite().all() for tensor, _ in self._statistics)

    monkeypatch.setattr(fit_module, "run_update", nan_at(1, 4))
    monkeypatch.setattr(TrainStep, "skip", skip)
    row = train(config).row
    assert len(before) == 2
    assert all(statistics["m"].isnan().any() for statistics in before)
    assert len(row.curve) == 2
    assert all(t.isfinite().all() for t in load_file(run_folder(config) / "adapter" / "adapter.safetensors").values())
    lines = [json.loads(line) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]
    bad = [line for line in lines if line["kind"] == "bad_step"]
    assert [(line["step"], len(line["samples"])) for line in bad] == [(2, 8), (5, 8)]


def test_more_skipped_updates_in_a_row_than_allowed_end_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("max_bad_steps=1", "save_every=1")
    monkeypatch.setattr(fit_module, "run_update", nan_at(3, 4))
    named = r"\(step 5, lr .*on samples (\d+, ){7}\d+: .*2 such updates in a row, max_bad_steps=1"
    with pytest.raises(FloatingPointError, match=named):
        train(config)
    log = (run_folder(config) / "log.txt").read_text()
    assert log.count("this update is skipped") == 1
    assert not (run_folder(config) / "adapter").exists()
