"""How the values of images are normalised by default, and which ways fit which images. Nothing here imports torch."""

from typing import Any


def resolve_normalisation(name: str, data: Any) -> str:
    """Return how images are normalised; "backbone" means its own where that knows their channels and their range.

    Args:
        name: of `recipe.normalisation`.
        data: what says `channels` (None: RGB) and `value_range`: a dataset's config, or the form of its bands.
    """
    channels, value_range = getattr(data, "channels", None), getattr(data, "value_range", "full")
    own = channels is None or (channels == 3 and isinstance(value_range, tuple))
    return "bands" if name == "backbone" and not own else name


def find_normalisation_problem(name: str, data: Any) -> str | None:
    """Describe why images of a dataset cannot be normalised as `name` says."""
    channels, value_range = getattr(data, "channels", None), getattr(data, "value_range", "full")
    if channels is None:
        return "recipe.normalisation=bands needs data.channels: RGB images take backbone" if name == "bands" else None
    if name in ("imagenet", "half") and not isinstance(value_range, tuple):
        return f"recipe.normalisation={name} needs data.value_range=[low,high]: give it, or take bands"
    if name == "imagenet" and channels != 3:
        return f"recipe.normalisation=imagenet is for 3 channels, got data.channels={channels}: take bands"
    return None
