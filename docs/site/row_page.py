"""The page of the fields of a result row, made of the dataclass that writes it."""

from config_files import read_fields
from write_markdown import escape, write_table

from vision_peft.results.row import Row

_NOT_IN_FILES = ("extra", "file")

_LEAD = """`result.json` of a run is one flat object with these fields, and `status.json` as far as it has got.
Accuracies are in percent; null was not measured. How rows are compared and averaged: [rows](../results/rows.md)."""


def make_page() -> str:
    """Return the page: every field of result.json with its unit."""
    rows = [(f"`{key.name}`", escape(key.comment)) for key in read_fields(Row) if key.name not in _NOT_IN_FILES]
    parts = [
        "# Fields of a result row",
        _LEAD,
        write_table(("field", "meaning"), rows),
    ]
    return "\n\n".join(parts) + "\n"
