"""Write the method classes into vision_peft/__init__.py, where editors and type checkers look for them.

    python .ci/list_methods.py

At run time a method is found by its file alone; without its line here `vp.<Class>` works, but nothing completes it.
"""

import re
from pathlib import Path

from vision_peft.methods import METHODS

INIT = Path(__file__).resolve().parents[1] / "vision_peft" / "__init__.py"
IMPORT = re.compile(r"^    from vision_peft\.methods\.\w+ import \w+\n", flags=re.MULTILINE)
ANCHOR = "    from vision_peft.methods import METHODS\n"


def list_methods(text: str) -> str:
    """`text` of the package's __init__.py with an import and an entry of `__all__` for every method class."""
    found = {method.__name__: method.__module__ for method in METHODS.values()}
    imports = "".join(sorted(f"    from {module} import {name}\n" for name, module in found.items()))
    listed = re.findall(r"^    from vision_peft\.methods\.\w+ import (\w+)$", text, flags=re.MULTILINE)
    head, _, names = IMPORT.sub("", text).replace(ANCHOR, ANCHOR + imports, 1).partition("__all__ = [\n")
    names, _, tail = names.partition("]\n")
    kept = {name for name in re.findall(r'"(\w+)"', names) if name not in listed} | set(found)
    entries = "".join(f'    "{name}",\n' for name in sorted(kept, key=_as_ruff_sorts))
    return f"{head}__all__ = [\n{entries}]\n{tail}"


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


if __name__ == "__main__":
    INIT.write_text(list_methods(INIT.read_text(encoding="utf-8")), encoding="utf-8")
