"""The flags of Hydra that come beside the overrides, read so that they can be checked before Hydra acts on them."""

import argparse
from collections.abc import Sequence

from vision_peft.config.commands import door
from vision_peft.config.errors import ConfigError
from vision_peft.config.key_hints import describe_dashed
from vision_peft.config.sections import list_keys
from vision_peft.printable import for_shell

_SWITCHES = (
    "--help -h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run -r",
    "--multirun -m",
    "--shell-completion -sc",
)
_VALUES = ("--cfg -c", "--package -p", "--config-path -cp", "--config-name -cn", "--config-dir -cd")


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the flags, and what is not one as `overrides`; unknown flags end the program as argparse does.

    Raises:
        ConfigError: flags of Hydra that read a whole config, or a pickle, past all checks; keys typed as flags.
    """
    parser = argparse.ArgumentParser(prog=for_shell(door("train")), add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    for names in _SWITCHES:
        parser.add_argument(*names.split(), action="store_true")
    for names in (*_VALUES, "--experimental-rerun"):
        parser.add_argument(*names.split())
    parser.add_argument("--info", "-i", nargs="?", const="all")
    options = [option for action in parser._actions for option in action.option_strings]
    if problems := describe_dashed(arguments, options, list_keys({}, {})):
        raise ConfigError(problems)
    parsed = parser.parse_intermixed_args(list(arguments))
    wrong = {"--config-path": parsed.config_path, "--experimental-rerun": parsed.experimental_rerun}
    problems = [
        f"{flag}={value} is not accepted: add your own configs with --config-dir=FOLDER"
        for flag, value in wrong.items()
        if value
    ]
    if problems:
        raise ConfigError(problems)
    return parsed


def write_memory_as_key(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``--memory 8GB`` written as the key that it is, ``memory=8GB``.

    Raises:
        ConfigError: no size stands behind it.
    """
    written, waiting = [], iter(arguments)
    for argument in waiting:
        flag, equals, size = argument.partition("=")
        if flag != "--memory":
            written.append(argument)
            continue
        size = size if equals else next(waiting, "")
        if not size or size.startswith("-"):
            raise ConfigError(["--memory needs a size: give --memory 8GB, 8GiB, 8000MB or 50% (of the device)"])
        written.append(f"memory={size}")
    return written
