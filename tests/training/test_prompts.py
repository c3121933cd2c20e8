"""Training what starts from images, answers with several logits per image, or is stored in another form."""

from typing import Any

import pytest
import torch

import vision_peft as vp
from vision_peft.config.run_id import run_folder
from vision_peft.runs.checkpoint import newest_state
from vision_peft.training.build import create_model
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning", "p_tuning_v2", "prompt_tuning"])
def test_a_method_trains_by_its_name_and_its_folder_evaluates_to_the_same_figures(tiny, method) -> None:
    config = tiny(f"method={method}", "recipe.epochs=1")
    row = train(config).row
    folder = run_folder(config)
    again = evaluate_saved(folder, []).metrics
    assert again.top1 == row.top1
    assert again.confusion == row.confusion
    assert (row.params_stored < row.params_trained) == (method in ("prefix_tuning", "p_tuning"))


def test_the_state_of_a_run_keeps_what_trains_and_its_adapter_the_constants(tiny) -> None:
    config = tiny("method=prefix_tuning", "method.hidden=8", "recipe.epochs=1")
    train(config)
    folder = run_folder(config)
    state = newest_state(folder / "state")
    assert state is not None
    assert any("prefix_mlp" in name for name in state[0]["tuned"])
    loaded = vp.load_adapter(create_model(config.backbone, config.seed), folder / "adapter")
    assert not any("prefix_mlp" in name for name in vp.tuned_state_dict(loaded))


@pytest.mark.parametrize("method", ["method.init=class_labels", "method.ensemble=3", "method.vote=majority"])
def test_prompts_from_classes_and_ensembles_train_evaluate_and_pass_the_dry_run(tiny, method) -> None:
    more = ["method.ensemble=2"] if "vote" in method else []
    overrides = ["method=prompt_tuning", "method.tokens=4", method, *more, "recipe.epochs=1"]
    row = train(tiny(*overrides)).row
    assert row.top1 is not None
    assert row.curve[-1]["train_loss"] < 10
    train(tiny(*overrides, "dry_run=true", "seed=1"))


def test_an_ensemble_trains_on_mixed_targets(tiny) -> None:
    train(tiny("method=prompt_tuning", "method.ensemble=2", "recipe.mixup=0.2", "recipe.epochs=1"))


def test_images_behind_gradients_come_twice_in_a_batch_augmented_apart_and_shuffled(tiny, monkeypatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = vp.attach

    def attach(model: Any, method: vp.Method, *, samples: Any = None) -> Any:
        seen.extend((x, labels) for x, labels, *_ in samples)
        return real(model, method, samples=seen)

    monkeypatch.setattr(vp, "attach", attach)
    config = tiny("method=gps", "recipe.augment=crop_flip", "method.images_per_class=4", "recipe.epochs=1")
    train(config)
    ((x, labels),) = seen
    assert labels.bincount().tolist() == [8, 8, 8]
    assert torch.equal(labels[::2], labels[1::2])
    assert labels.tolist() != labels.sort().values.tolist()
    assert not torch.equal(x[::2], x[1::2])
    assert vp.tuned_state_dict(_load(config))["blocks.0.mlp.fc1.gps.index"].unique().numel() > 1


def _load(config: Any) -> Any:
    return vp.load_adapter(create_model(config.backbone, config.seed), run_folder(config) / "adapter")


def test_gradients_of_logits_are_those_of_the_head_that_trains(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[torch.Tensor] = []
    real = vp.attach

    def attach(model: Any, method: vp.Method, *, samples: Any = None) -> Any:
        heads.append(model.head.weight.detach().clone())
        return real(model, method, samples=samples)

    monkeypatch.setattr(vp, "attach", attach)
    config = tiny("method=gps", "method.loss=cross_entropy", "recipe.lr=1e-9", "recipe.epochs=1")
    assert train(config).row.top1 is not None
    torch.testing.assert_close(vp.tuned_state_dict(_load(config))["head.weight"], heads[0], rtol=0, atol=1e-6)


def test_prompts_from_classes_start_from_training_images_alone(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = vp.attach

    def attach(model: Any, method: vp.Method, *, samples: Any = None) -> Any:
        seen.extend(labels for _, labels, *_ in samples)
        return real(model, method, samples=samples)

    monkeypatch.setattr(vp, "attach", attach)
    train(tiny("method=prompt_tuning", "method.init=class_labels", "method.images_per_class=2", "recipe.epochs=1"))
    assert torch.cat(seen).bincount().tolist() == [2, 2, 2]
