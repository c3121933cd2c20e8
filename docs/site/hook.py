"""What mkdocs asks while it builds the site: the navigation, pages that are made, links that leave docs/."""

import posixpath
import re
from pathlib import Path

from anchors import slugify  # mkdocs puts the folder of a hook on the path
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import expand
from pages import PAGES

REPOSITORY = Path(__file__).resolve().parents[2]
ONLINE = "https://github.com/vision-peft/vision-peft/blob/main"
TOP_LEVEL = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")  # pages of the site below project/
LINK = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that GitHub gives them, so that a link works in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/, then write out the patterns of the navigation."""
    made = {path: make() for path, make in PAGES.items()}
    made |= {f"project/{name}": (REPOSITORY / name).read_text(encoding="utf-8") for name in TOP_LEVEL}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    config.nav = expand(config.nav or [], sorted(file.src_uri for file in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files that are not pages to where they can be read."""
    return LINK.sub(lambda match: _relink(match[1], page.file.src_uri, files), markdown)


def _relink(link: str, source: str, files: Files) -> str:
    """Return `link` of the page `source` as it leads to a page of the site, else to the repository online."""
    at_top = source.startswith("project/")
    path = posixpath.normpath(link if at_top else posixpath.join("docs", posixpath.dirname(source), link))
    inside = f"project/{path}" if path in TOP_LEVEL else "index.md" if path == "README.md" else path
    inside = inside.removeprefix("docs/")
    if files.get_file_from_path(inside):
        return posixpath.relpath(inside, posixpath.dirname(source) or ".")
    return f"{ONLINE}/{path}" if (REPOSITORY / path).exists() else link
