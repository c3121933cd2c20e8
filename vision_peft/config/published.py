"""What the header of an experiment's config says was published: figures, source, protocol."""

import re

from vision_peft.config.find_configs import find_configs, list_configs

_SHOWN = ("Published", "Measured", "Source", "Protocol", "Not the same")


def read_published(name: str) -> dict[str, str] | None:
    """Return the title and the paragraphs of the header of `configs/experiment/NAME.yaml`; None: there is none.

    Keys are `title` and those of the words that paragraphs begin with ("Published", "Source", ...) which are there.
    """
    if name not in list_configs("experiment"):
        return None
    text = (find_configs() / "experiment" / f"{name}.yaml").read_text("utf-8")
    paragraphs: list[str] = []
    for line in text.splitlines()[1:]:  # the first is Hydra's
        if not line.startswith("#"):
            break
        if line.startswith("#   ") and paragraphs:
            paragraphs[-1] += f" {line[1:].strip()}"
        else:
            paragraphs.append(line[1:].strip())
    found = {"title": re.sub(r" vision-peft .*", "", paragraphs[0])} if paragraphs else {}
    for paragraph in paragraphs[1:]:
        word, _, said = paragraph.partition(": ")
        if word in _SHOWN:
            found[word] = said
    return found
