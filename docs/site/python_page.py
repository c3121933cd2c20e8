"""The page of the Python interface: every public name, whose signature and docstring mkdocstrings reads."""

import vision_peft as vp
from vision_peft import _MODULES

# Folder of the package that holds a name -> title of its part of the page.
TITLES = {
    "backbones": "Backbones",
    "tuning": "Tune a model",
    "formats": "Save and load",
    "inference": "Use what was trained",
    "methods": "Methods",
    "config": "Methods of your own",
}

_LEAD = """`import vision_peft as vp`. Importing the package imports nothing else; each name is imported when it is
first used. Sizes: B batch, N tokens, D width, C classes or channels, T frames, H and W pixels.

The classes of methods (`vp.AdaptFormer`, `vp.LoRA`, ...) are in [methods and their keys](method_keys.md)."""


def make_page() -> str:
    """Return the page; a name whose folder has no title stands under the name of that folder."""
    rooms: dict[str, list[str]] = {room: [] for room in TITLES}
    for name, module in _MODULES.items():
        rooms.setdefault(module.partition(".")[0], []).append(name)
    parts = [
        "# Python",
        _LEAD,
    ]
    for room, names in rooms.items():
        parts += [f"## {TITLES.get(room, room)}", *(_describe(name) for name in sorted(names, key=str.lower))]
    return "\n\n".join(parts) + "\n"


def _describe(name: str) -> str:
    if name == "METHODS":
        number = len(vp.METHODS)
        return f'### vp.METHODS\n\nEvery method class by its name, {number} of them: `vp.METHODS["lora"]` is `vp.LoRA`.'
    return f"::: vision_peft.{name}"
