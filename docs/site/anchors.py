"""The anchor of a heading, as GitHub makes it."""

import re


def slugify(text: str, separator: str = "-") -> str:
    """Return the anchor of a heading: small letters, no punctuation, a separator for every space."""
    plain = re.sub(r"<[^>]*>", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", separator)
