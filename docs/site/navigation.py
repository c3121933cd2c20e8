"""The navigation of the site: patterns of mkdocs.yml written out as the pages that are there."""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any


def expand(nav: Sequence[Any], pages: Sequence[str]) -> list[Any]:
    """Return `nav` with every pattern replaced by the pages it matches that are named nowhere else.

    Names and patterns without a page vanish, and so do sections without one.
    """
    named = {entry for section in nav for entry in list_entries(section) if "*" not in entry}
    expanded: list[Any] = []
    for section in nav:
        if isinstance(section, dict):
            title, entries = next(iter(section.items()))
            if isinstance(entries, str):
                expanded += [section] if entries in pages else []
                continue
            found = [page for entry in entries for page in _match(entry, pages, named)]
            expanded += [{title: found}] if found else []
        else:
            expanded += _match(section, pages, named)
    return expanded


def list_entries(section: Any) -> list[str]:
    """Return the pages and patterns of one part of the navigation."""
    values = section.values() if isinstance(section, dict) else [section]
    return [entry for value in values for entry in ([value] if isinstance(value, str) else value)]


def _match(entry: str, pages: Sequence[str], named: set[str]) -> list[str]:
    if "*" not in entry:
        return [entry] if entry in pages else []
    level = [page for page in pages if page.count("/") == entry.count("/")]
    found = [page for page in level if fnmatch(page, entry) and page not in named]
    named.update(found)
    return found
