"""Check models outside timm's registry, ``hf-hub:OWNER/NAME[@REVISION]`` or ``local-dir:FOLDER``, before they are made.

UNI, Virchow, Prov-GigaPath and others exist only so. A ``config.json`` beside the weights names a timm architecture and
the arguments it is built with. It comes from someone else: its length and its numbers are bounded here, and nothing in
it is run.
"""

from pathlib import Path
from typing import Any

import timm

from vision_peft.backbones.bounds import argument_problems, check_size
from vision_peft.backbones.hub import WEIGHTS, fetch_file
from vision_peft.backbones.names import hub_repository
from vision_peft.safe_files import read_file
from vision_peft.strict_json import parse_json
from vision_peft.suggest import did_you_mean

CONFIG = "config.json"
MAX_CONFIG = 2**20  # bytes


def check_outside(name: str, arguments: dict[str, Any]) -> None:
    """Fetch and check the ``config.json`` of an outside model, and that it is a model of bounded size.

    Args:
        name: ``hf-hub:OWNER/NAME``, ``hf-hub:OWNER/NAME@REVISION`` or ``local-dir:FOLDER``.
        arguments: of the user, which stand before those of the config.

    Raises:
        ValueError: a malformed name, a repository or a config that is not a timm model's, or numbers out of bounds.
        FileNotFoundError: no such repository or folder, or no config in it.
        ConnectionError: the hub cannot be reached and its cache does not have the config.
    """
    cache_dir = arguments.get("cache_dir")
    repository = hub_repository(name)
    path = Path(name.partition(":")[2]) / CONFIG if repository is None else fetch_file(repository, CONFIG, cache_dir)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no {path}; wanted a folder with {CONFIG} and {' or '.join(WEIGHTS)}")
    content = read_file(path, MAX_CONFIG)
    try:
        config = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{name}: {CONFIG} is not JSON: {error}") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        got = f"{str(architecture)[:60]!r}{did_you_mean(str(architecture), timm.list_models())}"
        raise ValueError(f"{name} is not a timm model: wanted a timm architecture in its {CONFIG}, got {got}")
    model_args = config.get("model_args", {})
    if problems := argument_problems(model_args if isinstance(model_args, dict) else {"model_args": model_args}):
        raise ValueError(f"{name}: {CONFIG}: {'; '.join(problems)}")
    check_size(name, **arguments)
