"""The shape of the package and its tests: who may import whom, how long a file may be, names that say something."""

import ast

import pytest
from support.structure import Structure, find_circles, longest_chain

from vision_peft.tuning.families import FAMILIES

# Room -> rooms of the package it may import. Imports run downwards only.
ALLOWED = {
    "tuning": set(),
    "methods": {"tuning"},
    "formats": {"methods", "tuning", "backbones"},
    "backbones": set(),
    "data": set(),
    "results": {"methods"},
    "retrieval": set(),
    "distributed": {"tuning"},
    "config": {"methods", "tuning", "data", "distributed"},
    "memory": {"config", "distributed", "tuning"},
    "tasks": {"retrieval", "config", "data", "distributed"},
    "runs": {"config", "data", "distributed", "results"},
    "doctor": {"distributed", "data", "results", "backbones"},
    "inference": {
        "tasks",
        "retrieval",
        "runs",
        "config",
        "data",
        "results",
        "distributed",
        "formats",
        "methods",
        "tuning",
        "backbones",
    },
    "cli": {
        "doctor",
        "tasks",
        "search",
        "benchmarks",
        "training",
        "inference",
        "retrieval",
        "runs",
        "config",
        "distributed",
        "data",
        "results",
    },
    "search": {
        "tasks",
        "training",
        "runs",
        "config",
        "distributed",
        "data",
        "results",
        "memory",
        "benchmarks",
        "tuning",
    },
    "benchmarks": {"tasks", "training", "runs", "config", "distributed", "methods", "tuning", "data", "results"},
    "training": {
        "tasks",
        "memory",
        "runs",
        "config",
        "distributed",
        "formats",
        "methods",
        "tuning",
        "backbones",
        "data",
        "results",
    },
}
# Rooms that may say `import vision_peft`; those below them may not.
PUBLIC_API = {"benchmarks", "cli", "config", "distributed", "runs", "training"}

# The same inside data/: pixels and lists know nothing of the datasets made of them; only the check sits on top.
ALLOWED_IN_DATA = {
    "transforms": set(),
    "decoding": {"transforms"},
    "annotations": {"decoding"},
    "datasets": {"annotations", "decoding"},
    "loading": {"decoding", "transforms"},
    "check": {"decoding"},
}

# Room -> at most so many files, at most so long a chain of imports inside.
SIZES = {"training": (15, 8)}

# What may import a model file of timm.
KNOWS_TIMM = ("vision_peft.tuning.families.", "vision_peft.backbones.")
LONGEST = 300


@pytest.fixture(scope="module")
def structure(repository) -> Structure:
    return Structure(repository)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_downwards_only(structure, room):
    allowed = ALLOWED[room] | {room} | structure.foundations | ({"(package)"} if room in PUBLIC_API else set())
    wrong = {
        module: sorted(extra)
        for module in structure.files(room)
        if (extra := {structure.top_room(other) for other in structure.imports[module]} - allowed)
    }
    assert wrong == {}


@pytest.mark.parametrize("room", ALLOWED_IN_DATA)
def test_the_rooms_of_data_import_downwards_only(structure, room):
    others = {f"data/{name}" for name in {*ALLOWED_IN_DATA} - ALLOWED_IN_DATA[room] - {room}}
    forbidden = {module for name in others for module in structure.files(name)}
    modules = structure.files(f"data/{room}")
    assert {module: found for module in modules if (found := structure.imports[module] & forbidden)} == {}


def test_every_room_of_data_has_a_rule(structure):
    assert {room.removeprefix("data/") for room in structure.rooms if room.startswith("data/")} == set(ALLOWED_IN_DATA)


def test_every_folder_of_the_package_has_a_rule_and_is_a_package(repository, structure):
    folders = {path.parent for path in (repository / "vision_peft").rglob("*.py")} - {repository / "vision_peft"}
    assert {folder.relative_to(repository / "vision_peft").as_posix() for folder in folders} == set(structure.rooms)
    assert {room for room in structure.rooms if "/" not in room} == set(ALLOWED)


def test_no_module_imports_itself_on_a_way_around(structure):
    assert find_circles(structure.imports) == []


@pytest.mark.parametrize("room", SIZES)
def test_a_room_stays_small_and_flat(structure, room):
    files, chain = SIZES[room]
    assert len(structure.files(room)) <= files
    assert len(structure.chain(room)) <= chain, " > ".join(structure.chain(room))


def test_few_files_import_a_model_of_timm(structure):
    assert [module for module in structure.timm_importers() if not module.startswith(KNOWS_TIMM)] == []


def test_no_other_file_names_a_class_of_a_model_of_timm(repository, structure):
    classes = {
        kind.__name__
        for family in FAMILIES
        for kind in (*family.model_classes, *family.block_classes, *family.attention_classes)
    }
    package = repository / "vision_peft"
    named = {}
    for path in package.rglob("*.py"):
        module = ".".join(("vision_peft", *path.relative_to(package).with_suffix("").parts))
        if not module.startswith(KNOWS_TIMM) and (found := _words(ast.parse(path.read_text("utf-8"))) & classes):
            named[module] = found
    assert {"VisionTransformer", "EvaBlock", "WindowAttention"} <= classes
    assert named == {}


def _words(tree: ast.AST) -> set[str]:
    """Return names, attributes, imported names and texts that are nothing but a name."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word) | ast.Constant(value=str(word)):
                found.add(word)
    return found


def test_circles_and_chains_are_those_of_a_small_graph():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"a"}}
    assert find_circles(graph) == []
    assert longest_chain(graph) == ["e", "a", "b", "c", "d"]
    assert find_circles({**graph, "d": {"b"}}) == [["b", "c", "d"]]


def test_imports_are_read_inside_functions_too_and_as_modules(tmp_path):
    room = tmp_path / "vision_peft" / "room"
    room.mkdir(parents=True)
    (room.parent / "__init__.py").write_text("from vision_peft.room import upper\n")
    (room.parent / "version.py").write_text("import timm\n")
    (room / "__init__.py").write_text("")
    (room / "upper.py").write_text("from vision_peft.room import lower\nfrom timm.models import beit, create_model\n")
    (room / "lower.py").write_text("def late():\n    import vision_peft.version as v\n    return v\n")
    found = Structure(tmp_path)
    assert found.imports["vision_peft.room.upper"] == {"vision_peft.room.lower"}
    assert found.imports["vision_peft.room.lower"] == {"vision_peft.version"}
    assert found.arrows == {"(package)": {"room"}, "room": {"version"}, "version": set()}
    assert found.foundations == {"version"}
    assert found.chain("room") == ["vision_peft.room.upper", "vision_peft.room.lower"]
    assert found.timm_importers() == {"vision_peft.room.upper": {"beit"}}


def test_files_fit_in_one_sitting_and_names_say_something(repository):
    files = [path for top in ("vision_peft", "tools", "tests") for path in (repository / top).rglob("*.py")]
    assert [p.name for p in files if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST] == []
    assert [p for p in files if {"utils", "helpers", "common", "misc"} & {*p.with_suffix("").parts}] == []
