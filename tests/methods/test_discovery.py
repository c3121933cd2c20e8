"""A method exists by its file: it is found by listing the folder, has a config and is an attribute of the package."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

import vision_peft as vp
from vision_peft import methods

every_method = pytest.mark.parametrize("name", vp.METHODS)


def test_the_methods_are_the_files_of_the_folder():
    folder = Path(methods.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    modules = {method.__module__.rpartition(".")[2] for method in vp.METHODS.values()}
    assert modules == files
    assert {"adaptformer", "vpt", "lora", "linear", "full"} <= set(vp.METHODS)


@every_method
def test_a_method_is_a_frozen_dataclass_under_its_own_name(name):
    method = vp.METHODS[name]
    assert issubclass(method, vp.Method)
    assert method.name == name
    assert vars(method)["__dataclass_params__"].frozen
    assert inspect.getdoc(method)


@every_method
def test_a_method_is_an_attribute_of_the_package(name):
    kind = vp.METHODS[name]
    assert getattr(vp, kind.__name__) is kind
    assert kind.__name__ in dir(vp)


def test_an_unknown_attribute_is_an_error_that_names_the_methods():
    with pytest.raises(AttributeError, match=r"no attribute 'LORA'; .*AdaptFormer.*LoRA"):
        vp.LORA  # noqa: B018
    assert not hasattr(vp, "attatch")


def test_everything_promised_by_the_package_is_there():
    assert all(hasattr(vp, name) for name in vp.__all__)


@every_method
def test_every_method_has_a_config_file_with_its_fields_and_defaults(name, repository):
    values = yaml.safe_load((repository / "configs" / "method" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert values.pop("name") == name
    defaults = {field.name: getattr(vp.METHODS[name](), field.name) for field in dataclasses.fields(vp.METHODS[name])}
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()} == defaults


def test_every_config_file_is_of_a_method(repository):
    assert {path.stem for path in (repository / "configs" / "method").glob("*.yaml")} - set(vp.METHODS) <= {"none"}


@every_method
def test_fields_are_typed_as_a_config_schema_can_hold_them(name):
    for field in dataclasses.fields(vp.METHODS[name]):
        assert "Literal" not in str(field.type), "OmegaConf has no Literal: use str and check in __post_init__"
        missing = field.default is field.default_factory is dataclasses.MISSING
        assert not missing, f"{field.name} needs a default"


@every_method
def test_no_two_methods_have_one_title_whatever_the_fields(name):
    default = vp.METHODS[name].choose_title(vp.METHODS[name]().recorded_fields())
    others = {vp.METHODS[other].choose_title({}) for other in vp.METHODS if other != name}
    assert default.strip()
    assert default not in others
    strange: dict = {field.name: [None] for field in dataclasses.fields(vp.METHODS[name])}
    assert isinstance(vp.METHODS[name].choose_title(strange), str)


def test_titles_are_those_of_the_papers():
    titles = {
        "VPT-shallow": ("vpt", {"deep": False}),
        "VPT-deep": ("vpt", {"deep": True}),
        "Adapter+": ("adapter_plus", {}),
        "FacT-TK": ("fact", {"form": "tk"}),
        "DTL+": ("dtl", {"kernel": 3}),
        "Pfeiffer": ("houlsby", {"positions": ["mlp"]}),
        "PiSSA": ("lora", {"init": "pissa", "dora": False}),
        "LoRA": ("lora", {"init": "pissa", "dora": True}),
    }
    assert {title: vp.METHODS[name].choose_title(fields) for title, (name, fields) in titles.items()} == {
        title: title for title in titles
    }
    assert vp.AdaptFormer.choose_title({}) == "AdaptFormer"
