"""The pages that are made of the code hold all of it: no verb, argument, key, method, dataset or name is missing."""

import re
from dataclasses import fields

import pytest
from command_page import find_parser
from config_files import read_keys
from support.pages import DOCS, find_anchors, read_page

import vision_peft as vp
from vision_peft.cli.main import list_verbs
from vision_peft.config.find_configs import find_configs
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings
from vision_peft.data import DATASETS
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.results.row import Row
from vision_peft.runs.run_files import WRITTEN


def test_every_verb_has_a_part_with_all_its_arguments() -> None:
    parts = split_page("commands")
    assert set(parts) == set(list_verbs())
    for verb, text in parts.items():
        parser = find_parser(verb)
        actions = parser._actions if parser else []
        names = [name for action in actions for name in action.option_strings if action.dest != "help"]
        assert [name for name in names if name not in text] == [], verb
        assert f"vision-peft {verb}" in text
    assert {verb for verb in parts if find_parser(verb) is None} == {"train"}


def test_every_key_of_a_training_has_a_line_with_its_meaning() -> None:
    prefixes = {"": Settings, "recipe.": Recipe, "backbone.": BackboneConfig, "distributed.": Distributed}
    wanted = {f"{prefix}{item.name}" for prefix, cls in prefixes.items() for item in fields(cls)}
    lines = read_lines(read_page("docs/reference/settings.md"))
    assert set(lines) == wanted
    assert [key for key, meaning in lines.items() if not meaning] == []


@pytest.mark.parametrize(("page", "owners"), [("method_keys", vp.METHODS), ("data", DATASETS)])
def test_every_method_and_data_set_has_a_part_with_all_its_keys(page: str, owners: dict[str, type]) -> None:
    parts = split_page(page)
    assert set(parts) == set(owners)
    for name, cls in owners.items():
        wanted = {f"{name}.{item.name}" for item in fields(cls)}  # pyright: ignore[reportArgumentType]
        lines = read_lines(parts[name])
        assert set(lines) == wanted, name
        assert [key for key, meaning in lines.items() if not meaning] == []


def test_every_experiment_and_sweep_has_a_part_with_a_command() -> None:
    text = read_page("docs/reference/experiments.md")
    for group in ("experiment", "sweep"):
        for file in (find_configs() / group).glob("*.yaml"):
            assert file.stem in find_anchors(text)
            assert re.search(rf"^vision-peft \w+ .*{group}={file.stem}\b", text, flags=re.MULTILINE)


def test_every_public_name_is_on_the_page_of_python() -> None:
    named = set(re.findall(r"^::: vision_peft\.(\w+)$", read_page("docs/reference/python.md"), flags=re.MULTILINE))
    classes = {cls.__name__ for cls in vp.METHODS.values()}
    assert named == {*vp.__all__} - classes - {"METHODS", "__version__"}


def test_every_field_of_a_row_and_every_file_of_a_run_is_explained() -> None:
    row = read_page("docs/reference/result_row.md")
    named = set(re.findall(r"^\| `(\w+)` \|", row, flags=re.MULTILINE))
    assert named == {item.name for item in fields(Row)} - {"extra", "file"}
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    assert [item.name for item in fields(AdapterInfo) if f"`{item.name}`" not in text] == []
    assert [name for name in WRITTEN["."] if f"`{name}`" not in text] == []
    assert [folder for folder in WRITTEN if folder != "." and f"`{folder}/" not in text] == []


def test_keys_are_read_with_the_comments_around_them(tmp_path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# What it is.\n\n# first\nb: [1, 2]  # second; default 3\nc: 'x'\n  # below\nd:\n  e: 1  # of d\n")
    keys = [(key.name, key.default, key.comment) for key in read_keys(file)]
    assert keys == [("b", "[1, 2]", "second; first"), ("c", "'x'", " below"), ("d.e", "1", "of d")]


def split_page(name: str) -> dict[str, str]:
    """Return the parts of a page of the reference by their headings."""
    text = read_page(f"docs/reference/{name}.md")
    return dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])


def read_lines(text: str) -> dict[str, str]:
    """Return the meaning of every key by its anchor."""
    return dict(re.findall(r'^\| <a id="([^"]+)"></a>`[^|]*?` \| [^|]* \| (.*) \|$', text, flags=re.MULTILINE))
