"""The keys of a config file with their defaults and comments, which are what a user reads who opens the file."""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from write_markdown import escape, write_code, write_table

_KEY = re.compile(r"(?P<indent> *)(?P<name>[a-z_0-9]+):(?: (?P<value>[^# ].*?))?(?: +# (?P<comment>.*))?$")
_OF_HYDRA = ("defaults", "hydra")
_SEE_ABOVE = "see above"
_DEFAULT = re.compile(r"[;,] default [\w.]+$")  # which has a column of its own


@dataclass(frozen=True)
class Key:
    """A key as the file has it: dotted name, default as typed, comment in one line."""

    name: str
    default: str
    comment: str


def read_keys(file: Path) -> list[Key]:
    """Read the keys of a config file: comments above a key, beside it and, indented, below it belong to it."""
    keys: list[Key] = []
    above: list[str] = []
    section, skipping = "", False
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            above.append(line.lstrip("# "))
        elif line.lstrip().startswith("#"):
            last = keys.pop()
            keys.append(Key(last.name, last.default, f"{last.comment} {line.lstrip('# ')}"))
        elif (match := _KEY.match(line)) and not (skipping and match["indent"]):
            section = section if match["indent"] else ""
            skipping = match["name"] in _OF_HYDRA
            if not match["value"] and not skipping:
                section = f"{match['name']}."
            elif not skipping:
                beside = "" if match["comment"] == _SEE_ABOVE else _DEFAULT.sub("", match["comment"] or "")
                comment = "; ".join(filter(None, [beside, " ".join(above)]))
                keys.append(Key(section + match["name"], match["value"], comment))
            above = []
        elif not line.strip():
            above = []
    return keys


def read_fields(cls: type) -> list[Key]:
    """Read the fields of a dataclass of the config as keys, from its source."""
    source = textwrap.dedent(inspect.getsource(cls))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    keys = []
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if ast.unparse(node.annotation).startswith("ClassVar"):
            continue
        lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
        comment = " ".join(line.partition("  # ")[2] for line in lines).strip()
        keys.append(Key(node.target.id, _write_default(node.value), comment))
    return keys


def _write_default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call):  # field(default_factory=dict)
        return {"dict": "{}", "list": "[]"}.get(ast.unparse(value.keywords[0].value), "")
    found = value.id.lower() if isinstance(value, ast.Name) else ast.literal_eval(value)
    return {"None": "null", "True": "true", "False": "false"}.get(str(found), str(found))


def write_keys(keys: Sequence[Key], prefix: str = "", owner: str = "") -> str:
    """Return a table of keys, each with an anchor of its own: the name as it is typed, behind that of its owner."""
    rows = [
        (
            f'<a id="{owner or prefix}{key.name}"></a>{write_code(prefix + key.name)}',
            write_code(key.default),
            escape(key.comment),
        )
        for key in keys
    ]
    return write_table(("key", "default", "meaning"), rows)


def read_header(file: Path) -> list[str]:
    """Return the lines of the comment that a config file starts with, without marks and without Hydra's."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines
