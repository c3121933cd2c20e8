"""How plots look: colours and markers that tell methods apart, widths of pages, sizes of type on paper."""

import functools
import warnings
from dataclasses import dataclass
from typing import Literal

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from vision_peft.suggest import did_you_mean

Marker = str | tuple[int, int, int]
Dash = tuple[int, tuple[float, ...]]
LineStyle = Dash | Literal["-"]

# Okabe and Ito's palette for all kinds of colour vision, its yellow (pale on white) replaced by a wine red; then eight
# more, each the one farthest from all before it, for full colour vision and for deuteranopia (CIELAB).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#000000")
COLOURS += ("#0000FF", "#FF5566", "#555500", "#BB44FF", "#443366", "#BB1199", "#002299", "#553322")
# All have an inside, which is white where the epoch was selected on test. Tuples: corners, 0 polygon or 1 star, angle.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "d", (4, 1, 0), (3, 1, 0), (8, 1, 0), "h")
DASHES = (
    (0, (1, 1.5)),
    (0, (6, 2)),
    (0, (6, 2, 1, 2)),
    (0, (3, 1.5)),
    (0, (8, 2, 1, 1, 1, 2)),
    (0, (1, 4)),
    (0, (4, 1, 1, 1)),
    (0, (12, 3)),
)
# Of methods: the first that have a colour, the second, the others.
LINES: tuple[LineStyle, ...] = ("-", (0, (5, 1.2)), (0, (1.5, 0.8)))
GREY, FAINT = "#555555", "#E2E2E2"
GREYS = (GREY, "#A0A0A0", "#000000")  # of references: each with all dashes before the next

WIDTHS = {"column": 3.25, "page": 6.75}  # inches, of the usual page of two columns
NARROWEST, WIDEST = 2.0, 40.0  # inches
LETTERS = 7.0  # points, of labels
SMALL = 6.0  # points, of notes and ticks: the smallest that is read on paper
POINTS = 72.0  # in an inch


@dataclass(frozen=True)
class Look:
    """What tells one method from the others."""

    colour: str
    marker: Marker
    line: LineStyle


def give_looks(labels: list[str]) -> dict[str, Look]:
    """Give each label a look of its own; of up to 16 no two share a colour or a marker, beyond no two share both.

    Lines are drawn through for the first 16 and dashed for the next.
    """
    return {label: _give_look(place) for place, label in enumerate(labels)}


def _give_look(place: int) -> Look:
    lap, colour = divmod(place, len(COLOURS))
    return Look(COLOURS[colour], MARKERS[(place + lap) % len(MARKERS)], LINES[min(lap, len(LINES) - 1)])


def give_dash(place: int) -> tuple[str, Dash]:
    """Return grey and dashes of the reference of that place; of up to 24 no two share both."""
    return GREYS[place // len(DASHES) % len(GREYS)], DASHES[place % len(DASHES)]


def read_width(text: str | float) -> float:
    """Return a width in inches: of "column" (3.25), "page" (6.75), or the number itself.

    Raises:
        ValueError: it is none of these, or no width of a picture.
    """
    if text in WIDTHS:
        return WIDTHS[str(text)]
    wanted = f"column ({WIDTHS['column']} in), page ({WIDTHS['page']} in) or inches from {NARROWEST:g} to {WIDEST:g}"
    try:
        width = float(text)
    except ValueError:
        raise ValueError(f"width must be {wanted}, got {text}{did_you_mean(str(text), [*WIDTHS])}") from None
    if not NARROWEST <= width <= WIDEST:
        raise ValueError(f"width must be {wanted}, got {text}")
    return width


def enlarge(width: float) -> float:
    """Return how many times larger than on paper type is: beyond the width of a page it grows with the picture."""
    return max(1.0, width / WIDTHS["page"])


def measure_text(text: str, size: float) -> float:
    """Return the width of one line in points, letter by letter."""
    return size * sum(map(_measure_letter, text))


def wrap_text(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines of at most `width` points; a word that is wider is broken where it has to be."""
    lines, line = [], ""
    for word in text.split():
        if line and measure_text(f"{line} {word}", size) <= width:
            line = f"{line} {word}"
            continue
        lines += [line] * bool(line)
        while len(word) > 1 and measure_text(word, size) > width:
            fits = max(1, int(len(word) * width / measure_text(word, size)) - 1)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


@functools.cache
def _measure_letter(letter: str) -> float:
    if letter == " ":
        return 0.318  # TextPath gives a space no width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks
        return _PATHS.get_text_width_height_descent(letter, FontProperties(size=100), ismath=False)[0] / 100


_PATHS = TextToPath()
