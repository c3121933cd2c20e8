"""Suggest what a misspelt name may have meant. Standard library only, so that a typo is answered without torch."""

import difflib
import heapq
import re
from collections.abc import Iterable

LONGEST = 100  # characters of a name; nobody mistypes a longer one, and comparing takes time by its square
COMPARED = 100  # options that are compared letter by letter; the rest has fewer letters in common with the name
_PLAIN = re.compile(r"[\w./+:-]+", re.ASCII)


def find_closest(name: str, options: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `count` of `options` whose similarity to `name` reaches `cutoff`, the most similar first.

    The similarity is `difflib`'s: twice the letters that match in order, over the letters of both, capital or small.
    Before that is computed, options with too few letters in common are left out, so that thousands of them take
    milliseconds.
    """
    if not 0 < len(name) <= LONGEST:
        return []
    name = name.lower()
    bounded = ((_similarity_bound(name, option.lower()), option) for option in dict.fromkeys(options))
    candidates = heapq.nlargest(COMPARED, (pair for pair in bounded if pair[0] >= cutoff))
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(name)
    found: list[tuple[float, str]] = []
    for bound, option in candidates:
        if len(found) == count and bound < found[-1][0]:
            break
        matcher.set_seq1(option.lower())
        if (ratio := matcher.ratio()) >= cutoff:
            found = heapq.nlargest(count, [*found, (ratio, option)])
    return [option for _, option in found]


def did_you_mean(name: str, options: Iterable[str], prefix: str = "", count: int = 1) -> str:
    """Return " (did you mean x?)" with the closest of `options` behind `prefix`, or nothing where none is close.

    A suggestion that is more than letters, digits and `_ . / + : -` is shown quoted and escaped.
    """
    shown = [_quote_unless_plain(prefix + option) for option in find_closest(name, options, count)]
    return f" (did you mean {', '.join(shown[:-1]) + ' or ' * (len(shown) > 1) + shown[-1]}?)" if shown else ""


class Suggestions:
    """`did_you_mean` for many names against the same options: the first ones get a suggestion, the others nothing.

    A list in which every name is unknown is read as fast as another; its reader shows no more than a few problems.
    """

    def __init__(self, options: Iterable[str], most: int = 20) -> None:
        self._options, self._left = list(options), most

    def __call__(self, name: str) -> str:
        """Return " (did you mean x?)", or nothing."""
        self._left -= 1
        return did_you_mean(name, self._options) if self._left >= 0 else ""


def _similarity_bound(name: str, option: str) -> float:
    """Return the similarity that `option` would have if its letters stood in the order of `name`."""
    total = len(name) + len(option)
    if len(option) > 3 * LONGEST:
        return 0.0
    return 2 * sum(min(name.count(letter), option.count(letter)) for letter in set(name)) / total


def _quote_unless_plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else repr(text)
