"""What verbs take that read files of official code: `source=`, what such a file cannot tell, and its backbone."""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_peft.config.data_overrides import read_overrides
from vision_peft.config.errors import ConfigError
from vision_peft.home_paths import expand_home
from vision_peft.printable import printable
from vision_peft.safe_files import read_file

_Wanted = tuple[Callable[[Any], bool], str]


def _whole(least: int = 1, most: int = 2**20) -> _Wanted:
    return (lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most:,}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return all(map(_SIDE[0], value)) and len(value) == 2 if isinstance(value, list) else _SIDE[0](value)


_NUMBER: _Wanted = _is_number, "a number"
_TEXT: _Wanted = lambda value: isinstance(value, str), "a word"
_TRUTH: _Wanted = lambda value: isinstance(value, bool), "true or false"
_SIDE = _whole(most=4096)
OF_BUILD: Mapping[str, _Wanted] = {  # of a backbone that the file holds
    "num_heads": _whole(most=4096),
    "img_size": (_is_size, f"pixels, {_SIDE[1]}, or [height,width]"),
    "num_frames": _whole(most=4096),
}
OF_READERS: Mapping[str, _Wanted] = {  # keywords of read_foreign
    "scale": _NUMBER,
    "scaling": _NUMBER,
    "form": _TEXT,
    "position": _TEXT,
    "init": _TEXT,
    "dropout": _NUMBER,
    "drop_path": _NUMBER,
    "tokens": _TEXT,
    "norm": _TRUTH,
    "heads": _whole(),
    "classifier": _whole(0),
    "added": (
        lambda value: isinstance(value, str) or (isinstance(value, list) and all(map(_whole(0)[0], value))),
        "a word such as 'last 6', or a list of blocks",
    ),
    "beta": _NUMBER,
    "mask": (_TEXT[0], "the path of a file"),
    "bottleneck": _whole(),
    "rank": _whole(),
    "bits": _whole(),
    "head_bits": _whole(),
    "width": _whole(),
    "depth": _whole(),
    "shift_div": _whole(),
    "long_shift_div": _whole(),
    "long_shift_right": _TRUTH,
    "pool_heads": _whole(),
}
_MAY_BE_NULL = ("dropout", "position", "scaling", "long_shift_div", *OF_BUILD)
VALUES = ("source", *OF_BUILD, *OF_READERS)
_MOST = 2**26  # bytes of a list of class names


def split_given(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the words of a verb into its own and, where `source=` is among them, those that read the file.

    Words about the backbone are of both.
    """
    if not any(word.startswith("source=") for word in overrides):
        return list(overrides), []
    keys = {word: word.partition("=")[0] for word in overrides}
    of_file = [word for word, key in keys.items() if key in VALUES or key.startswith(("input.", "backbone."))]
    return [word for word, key in keys.items() if word not in of_file or key.startswith("backbone.")], of_file


def read_given(overrides: Sequence[str], further: Sequence[str] = ()) -> dict[str, Any]:
    """Parse `key=value` words: VALUES, `further` ones, `backbone.<key>` as for train, `input.<key>` of adapter.json.

    Raises:
        ConfigError: every word that cannot be read, is not known or has a value of another kind.
    """
    given = read_overrides(overrides, values=(*VALUES, *further), sections=("backbone", "input"))
    problems = [
        f"{key} is {printable(given[key], 60)}, wanted {words}"
        for key, (accepts, words) in {**OF_BUILD, **OF_READERS}.items()
        if key in given and not accepts(given[key]) and not (given[key] is None and key in _MAY_BE_NULL)
    ]
    if problems:
        raise ConfigError(problems)
    return given


@contextlib.contextmanager
def convert_first(path: str | Path, of_file: Sequence[str]) -> Iterator[str | Path]:
    """Give the run or adapter folder at `path`; where `of_file` has words, the adapter that the file there becomes.

    That adapter is gone at the end. Torch has been imported.
    """
    if not of_file:
        yield path
        return
    from vision_peft.inference.convert import convert_foreign

    given = read_given(of_file)
    with tempfile.TemporaryDirectory() as place:
        convert_foreign(path, Path(place) / "adapter", str(given["source"]), **list_arguments(given))
        yield Path(place) / "adapter"


def list_checkpoint(of_file: Sequence[str]) -> dict[str, Any]:
    """Return the file of the backbone's weights that the words name, as an argument of `vp.load`, if there is one."""
    backbone = read_given(of_file).get("backbone") or {}
    return {key: backbone[key] for key in ("checkpoint",) if key in backbone}


def check_source(path: str, of_file: Sequence[str]) -> None:
    """Raise, before torch is imported, where `path` is no folder, or of a file where it or a word is not known."""
    if of_file:
        read_given(of_file)
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    elif not path.startswith(("hf-hub:", "hf_hub:")) and not expand_home(path).is_dir():
        raise FileNotFoundError(
            f"{path} is not a folder: wanted a run folder, an adapter folder or hf-hub:OWNER/NAME; a file of official "
            "code needs source=NAME"
        )


def read_classes(path: Path | None) -> list[str] | None:
    """Read class names, one a line.

    Raises:
        ValueError: not UTF-8.
    """
    if path is None:
        return None
    try:
        return read_file(path, _MOST).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not a list of class names in UTF-8: {error}") from None


def list_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `inference.convert.convert_foreign` for what `read_given` returned."""
    found = {key: given[key] for key in (*OF_BUILD, *OF_READERS) if key in given}
    if isinstance(found.get("img_size"), list):
        found["img_size"] = tuple(found["img_size"])
    from vision_peft.inference.convert import check_input_keys

    check_input_keys(given.get("input") or {})
    return {**found, "backbone": _list_backbone(given.get("backbone")), "input_config": given.get("input")}


def _list_backbone(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not section:
        return None
    from vision_peft.config.parse import parse_backbone

    if "name" not in section:
        raise ValueError(f"backbone.{next(iter(section))}=... is of a backbone: give backbone.name=NAME as well")
    config = vars(parse_backbone(section))
    kwargs = config["kwargs"]
    plain = {key: value for key, value in config.items() if key != "kwargs" and value is not None}
    if "pretrained" not in section:
        plain["pretrained"] = plain.get("checkpoint") is None
    return {**plain, **kwargs}
