"""Rules about several keys of a recipe, or about keys of more than one type. Nothing here imports torch."""

from collections.abc import Iterator
from typing import Any

from vision_peft.data.choices import UNIFORM
from vision_peft.fields import above_zero, at_least
from vision_peft.tuning.head_kinds import check_head


def window_problems(recipe: Any) -> Iterator[str | None]:
    """Describe what is wrong with the keys of windows over large images."""
    yield at_least("stride", recipe.stride, 1)
    if recipe.window and not recipe.answers_maps:
        yield f"window needs a head for maps, such as head=seg_linear; got head={recipe.head}"
    if recipe.stride is not None and not recipe.window:
        yield f"stride={recipe.stride} is from one window to the next: it needs window=true"
    if recipe.resize == "none" and not recipe.window:
        yield "resize=none keeps images at their own size, which only windows can handle: give window=true"


def class_weights_problem(given: str | tuple[float, ...] | None) -> str | None:
    """Describe what is wrong with the weights of classes; None: nothing."""
    if isinstance(given, str) and given not in ("balanced", "effective"):
        return f"class_weights must be balanced, effective, null, or a list with one number per class; got {given}"
    if isinstance(given, tuple) and (not given or min(given) < 0 or not any(given)):
        return f"class_weights must be numbers of at least 0, not all 0; got {list(given)}"
    return None


def clip_time_problems(sampling: str, seconds: float | None, views: int | str) -> Iterator[str | None]:
    """Describe what is wrong with the keys of clips by time."""
    if sampling == "seconds" and seconds is None:
        yield "sampling=seconds needs the duration of a clip: give clip_seconds=2, for example"
    if sampling != "seconds" and seconds is not None:
        yield f"clip_seconds={seconds:g} is for sampling=seconds, got sampling={sampling}"
    yield above_zero("clip_seconds", seconds)
    if isinstance(views, int):
        yield at_least("views", views, 1)
    elif views != UNIFORM:
        yield f"views must be a whole number from 1, or uniform; got {views!r}"
    elif sampling != "seconds":
        yield f"views={UNIFORM} (clips end to end) needs sampling=seconds; got sampling={sampling}"


def head_problem(kind: str, options: dict[str, Any]) -> str | None:
    """Describe what is wrong with a kind of head and its options; None: nothing."""
    try:
        check_head(kind, options)
    except ValueError as error:
        text = str(error)
        if text.startswith("head "):
            return text
        return f"head_options.{text}" if text.partition(" ")[0] in options else f"head_options: {text}"
    return None
