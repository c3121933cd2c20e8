"""The commands that the help of a verb shows."""

import ast
import re
import shlex
from pathlib import Path

CLI = Path(__file__).resolve().parents[2] / "vision_peft" / "cli"


def list_examples(verb: str, **placeholders: object) -> list[list[str]]:
    """Return the words behind the verb of every command in its help, those in capitals replaced by what is given."""
    text = ast.get_docstring(ast.parse((CLI / f"{verb.replace('-', '_')}.py").read_text("utf-8"))) or ""
    lines = re.findall(rf"^ *vision-peft {verb} (.*?)(?:   .*)?$", text, flags=re.MULTILINE)
    assert lines, f"the help of {verb} shows no example"
    return [[str(placeholders.get(word, word)) for word in shlex.split(line)] for line in lines]
