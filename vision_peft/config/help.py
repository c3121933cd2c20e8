"""What ``vision-peft train --help`` prints: the template of config.yaml with a sentence for every config file."""

import textwrap
from pathlib import Path

from omegaconf import OmegaConf

from vision_peft.config.commands import through_the_door

GROUPS = ("method", "data", "backbone", "recipe", "experiment")


def format_help(configs: Path) -> str:
    """Return the help of train; a new config file appears by existing, described by its first comment."""
    template = OmegaConf.load(configs / "config.yaml").hydra.help.template
    return through_the_door(template).replace(
        "$APP_CONFIG_GROUPS", "\n".join(_group(configs / group) for group in GROUPS)
    )


def _group(folder: Path) -> str:
    files = sorted(folder.glob("*.yaml"))
    width = max(len(file.stem) for file in files) + len(folder.name) + 5
    lines = [
        textwrap.fill(
            first_sentence(file),
            width=118,
            initial_indent=f"  {folder.name}={file.stem}".ljust(width),
            subsequent_indent=" " * width,
        )
        for file in files
    ]
    return "\n".join([*lines, ""])


def first_sentence(file: Path) -> str:
    """Read the first sentence of the comment that a config file starts with."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# @package"):  # Hydra's, not for readers
            continue
        comment.append(line.lstrip("# ").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".") + "."
