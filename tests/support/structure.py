"""Measure the shape of ``vision_peft``: modules and chains of every room, arrows between rooms, circles.

``python tests/support/structure.py`` prints the figures; ``tests/test_structure.py`` holds their bounds. A room is a
folder of the package. Imports are read from the source, those inside functions included, so that nothing is run.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

PACKAGE = "vision_peft"


class Structure:
    """The modules of the package below ``repository`` and who imports whom."""

    def __init__(self, repository: Path) -> None:
        files = sorted((repository / PACKAGE).rglob("*.py"))
        self.paths = {name_module(path.relative_to(repository)): path for path in files}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Modules of the package that each module names; ``from room import module`` counts for the module."""
        return {
            module: {self.find_module(name) for name in imported_names(path) if _in_package(name)} - {module}
            for module, path in self.paths.items()
        }

    def find_module(self, name: str) -> str:
        """Return the longest part of a dotted ``name`` that is a module of the package."""
        while name not in self.paths and "." in name:
            name = name.rpartition(".")[0]
        return name

    @cached_property
    def rooms(self) -> list[str]:
        """Folders of the package, those inside others as ``data/loading``."""
        inner = [module for module, path in self.paths.items() if path.name == "__init__.py" and module != PACKAGE]
        return [module.removeprefix(f"{PACKAGE}.").replace(".", "/") for module in inner]

    def files(self, room: str) -> list[str]:
        """Modules of ``room`` and of the rooms in it, without any ``__init__``."""
        start = f"{PACKAGE}.{room.replace('/', '.')}."
        return [name for name, path in self.paths.items() if name.startswith(start) and path.name != "__init__.py"]

    def chain(self, room: str) -> list[str]:
        """The longest chain of imports inside ``room``, importer first."""
        inside = set(self.files(room))
        return longest_chain({module: self.imports[module] & inside for module in inside})

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Top rooms that each top room imports; ``(package)`` is ``vision_peft`` itself."""
        found: dict[str, set[str]] = {}
        for module, imported in self.imports.items():
            room = self.top_room(module)
            found.setdefault(room, set()).update({self.top_room(other) for other in imported} - {room})
        return found

    def top_room(self, module: str) -> str:
        """The first folder on the way to ``module``, or the module's own name beside the folders."""
        return module.split(".")[1] if module != PACKAGE else "(package)"

    @cached_property
    def foundations(self) -> set[str]:
        """Modules beside the folders that import nothing of the package but each other: every room may import them."""
        beside = {name for name in self.imports if name.count(".") == 1 and self.top_room(name) not in self.rooms}
        while resting := {name for name in beside if not self.imports[name] <= beside}:
            beside -= resting
        return {self.top_room(name) for name in beside}

    def timm_importers(self) -> dict[str, set[str]]:
        """Modules that import model files of timm (``timm.models.vision_transformer``, say), with these files."""
        spec = importlib.util.find_spec("timm")
        assert spec is not None
        assert spec.origin is not None
        models = {path.stem for path in (Path(spec.origin).parent / "models").glob("[!_]*.py")}
        named = {module: imported_names(path) for module, path in self.paths.items()}
        found = {
            module: {name.split(".")[2] for name in names if name.startswith("timm.models.")} & models
            for module, names in named.items()
        }
        return {module: files for module, files in found.items() if files}


def _in_package(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def name_module(path: Path) -> str:
    """The dotted name of a file given relative to the repository."""
    return ".".join(path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts)


def imported_names(path: Path) -> set[str]:
    """Dotted names that the import statements of a file make known, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def find_circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or on a way around."""
    below = {module: _reach(graph, module) for module in graph}
    groups = {frozenset(other for other in below[module] if module in below[other]) for module in graph}
    return sorted(sorted(group) for group in groups if group)


def _reach(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def longest_chain(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules on the longest way through ``graph``, importer first; a circle ends a way."""
    known: dict[str, list[str]] = {}

    def follow(module: str, above: tuple[str, ...]) -> list[str]:
        if module not in known:
            chains = [follow(other, (*above, module)) for other in sorted(graph[module]) if other not in above]
            known[module] = [module, *max(chains, key=len, default=[])]
        return known[module]

    return max((follow(module, ()) for module in sorted(graph)), key=len, default=[])


def describe(structure: Structure) -> Iterator[str]:
    """Lines of the figures: rooms, arrows, circles, files that name a timm model."""
    yield f"{'room':<20} files chain  longest chain of imports inside"
    for room in structure.rooms:
        start = f"{PACKAGE}.{room.replace('/', '.')}."
        chain = structure.chain(room)
        names = " > ".join(module.removeprefix(start) for module in chain)
        yield f"{room:<20} {len(structure.files(room)):>5} {len(chain):>5}  {names}"
    yield ""
    for room, others in sorted(structure.arrows.items()):
        yield f"{room} imports {', '.join(sorted(others)) or 'no other room'}"
    yield ""
    yield "circles: " + ("; ".join(" > ".join(circle) for circle in find_circles(structure.imports)) or "none")
    yield "files that import a model of timm:"
    for module, models in structure.timm_importers().items():
        yield f"  {module.removeprefix(f'{PACKAGE}.')}: {', '.join(sorted(models))}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in describe(Structure(Path(__file__).resolve().parents[2])))
