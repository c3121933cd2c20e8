"""vp.register: methods and datasets of a user's own code are used like the built-in ones."""

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from support.families import images, randomise_tuned
from support.families import tiny as tiny_model
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config, ConfigError, parse_config, to_dict
from vision_peft.config.registered import REGISTERED
from vision_peft.config.run_id import run_folder
from vision_peft.data import DATASETS, DataConfig, ImageDataset, ImageFiles
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train
from vision_peft.tuning.blocks import blocks, width
from vision_peft.tuning.graft import Graft, graft


class ShiftNorm(Graft):
    """norm(x) + shift."""

    shift: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


@dataclass(frozen=True)
class Shift(vp.Method):
    """A learned shift behind the second norm of every block."""

    name: ClassVar[str] = "shift"

    start: float = 0.0  # value at the start
    sides: tuple[str, ...] = ("all",)

    def attach(self, model: nn.Module) -> None:
        for block in blocks(model):
            graft(block.norm2, ShiftNorm, shift=nn.Parameter(torch.full((width(block),), self.start)))


@dataclass(frozen=True, kw_only=True)
class Dots(DataConfig):
    """Images of one colour a class, written into `root` at first use."""

    name: ClassVar[str] = "dots"

    root: str = ""
    count: int = 6

    def load(self, split: str) -> ImageDataset:
        classes = ["blue", "green", "red"]
        paths = []
        for number in range(self.count):
            path = Path(self.root, f"{split}-{number}.png")
            colour = [(0, 0, 200), (0, 200, 0), (200, 0, 0)][number % 3]
            Image.new("RGB", (16, 16), (*colour[:2], colour[2] + number)).save(path)
            paths.append(path)
        return ImageFiles(paths, [number % 3 for number in range(self.count)], classes)  # L18: nothing else is needed


@pytest.fixture
def registered() -> Iterator[None]:
    """Register both, and forget them again: other tests go over all methods and datasets."""
    vp.register(Shift)
    vp.register(Dots)
    yield
    for known, name in ((vp.METHODS, "shift"), (DATASETS, "dots")):
        known.pop(name, None)
    for names in REGISTERED.values():
        names.clear()


def test_a_method_is_listed_like_the_built_in_ones(registered: None) -> None:
    assert vp.METHODS["shift"] is Shift
    assert list(vp.METHODS) == sorted(vp.METHODS)
    assert vp.Shift is Shift
    assert "Shift" in dir(vp)
    assert DATASETS["dots"] is Dots


def test_register_gives_the_class_back_so_that_it_decorates(registered: None) -> None:
    assert vp.register(Shift) is Shift
    assert vp.register(Dots) is Dots


def test_it_is_composed_without_a_config_file_from_the_defaults(registered: None, tmp_path: Path) -> None:
    config = compose_config(["method=shift", "method.start=0.5", "data=dots", f"data.root={tmp_path}"])
    assert config.methods == (Shift(start=0.5),)
    assert config.data == Dots(root=str(tmp_path))
    assert parse_config(to_dict(config)) == config
    assert compose_config(["method=lora", "+method_2=shift"]).methods == (vp.LoRA(), Shift())
    with pytest.raises(ConfigError, match=r"unknown key method\.strat: did you mean method\.start\?"):
        compose_config(["method=shift", "method.strat=1"])
    with pytest.raises(ConfigError, match=r"method=shfit: no such config \(did you mean shift\?\)"):
        compose_config(["method=shfit"])


def test_it_is_trained_saved_loaded_and_evaluated(
    registered: None, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("method=shift", "data=dots", f"data.root={tmp_path}", "data.count=12", "protocol=val_select")
    train(config)
    folder = run_folder(config)
    assert json.loads((folder / "adapter" / "adapter.json").read_text())["methods"][0]["name"] == "shift"
    loaded = vp.load(folder, device="cpu")
    assert vp.count_parameters(loaded).stored == sum(width(block) for block in blocks(loaded))
    assert evaluate_saved(folder, []).metrics.top1 == json.loads((folder / "result.json").read_text())["top1"]


def test_an_adapter_of_a_method_that_is_not_registered_says_what_to_do(registered: None, tmp_path: Path) -> None:
    model = vp.attach(tiny_model("vit"), Shift())
    randomise_tuned(model)
    folder = vp.save_adapter(model, tmp_path)
    assert torch.equal(vp.load_adapter(tiny_model("vit"), folder)(images(model)), model(images(model)))
    assert torch.equal(pickle.loads(pickle.dumps(model))(images(model)), model(images(model)))
    del vp.METHODS["shift"]
    with pytest.raises(ValueError, match=r"unknown method 'shift'.*register your own first, with vp\.register"):
        vp.load_adapter(tiny_model("vit"), folder)


def test_taken_names_are_refused(registered: None) -> None:
    @dataclass(frozen=True)
    class Other(Shift):
        name: ClassVar[str] = "shift"

    @dataclass(frozen=True)
    class Rank(Shift):
        name: ClassVar[str] = "lora"

    @dataclass(frozen=True)
    class LoRA(Shift):
        name: ClassVar[str] = "my_lora"

    @dataclass(frozen=True, kw_only=True)
    class Digits(Dots):
        name: ClassVar[str] = "digits"

    for kind, reason in (
        (Other, "the name 'shift' is taken by .*test_register.Shift"),
        (Rank, "the name 'lora' is taken by vision_peft.methods.lora.LoRA"),
        (LoRA, "the class name LoRA is taken by vision_peft.methods.lora"),
        (Digits, "the name 'digits' is taken by vision_peft.data.datasets.digits.Digits"),
    ):
        with pytest.raises(ValueError, match=reason):
            vp.register(kind)
    assert vp.METHODS["lora"] is vp.LoRA


def test_a_cell_that_is_run_again_replaces_its_class(registered: None) -> None:
    again = dataclass(frozen=True)(type("Shift", (Shift,), {"name": "shift", "__module__": __name__}))
    assert vp.register(again) is vp.METHODS["shift"] is again


def test_what_is_not_a_method_or_dataset_is_refused(registered: None) -> None:
    class Bare(Shift):
        name: ClassVar[str] = "bare"

    class Unfinished(vp.Method):
        name: ClassVar[str] = "unfinished"

    @dataclass(frozen=True)
    class Nameless(Shift):
        pass

    @dataclass(frozen=True)
    class Spaced(Shift):
        name: ClassVar[str] = "two words"

    for kind, reason in (
        (Shift(), "vp.register needs a subclass of vp.Method"),
        (int, "vp.register needs a subclass of vp.Method"),
        (Bare, "is not a dataclass: put @dataclass"),
        (Unfinished, "it does not define attach"),
        (Nameless, "needs a name of its own"),
        (Spaced, "got 'two words'"),
    ):
        wrong: Any = kind
        with pytest.raises(TypeError, match=reason):
            vp.register(wrong)
