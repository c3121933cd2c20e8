"""Training from Python: `train(config)` gives row, folder and model; names are imported when they are used."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder

Tiny = Callable[..., Config]


def test_train_gives_the_row_the_folder_and_the_tuned_model(tiny: Tiny) -> None:
    from vision_peft.training import Trained, evaluate, train

    config = tiny()
    trained = train(config)
    assert isinstance(trained, Trained)
    assert trained.folder == run_folder(config)
    kept = load_file(trained.folder / "adapter" / "adapter.safetensors")
    found = vp.tuned_state_dict(trained.model)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    assert not trained.model.training
    assert trained.model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert trained.model is trained.model
    assert evaluate(trained.folder).metrics.top1 == trained.row.top1
    with pytest.raises(dataclasses.FrozenInstanceError):
        trained.row = None  # type: ignore[misc]


def test_a_run_that_was_finished_before_has_its_model_too(tiny: Tiny) -> None:
    from vision_peft.training import train

    config = tiny("recipe.epochs=1")
    first, again = train(config), train(config)
    assert again == first
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.model(images), first.model(images))


def test_a_config_can_be_built_from_its_dataclasses(tiny: Tiny) -> None:
    from vision_peft.training import BackboneConfig, Config, Recipe, compose_config, train

    typed = tiny("method=lora", "method.rank=2", "recipe.epochs=1")
    built = Config(
        backbone=BackboneConfig(
            name="vit_tiny_patch16_224", pretrained=False, img_size=32, kwargs={"depth": 2, "embed_dim": 24}
        ),
        methods=(vp.LoRA(rank=2),),
        data=typed.data,
        recipe=Recipe(epochs=1, batch_size=8, lr=vp.LoRA.recommended["lr"]),
        device="cpu",
        workers=0,
        output_dir=typed.output_dir,
    )
    assert built == typed
    assert train(built).folder == run_folder(typed)
    assert compose_config(["data=digits"]).data.name == "digits"


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    from vision_peft import training

    with pytest.raises(AttributeError, match="has no attribute 'fitt'; there are BackboneConfig, Config"):
        _ = training.fitt  # type: ignore[attr-defined]
