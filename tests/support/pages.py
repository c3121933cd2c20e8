"""The pages that people read, taken apart: their code blocks, headings, anchors and links."""

import functools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anchors import slugify
from pages import PAGES as MADE  # of docs/site

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (vision-peft .*)$", re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|(?:href|src)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.+?) *(?:\{ *#([\w.-]+)[^}]*\})?$", re.MULTILINE)
_ID = re.compile(r"(?:id|name)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    page: str  # path below the repository
    line: int  # from 1
    kind: str  # what stands behind the fence: python, bash, ...
    text: str
    not_run: str | None = None  # the reason that the page gives, in a comment above the block

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def list_pages(made: bool = True) -> list[str]:
    """Return every page of the repository, and those that are made for the site, as paths below the repository."""
    written = [str(path.relative_to(REPOSITORY)) for path in (*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"))]
    return sorted([*written, *(f"docs/{path}" for path in MADE if made)])


@functools.cache
def read_page(page: str) -> str:
    """Return the Markdown of a page; of one that is made, what its script makes of the code."""
    make = MADE.get(page.removeprefix("docs/"))
    return make() if make else (REPOSITORY / page).read_text(encoding="utf-8")


def find_blocks(page: str, text: str) -> Iterator[Block]:
    """Find the blocks of a page in fences, and its indented lines that are commands."""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        reason = _NOT_RUN.search(text[: match.start()].rstrip(" "))
        body = textwrap.dedent(match["text"])
        yield Block(page, line, match["kind"].split(" ")[0].strip(), body, reason[1] if reason else None)
    for match in _INDENTED.finditer(remove_blocks(text)):
        yield Block(page, text.count("\n", 0, text.find(match[0])) + 1, "bash", match[1])


def remove_blocks(text: str) -> str:
    """Return a page without the blocks in fences."""
    return _FENCE.sub("", text)


def find_links(text: str) -> list[str]:
    """Return the targets of all links and pictures of a page, code left out."""
    plain = re.sub(r"`[^`\n]*`", "", remove_blocks(text))
    return [first or second for first, second in _LINK.findall(plain)]


def find_anchors(text: str) -> set[str]:
    """Return all that a link to this page may name behind `#`."""
    plain = remove_blocks(text)
    found: set[str] = set(_ID.findall(plain))
    for title, own in _HEADING.findall(plain):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        anchor = own or slugify(re.sub(r"[`*]", "", shown))
        found.add(anchor)
    return found | {f"vision_peft.{name}" for name in re.findall(r"^::: vision_peft\.(\S+)", text, re.MULTILINE)}
