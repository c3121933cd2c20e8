"""What the pages that are made share: tables, text that is no markup, examples."""

import re
from collections.abc import Sequence

EXAMPLE = re.compile(r"(vision-peft|python|pip|find|torchrun|curl) ")


def write_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def escape(text: str) -> str:
    """Return plain text as Markdown that shows it, for the cell of a table too."""
    marked = re.sub(r"([*\\|\[\]])", r"\\\1", text.replace("<", "&lt;"))
    return marked.replace("\n", " ")


def write_code(text: str) -> str:
    """Return text as a piece of code for the cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def write_docstring(text: str) -> str:
    """Return a docstring as Markdown: paragraphs as they are, commands as examples in bash, the rest in blocks."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        if all(EXAMPLE.match(line.strip()) for line in lines):
            parts.append("\n".join(["```bash", *map(_write_example, lines), "```"]))
        elif all(line.startswith("    ") for line in lines):
            parts.append("\n".join(["```text", *(line[4:] for line in lines), "```"]))
        else:
            parts.append("\n".join(line.replace("<", "&lt;").replace("*", "\\*") for line in lines))
    return "\n\n".join(parts) + "\n"


def _write_example(line: str) -> str:
    """Return a command with what it is for, which stands behind it after some spaces, as a comment."""
    command, _, remark = re.sub(r"\s{2,}", "\0", line.strip(), count=1).partition("\0")
    return f"{command}  # {remark}" if remark else command
