"""Names of layers in folders of HF peft, and the patterns by which its configs choose among them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vision_peft.printable import printable

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
PATCH_EMBED = "patch_embed.proj"
# Layers of a block by the end of their name, with the target of ours that they belong to.
LAYERS = {
    "attn.qkv": "qkv",
    "attn.q_proj": "q",
    "attn.k_proj": "k",
    "attn.v_proj": "v",
    "attn.proj": "proj",
    "mlp.fc1": "fc1",
    "mlp.fc1_g": "fc1",
    "mlp.fc1_x": "fc1",
    "mlp.fc2": "fc2",
}
SEPARATE = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
# A regular expression of these parts only takes a time that grows with a small power of the name's length: no group is
# repeated, and few parts are.
_PARTS = re.compile(r"(?:(?:[\w.]|\\[.dw]|\[[\w\-]+\])[*+?]?|[\^$|(]|\)\??)*")
_REPEATED = re.compile(r"[*+?]")
MOST_REPEATED, LONGEST, LONGEST_NAME = 3, 300, 120


def short(layer: str) -> str:
    """Return the end of a layer's name by which ``LAYERS`` knows it."""
    return ".".join(layer.split(".")[-2:])


def is_in_block(layer: str) -> bool:
    """Tell whether ``layer`` is one of a block that methods know."""
    return re.fullmatch(r"(layers\.\d{1,4}\.|stages\.\d{1,4}\.)?blocks\.\d{1,4}\.\w+\.\w+", layer) is not None and (
        short(layer) in LAYERS
    )


def find_blocks(config: Mapping[str, Any], layers: Iterable[str]) -> str | tuple[int, ...]:
    """Return the blocks of a flat backbone that ``layers`` are in, "all" where ``config`` names layers of any block.

    Of a backbone with stages it is "all": how many blocks a stage has says the model only, see ``Foreign.methods_on``.
    """
    targets = config.get("target_modules")
    named = [name for name in targets if isinstance(name, str)] if isinstance(targets, list | tuple) else []
    flat = [re.fullmatch(r"blocks\.(\d{1,4})\..+", layer) for layer in layers if is_in_block(layer)]
    numbers = sorted({int(match[1]) for match in flat if match})
    if not numbers or None in flat:
        return "all"
    anywhere = named and not any(map(is_in_block, named)) and config.get("layers_to_transform") is None
    return "all" if anywhere and numbers == [*range(len(numbers))] else tuple(numbers)


def find_missing(layers: Iterable[str]) -> list[str]:
    """List layers that other blocks have and one does not, by name."""
    names = set(layers)
    every = sorted({name.removesuffix(f".{short(name)}") for name in names})
    ends = sorted({short(name) for name in names})
    return [f"{block}.{end}" for block in every for end in ends if f"{block}.{end}" not in names]


def look_up(config: Mapping[str, Any], key: str, layer: str) -> Any:
    """Return what the first pattern under ``key`` that fits ``layer`` gives it, None where none fits.

    As in HF peft a pattern is a regular expression for the end of a name, behind a dot.

    Raises:
        ValueError: no mapping, or an expression that might take for ever.
    """
    patterns = config.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{key} in {CONFIG} must map names of layers to numbers; got {patterns!r}")
    if patterns and len(layer) > LONGEST_NAME:
        raise ValueError(f"a layer's name of {len(layer)} characters is not one of timm's: {printable(layer)}")
    for name, value in patterns.items():
        check_expression(key, name)
        try:
            found = re.fullmatch(rf"(.*\.)?({name})", layer)
        except re.error as error:
            raise ValueError(f"{key} in {CONFIG}: {printable(name)} is not a regular expression: {error}") from None
        if found:
            return value
    return None


def check_expression(key: str, text: str) -> None:
    """Raise ValueError for an expression that may need more steps than a small power of the name's length."""
    simple = len(text) <= LONGEST and _PARTS.fullmatch(text) and not re.search(r"\)[*+{]", text)
    if not simple or len(_REPEATED.findall(text)) > MOST_REPEATED:
        raise ValueError(
            f"{key} in {CONFIG} must name layers, by a regular expression of at most {MOST_REPEATED} repetitions and "
            f"none of a group; got {printable(text)!r}"
        )
