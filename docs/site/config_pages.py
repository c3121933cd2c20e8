"""The pages of what a command line can say: settings, methods, data sets, experiments; made of the configs."""

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from config_files import read_fields, read_header, read_keys, write_keys
from write_markdown import escape, write_code, write_docstring, write_table

import vision_peft as vp
from vision_peft.config.find_configs import find_configs
from vision_peft.config.help import first_sentence
from vision_peft.config.schema import BackboneConfig
from vision_peft.data import DATASETS

_SETTINGS = """Every key of `vision-peft train` beside those of [methods](method_keys.md) and [data](data.md). Type
`key=value` on the command line; `null` is none. `--cfg job` prints the config that a command composes."""
_METHODS = """`method=NAME method.KEY=VALUE` on the command line, `vp.CLASS(KEY=VALUE)` in Python; `+method_2=NAME`
stacks a second one. What each costs, stores and reaches, and which backbone it refuses, says the table of
[methods](../methods.md)."""
_DATA = """`data=NAME data.KEY=VALUE` on the command line. `vision-peft check-data` looks at the files before anything
is trained."""


def make_settings_page() -> str:
    """Return the page of the keys that every training has."""
    configs = find_configs()
    parts = [
        "# Settings",
        _SETTINGS,
        "## Keys of the run",
        write_keys(read_keys(configs / "config.yaml")),
        "## recipe",
        "How the tuned parts are trained. Files to choose from with `recipe=`:",
        _list_files("recipe"),
        write_keys(read_keys(configs / "recipe" / "default.yaml"), "recipe."),
        "## backbone",
        "Which model is tuned and where its weights come from. Files to choose from with `backbone=`:",
        _list_files("backbone"),
        write_keys(read_fields(BackboneConfig), "backbone."),
    ]
    return "\n\n".join(parts) + "\n"


def make_method_page() -> str:
    """Return the page of the methods: what each is, by its source, and its keys."""
    parts = [
        "# Methods and their keys",
        _METHODS,
        write_table(
            ("method", "class", "what it is"),
            [
                (f"[`{name}`](#{name})", write_code(f"vp.{cls.__name__}"), escape(_sum_up("method", name)))
                for name, cls in vp.METHODS.items()
            ],
        ),
        *(_describe_method(name, cls) for name, cls in sorted(vp.METHODS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def make_data_page() -> str:
    """Return the page of the data sets: what each reads, and its keys."""
    parts = [
        "# Data sets and their keys",
        _DATA,
        write_table(
            ("data", "what it reads"),
            [(f"[`{name}`](#{name})", escape(_sum_up("data", name))) for name in sorted(DATASETS)],
        ),
        *(_describe_dataset(name, cls) for name, cls in sorted(DATASETS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def make_experiment_page() -> str:
    """Return the page of the published settings and of the sweeps, from the headers of their files."""
    parts = [
        "# Experiments and sweeps",
        "`experiment=NAME` is a complete published setting; your other overrides take precedence.",
        _list_files("experiment", linked=True),
        *(_describe_file("experiment", file) for file in _find("experiment")),
        "## Sweeps",
        "`vision-peft sweep sweep=NAME` trains every run of a file and makes one table.",
        *(_describe_file("sweep", file) for file in _find("sweep")),
    ]
    return "\n\n".join(parts) + "\n"


def _find(group: str) -> list[Path]:
    return sorted((find_configs() / group).glob("*.yaml"))


def _sum_up(group: str, name: str) -> str:
    return first_sentence(find_configs() / group / f"{name}.yaml")


def _list_files(group: str, linked: bool = False) -> str:
    names = {file.stem: escape(first_sentence(file)) for file in _find(group)}
    rows = [(f"[`{name}`](#{name})" if linked else f"`{group}={name}`", text) for name, text in names.items()]
    return write_table(("choice", "what it is"), rows)


def _describe_method(name: str, cls: type[vp.Method]) -> str:
    keys = [key for key in read_keys(find_configs() / "method" / f"{name}.yaml") if key.name != "name"]
    recommended = ", ".join(f"`recipe.{key}={value:g}`" for key, value in cls.recommended.items())
    parts = [
        f"## {name}",
        write_docstring(import_module(cls.__module__).__doc__ or ""),
        f"In Python `vp.{cls.__name__}`. " + (f"Unless given: {recommended}." if recommended else ""),
        _list_forms(cls),
        write_keys(keys, "method.", f"{name}.") if keys else "It has no keys.",
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def _list_forms(cls: type) -> str:
    """Return the named settings of a method, which are its own class methods."""
    own = {name: getattr(cls, name) for name, value in vars(cls).items() if isinstance(value, classmethod)}
    forms = {name: inspect.getdoc(function) for name, function in own.items() if name.startswith("as_")}
    return "\n".join(f"* `vp.{cls.__name__}.{name}(...)`: {escape(text or '')}" for name, text in forms.items())


def _describe_dataset(name: str, cls: Any) -> str:
    keys = [key for key in read_keys(find_configs() / "data" / f"{name}.yaml") if key.name != "name"]
    text = write_docstring(import_module(cls.__module__).__doc__ or "")
    protocol = f"Protocol where none is given: `{cls.protocol}`."
    groups = [group for group in cls.suite if group != "all"]
    suite = f" Groups of tasks: {', '.join(f'`data.task={group}`' for group in [*groups, 'all'])}." if cls.suite else ""
    assert {key.name for key in keys} == {item.name for item in fields(cls)}, name
    return "\n\n".join([f"## {name}", text.strip(), protocol + suite, write_keys(keys, "data.", f"{name}.").strip()])


def _describe_file(group: str, file: Path) -> str:
    """Return what the header of an experiment or a sweep says: a sentence, its commands, facts by their first word."""
    lines = read_header(file)
    commands = [line.strip() for line in lines if line.strip().startswith("vision-peft ")]
    text = "\n".join(line for line in lines if line.strip() not in commands)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n(?! )", text)]
    facts = [
        f"* **{word}:** {escape(rest)}"
        for word, colon, rest in (part.partition(": ") for part in paragraphs[1:])
        if colon
    ]
    level = "##" if group == "experiment" else "###"
    code = "\n".join(["```bash", *commands, "```"])
    return "\n\n".join([f"{level} {file.stem}", escape(paragraphs[0]), code, "\n".join(facts)])
