"""Bounds on the arguments of a backbone that come out of someone else's file, before anything is built from them."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from vision_peft.backbones.skip_draws import SkipDraws
from vision_peft.backbones.strict import UnknownArgument, build
from vision_peft.fields import raise_all
from vision_peft.printable import printable

MAX_NUMBER = 2**16  # of channels, tokens, pixels, ...
MAX_DEPTH = 512  # blocks; each takes time even on the meta device
MAX_PARAMETERS = 10**10  # timm's largest model has 7 * 10^9
MAX_ENTRIES = 64  # of a list, and arguments in all
MAX_TEXT = 200  # letters
PAST_THE_CHECKS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict")
_OF_THE_USER = (*PAST_THE_CHECKS, "cache_dir", "pretrained", "num_classes")  # never out of a file


def argument_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with arguments of a timm model: only plain values within the bounds above are accepted."""
    if len(arguments) > MAX_ENTRIES:
        return [f"{len(arguments)} arguments of the model, wanted at most {MAX_ENTRIES}"]
    return [
        f"the argument {printable(key, 40)} is {printable(value, 60)}: {problem}"
        for key, value in arguments.items()
        if (problem := "not one that a file may give" if key in _OF_THE_USER else _problem(str(key), value))
    ]


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Bound the numbers among arguments that a user, or the config of a run, gives, then the size of the model.

    Raises:
        ValueError: a number out of bounds, and what ``check_size`` raises.
    """
    raise_all(
        f"the argument {printable(key)} of {name} is {printable(value, 60)}: {problem}"
        for key, value in arguments.items()
        if isinstance(value, int | float | list | tuple | dict) and (problem := _problem(key, value))
    )
    check_size(name, **arguments)


def check_size(name: str, **arguments: Any) -> int:
    """Build the model on the meta device, where it takes no memory, and count its parameters.

    Raises:
        ValueError: timm cannot build it, or it has more than ``MAX_PARAMETERS``.
    """
    try:
        with SkipDraws(), torch.device("meta"):  # draws on the meta device make torch import sympy
            model = build(name, num_classes=0, **arguments)
    except UnknownArgument:
        raise
    except Exception as error:  # wrong arguments surface as whatever timm's constructors stumble over
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(printable(f"timm cannot build {name} with {arguments}: {reason}", 2000)) from error
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        words = printable(f"{name} with {arguments}", 1000)
        raise ValueError(f"{words} has {count:,} parameters, wanted at most {MAX_PARAMETERS:,}")
    return count


def _problem(key: str, value: Any, nested: int = 0) -> str | None:
    if len(key) > MAX_TEXT:
        return "its name is too long"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if len(value) <= MAX_TEXT else f"wanted at most {MAX_TEXT} letters"
    highest = MAX_DEPTH if "depth" in key else MAX_NUMBER
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)
        return None if finite and abs(value) <= highest else f"wanted a number up to {highest:,}"
    if nested > 2 or not isinstance(value, list | tuple | dict) or len(value) > MAX_ENTRIES:
        return f"wanted a plain value, or at most {MAX_ENTRIES} of them"
    items = value.items() if isinstance(value, dict) else ((key, item) for item in value)
    if problem := next((found for name, item in items if (found := _problem(str(name), item, nested + 1))), None):
        return problem
    whole = [item for item in value if isinstance(item, int)] if "depth" in key else []
    return None if sum(whole) <= highest else f"wanted {highest:,} blocks at most"
