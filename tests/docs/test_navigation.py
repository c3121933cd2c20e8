"""The navigation of the site: what patterns match, and that mkdocs.yml leaves no page out."""

import yaml
from navigation import expand, list_entries
from support.pages import REPOSITORY, list_pages


def test_a_pattern_stands_for_the_pages_that_are_named_nowhere_else() -> None:
    pages = ["index.md", "a/index.md", "a/one.md", "a/two.md", "b.md"]
    nav = [{"Home": "index.md"}, {"A": ["a/index.md", "a/*.md", "b.md"]}, {"None": ["c/*.md", "absent.md"]}]
    assert expand(nav, pages) == [{"Home": "index.md"}, {"A": ["a/index.md", "a/one.md", "a/two.md", "b.md"]}]
    assert expand([{"A": ["*.md"]}], pages) == [{"A": ["index.md", "b.md"]}]  # of that folder alone
    assert expand([{"A": ["a/two.md", "a/*.md"]}], pages) == [{"A": ["a/two.md", "a/index.md", "a/one.md"]}]
    assert expand([{"A": ["a/*.md"]}, {"B": ["a/one.md"]}], pages) == [
        {"A": ["a/index.md", "a/two.md"]},
        {"B": ["a/one.md"]},
    ]


def test_every_page_is_in_the_navigation_once_and_nothing_is_loaded_from_elsewhere() -> None:
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [page.removeprefix("docs/") for page in list_pages() if page.startswith("docs/")]
    pages += ["project/CONTRIBUTING.md", "project/CHANGELOG.md", "project/SECURITY.md"]
    named = [page for part in expand(config["nav"], pages) for page in list_entries(part)]
    assert sorted(named) == sorted(pages)
    entries = [entry for part in config["nav"] for entry in list_entries(part)]
    for page in {*pages} - {*entries}:  # of two patterns the first would take it from the section it belongs to
        assert len([entry for entry in entries if expand([entry], [page])]) == 1, page
    assert config["theme"]["font"] is False
    assert "repo_url" not in config  # the theme would ask GitHub for its stars
    assert "http" not in str({**config["theme"], **config["extra"]})
