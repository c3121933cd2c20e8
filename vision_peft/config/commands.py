"""The commands that the program prints to be pasted: through the door that the user came in by, quoted for a shell."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_peft.config.typed_values import quote
from vision_peft.printable import for_shell

DOORS = {"inspect": "inspect_adapter"}  # verbs whose file in tools would hide a module of Python from the others


def door(verb: str) -> list[str]:
    """Return the words that start a verb: `vision-peft VERB`, or `python tools/VERB.py` for who started such a file."""
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.parent.name == "tools":
        return ["python", str(script.with_name(f"{DOORS.get(verb, verb).replace('-', '_')}.py"))]
    return ["vision-peft", verb]


def through_the_door(text: str) -> str:
    """Return a text with every `vision-peft VERB` in it as the user would type it."""
    return re.sub(r"\bvision-peft ([a-z][a-z-]*)\b", lambda match: for_shell(door(match[1])), text)


def with_values(overrides: list[str], values: Mapping[str, Any]) -> list[str]:
    """Return overrides as they are typed, with `values` in place of what they say about these keys."""
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in values]
    return [*kept, *(f"{key}={_write_value(value)}" for key, value in values.items())]


def command_of(overrides: list[str], flags: Sequence[str] = (), verb: str = "train") -> str:
    """Return the command line that trains with these overrides, in as many processes as this one is of."""
    here, size = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    first, *rest = door(verb)
    if size > 1:
        nodes = [f"--nnodes={size // here}"] if size > here else []
        rest = rest if first == "python" else ["-m", "vision_peft", *rest]
        first, rest = "torchrun", [*nodes, f"--nproc_per_node={here}", *rest]
    return for_shell([first, *rest, *flags, *overrides])


def _write_value(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_write_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_write_value(item)}" for key, item in value.items()) + "}"
    return str(value) if isinstance(value, int | float) else quote(str(value))
