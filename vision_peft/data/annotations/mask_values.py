"""The map of values of masks to classes, as users write it."""

import re
from collections.abc import Iterable, Sequence

from vision_peft.data.decoding.images import COLOUR
from vision_peft.data.decoding.masks import IGNORE
from vision_peft.data.problems import quote
from vision_peft.fields import raise_all
from vision_peft.suggest import did_you_mean

IGNORED = "ignore"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|\d{1,3}\s*[,/]\s*\d{1,3}\s*[,/]\s*\d{1,3}", re.ASCII)


def read_values(pairs: Iterable[tuple[str, str]], names: Sequence[str] | None) -> tuple[list[str], dict[int, int]]:
    """Read pairs of a value (a number, `red/green/blue` or `#rrggbb`) and the class that it stands for, or "ignore".

    Args:
        names: of the classes, in their order; None: those of the pairs, as they come.

    Returns:
        The classes, and the number of the class of each value, 255 for "ignore".

    Raises:
        ValueError: values that are none, come twice, or stand for a class that is not among `names`; all of them.
    """
    classes, found, problems = list(names or []), dict[int, int](), []
    for text, name in pairs:
        value = read_value(text)
        if value is None:
            problems.append(f"data.values: {quote(text)} is not a value of a mask: wanted a number or red/green/blue")
        elif value in found:
            problems.append(f"data.values: {quote(text)} stands there twice")
        elif name == IGNORED:
            found[value] = IGNORE
        else:
            if name not in classes and names is not None:
                problems.append(f"data.values: {quote(name)} is not a class{did_you_mean(name, classes)}")
            elif name not in classes:
                classes.append(name)
            found[value] = classes.index(name) if name in classes else IGNORE
    raise_all(problems)
    return classes, found


def read_value(text: str) -> int | None:
    """Read a number, or that of a colour as `decode_numbers` gives it; None: it is neither."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return int(text)
    if not _COLOUR.fullmatch(text):
        return None
    if text.startswith("#"):
        return COLOUR + int(text[1:], 16)
    red, green, blue = map(int, re.split("[,/]", text))
    return COLOUR + (red << 16) + (green << 8) + blue if max(red, green, blue) < 256 else None
