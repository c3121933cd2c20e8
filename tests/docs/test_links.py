"""Every link of every page leads to a file, a page or a heading that is there."""

import posixpath

import pytest
from pages import PAGES as MADE
from support.pages import REPOSITORY, find_anchors, find_links, list_pages, read_page

OUTSIDE = ("https://", "http://", "mailto:")


@pytest.mark.parametrize("page", list_pages())
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    dead = [link for link in find_links(read_page(page)) if not link.startswith(OUTSIDE) and not leads(page, link)]
    assert dead == []


def leads(page: str, link: str) -> bool:
    """Whether a link of this page has a target."""
    path, _, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    made = target.removeprefix("docs/") in MADE
    if not made and not (REPOSITORY / target).exists():
        return False
    return not anchor or (target.endswith(".md") and anchor in find_anchors(read_page(target)))


def test_links_are_found_and_dead_ones_are_told() -> None:
    text = '[a](b.md#c) ![d](e.png) `[f](g)`\n```\n[h](i)\n```\n<img src="j.png">'
    assert find_links(text) == ["b.md#c", "e.png", "j.png"]
    assert leads("docs/methods.md", "families.md")
    assert leads("docs/methods.md", "reference/settings.md#recipe.lr")
    assert not leads("docs/methods.md", "family.md")
    assert not leads("docs/methods.md", "#what-is-accepted")


def test_anchors_are_those_of_github() -> None:
    assert find_anchors('# `vp.load`: a b\n## C / D\n```\n# no\n```\n<a id="e.f"></a>') == {"vpload-a-b", "c--d", "e.f"}
