"""The kinds of classification heads and their options. Nothing here imports torch: a wrong one is answered at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from vision_peft.fields import Checked, above_zero, at_least, choice, fits, raise_all
from vision_peft.suggest import did_you_mean

CLASS_MEAN = "class_mean"  # linear, of the class token and the mean of the patch tokens side by side
# of pooled features; and mlp-2 to mlp-9
KINDS = ("linear", "batchnorm_linear", "bi_linear", "bi_linear_packed", "vpt_linear", CLASS_MEAN)
TOKENS = ("patch", "all")  # what an attentive head reads: patch tokens, or prefix tokens and prompts as well
MOST_STEPS = 5  # of progressive upsampling: patches of 32 pixels have a place for each
TIMES = ("none", "sinusoid")  # what it adds to tokens by their place in time


@dataclass(frozen=True, kw_only=True)
class TokenHead(Checked):
    """What the heads have in common that read tokens in place of pooled features."""

    tokens: str = "patch"  # patch | all (class token, registers and prompts too)
    norm: bool = (
        True  # read tokens behind the backbone's final norm; false: the residual stream as the last block left it
    )
    time: str = (
        "none"  # clips: none | sinusoid (a fixed table over time joins the tokens, which frame-wise models lack)
    )

    def __post_init__(self) -> None:
        raise_all([choice("tokens", self.tokens, TOKENS), choice("time", self.time, TIMES)])


@dataclass(frozen=True, kw_only=True)
class Attentive(TokenHead):
    """Efficient probing: `queries` learned queries attend to raw tokens, see `attentive.EfficientPool`."""

    queries: int = 32  # each owns width / (reduce * queries) channels of the pooled features
    reduce: int = 1  # the pooled features have width / reduce channels

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_all([at_least(name, getattr(self, name), 1) for name in ("queries", "reduce")])


@dataclass(frozen=True, kw_only=True)
class AttentivePooler(TokenHead):
    """V-JEPA 2's attentive classifier: one query and a cross-attention block, see `attentive.AttentivePool`."""

    depth: int = 1  # blocks: depth - 1 of self-attention over the tokens, then the cross-attention
    heads: int = 16  # of attention
    mlp_ratio: float = 4.0  # hidden channels of the MLPs by the width
    complete: bool = True  # norms, residual and MLP around the cross-attention; false: the cross-attention alone

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_all([at_least(name, getattr(self, name), 1) for name in ("depth", "heads")])
        if self.mlp_ratio <= 0 or self.depth > 12:
            raise ValueError(f"mlp_ratio must be above 0 and depth at most 12; got {self.mlp_ratio} and {self.depth}")


@dataclass(frozen=True, kw_only=True)
class Neighbours(Checked):
    """Votes of the nearest of so many kept `images`, see `neighbours.NeighbourHead`; ``KNN`` puts it on a model."""

    images: int
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        raise_all([at_least(name, getattr(self, name), 1) for name in ("images", "k")])
        raise_all([above_zero("temperature", self.temperature)])


@dataclass(frozen=True, kw_only=True)
class MapHead(Checked):
    """What the heads have in common that answer for every place of a map, see `map_heads`."""

    batchnorm: bool = True  # BatchNorm without affine parameters on the features, as DINOv2's linear head has it
    window: bool = False  # answer larger images in windows of the size that the backbone takes
    stride: int = 0  # pixels from one window to the next, at most; 0: two thirds of a window

    def __post_init__(self) -> None:
        raise_all([at_least("stride", self.stride, 0)])


@dataclass(frozen=True, kw_only=True)
class MapLinear(MapHead):
    """A 1 x 1 convolution of what the last layer gives."""


@dataclass(frozen=True, kw_only=True)
class MapMulti(MapHead):
    """A 1 x 1 convolution of what the last `layers` layers give, side by side."""

    layers: int = 4  # blocks of a flat model, stages of another

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_all([at_least("layers", self.layers, 1)])


@dataclass(frozen=True, kw_only=True)
class MapPyramid(MapHead):
    """A light UPerNet: pooled context and a path from coarse to fine, see `map_heads.Pyramid`."""

    layers: int = 4  # that are read, evenly spread over the depth of a flat model
    channels: int = 128  # of every level

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_all([at_least(name, getattr(self, name), 1) for name in ("layers", "channels")])


@dataclass(frozen=True, kw_only=True)
class MapProgressive(MapHead):
    """Convolutions that double the map step by step, SETR's progressive upsampling, see `map_heads.Progressive`."""

    steps: int = 4  # each a convolution of 3 x 3 and twice the size
    channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_all([at_least(name, getattr(self, name), 1) for name in ("steps", "channels")])
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS}, each doubles the sides of the map; got {self.steps}")


TOKEN_KINDS: dict[str, type[TokenHead]] = {"attentive": Attentive, "attentive_pooler": AttentivePooler}
MAP_KINDS: dict[str, type[MapHead]] = {
    "seg_linear": MapLinear,
    "seg_multi": MapMulti,
    "seg_upernet": MapPyramid,
    "seg_pup": MapProgressive,
}
HeadOptions = TokenHead | MapHead | Neighbours
_WITH_OPTIONS: dict[str, type[HeadOptions]] = {**TOKEN_KINDS, **MAP_KINDS, "knn": Neighbours}


def read_head(text: str, options: Mapping[str, Any] | None = None) -> str | HeadOptions:
    """Read a kind of head: ``attentive``, or as `head_text` writes it, ``attentive queries=8``; and further options.

    Returns:
        The name of a head that has no options, or a head with its options.

    Raises:
        ValueError: another kind, or options that it does not have.
    """
    name, *written = text.split() or [""]
    if name not in _WITH_OPTIONS:
        if text not in KINDS and not count_mlp_layers(text):
            known = [*TOKEN_KINDS, *MAP_KINDS, *KINDS]
            kinds, hint = ", ".join(map(repr, known)), did_you_mean(text, known)
            raise ValueError(f"head must be one of {kinds} or 'mlp-2' to 'mlp-9'; got {text!r}{hint}")
        if options:
            others = ", ".join([*TOKEN_KINDS, *MAP_KINDS])
            raise ValueError(f"a head of kind {text} has no options, those of {others} have; got {options}")
        return text
    kind = _WITH_OPTIONS[name]
    found = {**dict(_read_option(kind, word) for word in written), **(options or {})}
    known = [field.name for field in fields(kind)]
    for option in found:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(f"a head of kind {name} has no option {option!r}{hint}; it has {', '.join(known)}")
    if name == "knn" and "images" not in found:
        raise ValueError("a head of kind knn holds images: method=knn (vp.KNN) puts it there")
    return kind(**found)


def head_text(head: str | HeadOptions) -> str:
    """Write a head in one line, with the options that are not as by default."""
    if isinstance(head, str):
        return head
    name = next(name for name, kind in _WITH_OPTIONS.items() if type(head) is kind)
    changed = [(f.name, getattr(head, f.name)) for f in fields(head) if getattr(head, f.name) != f.default]
    return " ".join([name, *(f"{option}={str(value).lower()}" for option, value in changed)])


def _read_option(kind: type[HeadOptions], word: str) -> tuple[str, Any]:
    name, _, value = word.partition("=")
    hint = get_type_hints(kind).get(name)
    if hint is bool:
        return name, {"true": True, "false": False}.get(value, value)
    if hint in (int, float) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return name, float(value) if "." in value else int(value)
    return name, value


def check_head(kind: str, options: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError where ``kind`` is not a kind of head, or has no such options (see ``replace_head``)."""
    read_head(kind, options)


def list_grid_problems(grid: Mapping[str, Any]) -> Iterator[str]:
    """Describe what is wrong with the learning rates and weight decays of heads that are trained at once."""
    for key, values in grid.items():
        if key not in ("lr", "weight_decay"):
            yield f"head_grid takes lists of lr and weight_decay, got {key}"
        elif not (isinstance(values, list | tuple) and values and all(fits(value, float) for value in values)):
            yield f"head_grid.{key} must be a list of numbers, got {values!r}"
        elif min(values) < 0 or (key == "lr" and min(values) == 0):
            yield f"head_grid.{key} must be numbers {'above' if key == 'lr' else 'from'} 0, got {values!r}"


def count_mlp_layers(kind: str) -> int:
    """Return the k of ``mlp-k``, 0 for any other kind."""
    match = re.fullmatch(r"mlp-([2-9])", kind)
    return int(match[1]) if match else 0
