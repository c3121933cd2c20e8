"""Draw what each method adds to a frozen vision transformer, one SVG a method beside this file.

`python docs/concepts/draw_methods.py` writes them anew. Grey is frozen, orange is trained. Units are points, y upwards.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

FROZEN, TRAINED, LINE = ("#e9ecef", "#868e96", "#343a40"), ("#ffe3c2", "#d9480f", "#8a2c06"), "#495057"
COLOURS = {False: FROZEN, True: TRAINED}
TOKENS = {"c": ("#adb5bd", "#868e96", ""), "p": TRAINED, "n": FROZEN}
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "x", "font.sans-serif": ["DejaVu Sans", "Helvetica"]}
WIDTH = 360


class Picture:
    """A white card with a title, a source and a legend; shapes are drawn onto it."""

    def __init__(self, title: str, source: str, height: float = 400) -> None:
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
        self.axes.set_axis_off()
        card = FancyBboxPatch((9, 9), WIDTH - 18, height - 18, boxstyle="round,pad=8")
        self._shape(card, ("white", "#ced4da", "")).set_zorder(0)
        self.text(16, height - 20, title, size=13, weight="bold", ha="left")
        self.text(16, height - 36, source, size=9, ha="left")
        for x, colours, word in ((16, FROZEN, "frozen"), (76, TRAINED, "trained")):
            self._shape(Rectangle((x, 11), 10, 10), colours)
            self.text(x + 15, 16, word, size=9, ha="left")
        self.text(WIDTH - 14, 16, "the head trains too", size=9, ha="right")

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        style = {"size": 9, "ha": "center", "va": "center_baseline", "color": LINE} | style
        for i, line in enumerate(words.split("\n")):
            self.axes.text(x, y + 6 * words.count("\n") - 12 * i, line, **style)

    def box(self, x: float, y: float, words: str, trained: bool = False, width: float = 96, height: float = 24) -> None:
        """Draw a layer with its centre at (x, y)."""
        corner = (x - width / 2, y - height / 2)
        self._shape(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=4"), COLOURS[trained])
        self.text(x, y, words, color=COLOURS[trained][2])

    def funnel(self, x: float, y: float, words: str, up: bool, wide: float = 84, narrow: float = 50) -> None:
        """Draw a trained projection: from D to r (narrower above) or, with `up`, back to D."""
        low, high = (narrow, wide) if up else (wide, narrow)
        corners = [(x - low / 2, y - 11), (x + low / 2, y - 11), (x + high / 2, y + 11), (x - high / 2, y + 11)]
        self._shape(Polygon(corners), TRAINED)
        self.text(x, y, words, color=TRAINED[2])

    def bottleneck(self, x: float, y: float, activation: str) -> None:
        """Draw D → r, an activation and r → D from y to y + 72."""
        self.funnel(x, y + 11, "D → r", up=False)
        self.arrow((x, y + 22), (x, y + 30), trained=True, head=False)
        self.text(x, y + 36, activation, color=TRAINED[2])
        self.text(x + 24, y + 36, "N × r", ha="left", color=TRAINED[2])
        self.arrow((x, y + 42), (x, y + 50), trained=True)
        self.funnel(x, y + 61, "r → D", up=True)

    def circle(self, x: float, y: float, sign: str = "+", trained: bool = False) -> None:
        self._shape(Circle((x, y), 8), ("white", COLOURS[trained][1], ""))
        self.text(x, y, sign, size=11 if sign == "+" else 8, color=COLOURS[trained][2])

    def arrow(self, *points: tuple[float, float], trained: bool = False, head: bool = True) -> None:
        """Draw level and upright lines through the points, with a head at the last one."""
        colour = TRAINED[1] if trained else LINE
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=colour, lw=1.1, zorder=1)
        (x0, y0), (x, y) = points[-2:]
        u, v = 6 * ((x > x0) - (x < x0)), 6 * ((y > y0) - (y < y0))
        if head:
            corners = [(x, y), (x - u - v / 2, y - v + u / 2), (x - u + v / 2, y - v - u / 2)]
            self.axes.add_patch(Polygon(corners, fc=colour, ec="none", zorder=2))

    def up(self, x: float, *spans: tuple[float, float], trained: bool = False) -> None:
        """Draw vertical arrows, each from one height to another."""
        for low, high in spans:
            self.arrow((x, low), (x, high), trained=trained)

    def note(self, words: str) -> None:
        self.text(16, 36 + 6 * words.count("\n"), words, size=8.5, ha="left")

    def tokens(self, x: float, y: float, kinds: str, size: float = 15) -> None:
        """Draw a row of tokens from x on: c class, p prompt, o and x its output, which is read or not, n patch."""
        for i, kind in enumerate(kinds):
            corner, colours = (x + i * (size + 3), y - size / 2), TOKENS.get(kind, ("white", TRAINED[1], ""))
            cell = self._shape(Rectangle(corner, size, size), colours)
            cell.set_linestyle((0, (2, 2)) if kind == "x" else "-")

    def block(self, x: float, parts: Sequence[str], bottom: float, top: float, skip: float = 66) -> list[float]:
        """Draw a block upwards, "*" marks a trained part, "+" ends a half; return the heights of the parts."""
        step = (top - bottom) / (len(parts) - 1)
        heights = [bottom + i * step for i in range(len(parts))]
        before = start = bottom - 30
        for part, y in zip(parts, heights, strict=True):
            half = 8 if part == "+" else 12
            self.arrow((x, before), (x, y - half))
            before = y + half
            if part == "+":
                self.arrow((x, start + 9), (x - skip, start + 9), (x - skip, y), (x - 8, y))
                self.circle(x, y)
                start = before
            else:
                self.box(x, y, part.lstrip("*"), trained=part.startswith("*"))
        self.arrow((x, before), (x, before + 20))
        self.text(x + 8, bottom - 30, "N × D", ha="left")
        self.text(x + 8, before + 16, "N × D", ha="left")
        return heights

    def _shape(self, shape, colours: tuple[str, str, str]):
        shape.set(facecolor=colours[0], edgecolor=colours[1], linewidth=1.1, zorder=2)
        return self.axes.add_patch(shape)


def adaptformer() -> Picture:
    p = Picture("AdaptFormer: beside the MLP", "Chen et al., NeurIPS 2022. In every block.", 400)
    ys = p.block(110, ("LayerNorm", "Attention", "+", "LayerNorm", "MLP", "+"), 84, 310)
    x, start, end = 262, ys[2] + 17, ys[5]
    p.arrow((110, start), (x, start), (x, start + 14), trained=True)
    p.bottleneck(x, start + 14, "ReLU")
    p.arrow((x, start + 86), (x, end), (118, end), trained=True)
    p.circle(190, end, "× s", trained=True)
    p.text(x, end + 14, "N × D, scale s = 0.1", color=TRAINED[2])
    return p


def houlsby() -> Picture:
    p = Picture("Adapter: behind both halves", "Houlsby et al., ICML 2019. In every block.", 440)
    ys = p.block(110, ("LayerNorm", "Attention", "*Adapter", "+", "LayerNorm", "MLP", "*Adapter", "+"), 84, 350)
    x, bottom = 272, 148
    p.text(x, bottom - 24, "one adapter", weight="bold", color=TRAINED[2])
    p.bottleneck(x, bottom + 14, "GELU")
    p.circle(x, bottom + 112, trained=True)
    p.up(x, (bottom - 16, bottom + 14), (bottom + 86, bottom + 104), (bottom + 120, bottom + 140), trained=True)
    p.arrow((x, bottom - 4), (x - 58, bottom - 4), (x - 58, bottom + 112), (x - 8, bottom + 112), trained=True)
    p.text(x + 8, bottom + 136, "N × D", ha="left", color=TRAINED[2])
    p.text(x, ys[6], "Pfeiffer et al., EACL 2021:\nbehind the MLP only")
    return p


def _attention(p: Picture, lanes: Mapping[str, float], low: float, high: float) -> None:
    """Draw the three projections at the height `low`, and the attention that reads them at `high`."""
    p.text(188, low - 52, "tokens after LayerNorm, N × D", ha="left")
    p.arrow((180, low - 54), (180, low - 34), head=False)
    for name, x in lanes.items():
        p.arrow((180, low - 34), (x, low - 34), (x, low - 18))
        p.box(x, low, name + "\nD × D", width=54, height=36)
        p.text(x - 8, high - 24, name[0].upper(), ha="right", weight="bold")
    p.box(180, high, "softmax(Q Kᵀ / √d) V", width=310, height=26)
    p.box(180, high + 40, "projection, D × D", width=110)
    p.up(180, (high + 13, high + 28), (high + 52, high + 72))
    p.text(188, high + 68, "N × D", ha="left")


def lora() -> Picture:
    p = Picture("LoRA: beside the weights", "Hu et al., ICLR 2022. Query and value of every block.", 372)
    lanes, low, high = {"query": 52, "key": 180, "value": 242}, 106, 226
    _attention(p, lanes, low, high)
    p.up(lanes["key"], (low + 18, high - 13))
    for x, side in ((52, 118), (242, 308)):
        p.funnel(side, low - 13, "A  D → r", up=False, wide=60, narrow=42)
        p.funnel(side, low + 17, "B  r → D", up=True, wide=60, narrow=42)
        p.arrow((180, low - 34), (side, low - 34), (side, low - 24), trained=True)
        p.up(side, (low - 2, low + 6), trained=True)
        p.arrow((side, low + 28), (side, low + 66), (x + 8, low + 66), trained=True)
        p.text(side + 6, low + 48, "× α / r", ha="left", color=TRAINED[2])
        p.circle(x, low + 66)
        p.up(x, (low + 18, low + 58), (low + 74, high - 13))
    return p


def prefix() -> Picture:
    source = "Prefix-Tuning, Li and Liang, ACL 2021; P-Tuning v2, Liu et al., ACL 2022."
    p = Picture("Prefixes: keys and values of their own", source, 420)
    low, row, high = 124, 186, 272
    _attention(p, {"query": 52, "key": 180, "value": 300}, low, high)
    p.up(52, (low + 18, high - 13))
    p.text(60, high - 24, "N × D", ha="left", size=8)
    for x, name in ((180, "key"), (300, "value")):
        p.tokens(x - 43, row, "ppnnn")
        p.up(x, (low + 18, row - 8), (row + 8, high - 13))
        p.text(x + 6, high - 24, "(p + N) × D", ha="left", size=8)
        p.text(x - 6, row - 18, f"p {name}s, p × D", color=TRAINED[2], size=8.5, ha="right")
    p.note("P-Tuning v2 trains the p rows, Prefix-Tuning an MLP\nthat makes them and is dropped after training.")
    return p


def _stack(title: str, rows: Sequence[Sequence[str]], note: str) -> Picture:
    """Draw blocks above each other, with the rows of tokens in front of the first and behind each."""
    p = Picture(title, "Jia et al., ECCV 2022.", 376 if len(rows[1]) == 1 else 436)
    words = {"p": "+ p × D, trained", "o": "computed from them", "x": "not read again"}
    y, left, middle = 80.0, 24, 122
    p.text(left - 2, y - 17, "class", size=8, ha="left")
    p.text(left + 22, y - 17, "p prompts", size=8, color=TRAINED[2], ha="left")
    p.text(left + 118, y - 17, "N - 1 patches", size=8)
    for number, steps in enumerate(rows):
        if number:
            p.box(middle, y - 37, f"block {('1', '2', 'L')[number - 1]}", width=180)
            p.up(middle, (y - 64, y - 49), (y - 25, y - 9))
        for i, kinds in enumerate(steps):
            if i:
                p.up(middle, (y + 9, y + 21))
                y += 30
            p.tokens(left, y, kinds, size=17)
            p.text(left + 208, y, words[kinds[1]], ha="left", size=8.5, color=COLOURS[kinds[1] == "p"][2])
        p.text(middle + 8, y + 18, "…" if number == 2 else "", size=12, ha="left")
        y += 73
    p.note(note)
    return p


def vpt_shallow() -> Picture:
    old = ["coonnnnnnn"]
    return _stack(
        "VPT-shallow: prompts at the input",
        [["cppnnnnnnn"], old, old, old],
        "(N + p) × D from the first block to the last.",
    )


def vpt_deep() -> Picture:
    new, old = "cppnnnnnnn", "cxxnnnnnnn"
    note = "Every block has p prompts of its own: L × p × D."
    return _stack("VPT-deep: prompts in every block", [[new], [old, new], [old, new], [old]], note)


def lst() -> Picture:
    p = Picture("LST: a ladder beside the backbone", "Sung et al., NeurIPS 2022. Width d = D / 8.", 492)
    main, side, first, before = 88, 262, 112, 104
    p.text(main - 8, 68, "N × D", ha="right")
    p.arrow((main, 74), (side, 74), (side, 82), trained=True)
    p.funnel(side, 93, "D → d", up=False, wide=70, narrow=46)
    for i, name in enumerate(("1", "2", "L")):
        y, out = first + 84 * i, first + 84 * i + 34
        p.box(main, y, f"block {name}")
        p.up(main, (y + 12, y + 72))
        p.funnel(166, out, "D → d", up=False, wide=50, narrow=50)
        p.arrow((main, out), (141, out), trained=True)
        p.arrow((191, out), (side - 8, out), trained=True)
        p.circle(side, out, "g", trained=True)
        p.up(side, (before, out - 8), (out + 8, out + 20), trained=True)
        p.box(side, out + 31, f"side block {name}", trained=True, width=82, height=22)
        p.text(side + 46, out + 31, "N × d", ha="left", color=TRAINED[2])
        before = out + 42
    p.text(main + 8, first + 140, "…", size=12, ha="left")
    p.text(side + 14, first + 34, "g s + (1 - g) h", ha="left", size=8, color=TRAINED[2])
    p.up(side, (before, before + 10), trained=True)
    p.funnel(side, before + 21, "d → D", up=True, wide=70, narrow=46)
    p.arrow((side, before + 32), (side, before + 52), (main + 48, before + 52), trained=True)
    p.box(main, before + 52, "LayerNorm")
    p.up(main, (60, first - 12), (before + 64, before + 78))
    p.text(main + 8, before + 74, "N × D", ha="left")
    p.text(main, before + 16, "not read", size=8.5)
    p.note("No backward pass through the blocks of the backbone.")
    return p


def dtl() -> Picture:
    p = Picture("DTL: a low-rank sum beside it", "Fu, Zhu and Wu, AAAI 2024. Rank r = 2.", 452)
    main, side, first, before = 76, 300, 100, 62
    p.up(main, (50, first - 12))
    p.text(main - 8, 56, "N × D", ha="right")
    p.text(side, first - 46, "h = 0", color=TRAINED[2])
    for i, name in enumerate(("block 1", "block L - 6", "block L - 5", "block L")):
        y, enters = first + 76 * i, first + 76 * i - 22
        p.box(main, y, name)
        p.arrow((main, enters), (150, enters), trained=True)
        p.funnel(179, enters, "D → r", up=False, wide=58, narrow=46)
        p.funnel(236, enters, "r → D", up=True, wide=58, narrow=46)
        p.arrow((265, enters), (side - 8, enters), trained=True)
        p.up(side, (before, enters - 8), trained=True)
        p.circle(side, enters, trained=True)
        before = enters + 8
        p.text(main + 14, y + 30 + 8 * i, "…" if i % 2 == 0 else "", size=12, ha="left")
        p.up(main, (y + 12, y + 64) if i < 2 else (y + 38, y + 64))
        if i > 1:
            p.up(main, (y + 12, y + 22))
            p.circle(main, y + 30)
            p.arrow((side, y + 30), (main + 8, y + 30), trained=True)
            p.circle(190, y + 30, "g", trained=True)
    p.arrow((side, before), (side, first + 258), trained=True, head=False)
    p.text(main + 8, first + 286, "N × D", ha="left")
    p.text(188, first + 273, "g(h) = h σ(100 h), about ReLU", color=TRAINED[2], size=8, ha="left")
    p.note("No backward pass through blocks in front of block L - 5.")
    return p


def draw(folder: Path) -> None:
    """Write every picture into the folder as <method>.svg."""
    with mpl.rc_context(STYLE):
        for make in (adaptformer, vpt_shallow, vpt_deep, lora, houlsby, prefix, lst, dtl):
            make().figure.savefig(folder / f"{make.__name__}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw(Path(__file__).parent)
