"""What verbs share: a parser whose help speaks of the user's own command, the word while torch loads, what is next."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_peft.config.commands import door, through_the_door
from vision_peft.config.errors import ConfigError
from vision_peft.late_imports import import_frameworks
from vision_peft.printable import for_shell, show
from vision_peft.safe_files import write_file

MOST_SUGGESTED = 20  # words of a command, such as the runs that a pattern of the shell named


def make_parser(verb: str, text: str | None) -> argparse.ArgumentParser:
    """Return a parser with `text`, the docstring of the verb, as its description."""
    return _Parser(
        prog=for_shell(door(verb)),
        description=through_the_door(text or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class _Parser(argparse.ArgumentParser):
    """A parser that says how a key is written where it was typed as an option, if the verb takes overrides."""

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        if args and any(action.dest == "overrides" for action in self._actions):
            from vision_peft.config.key_hints import describe_dashed
            from vision_peft.config.sections import list_keys

            options = [option for action in self._actions for option in action.option_strings]
            if problems := describe_dashed(args, options, list_keys({}, {})):
                raise ConfigError(problems)
        return super().parse_intermixed_args(args, *([] if namespace is None else [namespace]))


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Let a verb that takes the overrides of train take its `--config-dir` too."""
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="folder of your own configs, as for train")


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides with the folder of own configs in front, as `read_command_line` takes them."""
    folder = [f"--config-dir={arguments.config_dir}"] if arguments.config_dir else []
    return [*folder, *arguments.overrides]


def announce_loading() -> None:
    """Import torch, which takes seconds, and say so; of several processes only the first says it."""
    if "torch" not in sys.modules:
        if is_first_process():
            show("loading PyTorch and timm ...", sys.stderr)
        import_frameworks()


def suggest_next(*commands: Sequence[str]) -> None:
    """Print what can be done next: for each command its verb and arguments; none that would fill the screen."""
    commands = tuple(words for words in commands if len(words) <= MOST_SUGGESTED)
    if commands and is_first_process():
        lines = (f"  {for_shell([*door(verb), *map(_as_argument, words)])}" for verb, *words in commands)
        show("\nnext:", style="bold")
        show("\n".join(lines))


def _as_argument(word: str) -> str:
    """Have a path that starts with a dash not be taken for a flag."""
    return f"./{word}" if word.startswith("-") and Path(word).exists() else word


def check_output(flag: str, path: Path, overwrite: bool = False) -> None:
    """Raise, before the work, where `write_output` would find no folder, or a file that is to stay."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{flag} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a folder, wanted a file")
    if path.is_file() and not overwrite:
        raise FileExistsError(f"{flag} {path} is there already: --overwrite replaces it")


def write_output(path: Path, content: str | bytes) -> None:
    """Write the file that a user named, through a link; into a pipe or a device as it is (`--json /dev/stdout`)."""
    if path.exists() and not path.is_file():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        write_file(path.resolve(), content)


def is_first_process() -> bool:
    """Whether this is the only process, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"
