"""The one check of dataclass fields: methods, recipes, settings, backbones and datasets answer wrong types alike."""

# pyright: reportArgumentType=false, reportCallIssue=false

import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

import vision_peft as vp
import vision_peft.fields as vision_peft_fields
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings
from vision_peft.data import DATASETS
from vision_peft.fields import Checked


@dataclass(frozen=True)
class Sample(Checked):
    """One field of every kind."""

    shared: ClassVar[str] = "not a field"

    count: int = 1
    rate: float = 0.5
    flag: bool = False
    name: str = "a"
    maybe: int | None = None
    names: tuple[str, ...] = ("a", "b")
    pair: tuple[float, float] = (0.0, 1.0)
    size: int | tuple[int, int] | None = None
    table: dict[str, Any] = field(default_factory=dict)
    items: list[int] = field(default_factory=list)
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("rate", 1, 1),
        ("names", "attn", ("attn",)),
        ("names", ["x", "y"], ("x", "y")),
        ("names", (), ()),
        ("pair", [0.9, 1], (0.9, 1)),
        ("size", 224, 224),
        ("size", [224, 196], (224, 196)),
        ("size", None, None),
        ("items", [1, 2], [1, 2]),
        ("anything", "whatever", "whatever"),
    ],
)
def test_a_value_arrives_in_the_annotated_form(name: str, given: Any, kept: Any) -> None:
    value = getattr(Sample(**{name: given}), name)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("count", "1", "a whole number; got '1'"),
        ("count", True, "a whole number; got True"),
        ("count", 1.0, "a whole number; got 1.0"),
        ("rate", float("nan"), "a finite number; got nan"),
        ("rate", float("inf"), "a finite number; got inf"),
        ("rate", None, "a finite number; got None"),
        ("flag", 1, "true or false; got 1"),
        ("name", 3, "text; got 3"),
        ("maybe", "x", "a whole number or none; got 'x'"),
        ("names", 3, "a list of text; got 3"),
        ("names", ("a", 3), "a list of text; got ('a', 3)"),
        ("pair", 0.9, "2 values (a finite number, a finite number); got 0.9"),
        ("pair", (0.9, 1.0, 2.0), "2 values (a finite number, a finite number); got (0.9, 1.0, 2.0)"),
        ("size", "224", "a whole number or 2 values (a whole number, a whole number) or none; got '224'"),
        ("table", [("a", 1)], "keys and values; got [('a', 1)]"),
        ("items", ["a"], "a list of a whole number; got ['a']"),
    ],
)
def test_a_value_of_another_type_is_answered_with_field_wanted_and_got(name: str, given: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=r"must be") as caught:
        Sample(**{name: given})
    assert str(caught.value) == f"{name} must be {wanted}"


def test_all_problems_come_at_once_and_before_the_values_are_looked_at() -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        Recipe(epochs="1", lr="high", betas=0.9, augment=3)  # pyright: ignore[reportArgumentType]
    assert str(caught.value).splitlines() == [
        "epochs must be a whole number; got '1'",
        "lr must be a finite number; got 'high'",
        "betas must be 2 values (a finite number, a finite number); got 0.9",
        "augment must be text; got 3",
    ]


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError, match=r"count must be a whole number; got 'x{199}\.\.\.$"):
        Sample(count="x" * 10**6)  # pyright: ignore[reportArgumentType]


# L5: one value stands for a tuple of it.
@pytest.mark.parametrize(
    ("single", "several"),
    [
        (lambda: vp.Convpass(sites="attn"), lambda: vp.Convpass(sites=("attn",))),
        (lambda: vp.RepAdapter(sites="attn"), lambda: vp.RepAdapter(sites=("attn",))),
        (lambda: vp.STAdapter(sites="attn"), lambda: vp.STAdapter(sites=("attn",))),
        (lambda: vp.Houlsby(positions="mlp"), lambda: vp.Houlsby(positions=("mlp",))),
        (lambda: vp.LoRA(targets="qkv"), lambda: vp.LoRA(targets=("qkv",))),
        (lambda: vp.LST(blocks=1), lambda: vp.LST(blocks=(1,))),
    ],
)
def test_one_value_stands_for_a_tuple_of_it(single: Any, several: Any) -> None:
    assert single() == several()
    assert hash(single()) == hash(several())


CONFIGS = [*vp.METHODS.values(), *DATASETS.values(), BackboneConfig, Recipe, Distributed, Settings]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_of_every_config_refuses_an_object_of_no_kind(config: Any) -> None:
    names = [item.name for item in fields(config)]
    if not names:
        with pytest.raises(TypeError):
            config(object())
        return
    with pytest.raises(ValueError, match="must be") as caught:
        config(**dict.fromkeys(names, object()))
    checked_later = ["values"] if config is DATASETS["segmentation"] else []  # keys and values, or pairs of them
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [n for n in names if n not in checked_later]


def test_the_check_does_not_import_torch() -> None:
    program = (
        "import sys, types; package = types.ModuleType('vision_peft'); package.__path__ = [sys.argv[1]];"
        "sys.modules['vision_peft'] = package; import vision_peft.fields; print('torch' in sys.modules)"
    )
    folder = str(Path(vision_peft_fields.__file__).parent)
    found = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
