"""Commands that a page shows, checked without running them: by the verb's own parser, and the config they compose."""

import argparse
import configparser
import contextlib
import copy
import functools
import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any
from unittest import mock

from support.pages import REPOSITORY
from support.tiny_run import PLAIN, read_value

from vision_peft.cli._costs import COST_KEYS
from vision_peft.cli._foreign import split_given
from vision_peft.cli.main import list_verbs
from vision_peft.config.command_line import Composed, read_command_line
from vision_peft.config.commands import DOORS
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import find_configs
from vision_peft.config.flags import parse_flags, write_memory_as_key
from vision_peft.config.sections import check_keys

TRAINS = ("train", "tune", "benchmark", "submit", "sweep")  # their words are those of train
# Programs that a page may name and that are not ours: what they are given is not checked.
OTHERS = {
    "cat",
    "cd",
    "cp",
    "curl",
    "find",
    "git",
    "hf",
    "ls",
    "mkdir",
    "mkdocs",
    "mv",
    "openssl",
    "pre-commit",
    "pyright",
}
OTHERS |= {
    "ruff",
    "tar",
    "unzip",
    "wget",
    "jupyter",
    "apt-get",
    "brew",
    "nvidia-smi",
    "rm",
    "tensorboard",
    "npm",
    "echo",
}
_VERBS_OF_DOORS = {door: verb for verb, door in DOORS.items()}
_CONTROLS = re.compile(r"\s(?:&&|\|\||\||;|&)(?=\s|$)")
_VARIABLE = re.compile(r"(?:export )?[A-Z_]+=\S*$|[A-Z_]+=\S+\s+(?=\S)")


def split_commands(text: str) -> Iterator[list[str]]:
    """Return the words of every command of a block of bash, without comments, variables and redirections."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        bare = line.strip().removeprefix("$ ")
        for part in _CONTROLS.split(_drop_comment(bare)):
            words = shlex.split(re.sub(r"\s\d?>>?\s*\S+", " ", _VARIABLE.sub("", part.strip())))
            if words:
                yield words


def _drop_comment(line: str) -> str:
    """Return a line without its comment; a `#` inside quotes or a word starts none."""
    for match in re.finditer(r"(?:^|\s)#", line):
        front = line[: match.start()]
        if front.count('"') % 2 == 0 and front.count("'") % 2 == 0:
            return front
    return line


def check_command(words: Sequence[str]) -> None:
    """Check one command: of ours what it is given, of others that they are known.

    Raises:
        AssertionError, ValueError: what is wrong.
    """
    program, *rest = words
    if program == "vision-peft":
        check_verb(*rest)
    elif program == "torchrun":
        check_script([word for word in rest if not word.startswith("--")])
    elif program in ("python", "python3"):
        check_script(rest)
    elif program == "pip":
        check_install(rest)
    elif program == "pytest":
        check_markers(rest)
    elif program == "sbatch":
        script = next(word for word in rest if word.endswith(".sbatch"))
        assert (REPOSITORY / script).exists(), script
        check_overrides(rest[rest.index(script) + 1 :])
    elif program.startswith(".ci/") or program == "bash":
        assert (REPOSITORY / [*rest, program][0 if program == "bash" else -1]).exists(), words
    else:
        assert program in OTHERS, f"{program} is not a program that pages may name: {shlex.join(words)}"


def check_script(words: Sequence[str]) -> None:
    """Check what python or torchrun is given: a script of the repository, our package as a module, or `-c`."""
    first, *rest = words
    if first == "-m" and rest[0] == "vision_peft":
        check_verb(*rest[1:])
    elif first.startswith("tools/"):
        name = first.removeprefix("tools/").removesuffix(".py")
        check_verb(_VERBS_OF_DOORS.get(name, name.replace("_", "-")), *rest)
    elif first == "-c":
        compile(rest[0], first, "exec")
    elif first != "-m" and "/" in first:
        assert (REPOSITORY / first).exists(), first


def check_verb(verb: str = "--help", *words: str) -> None:
    """Check what follows `vision-peft`."""
    if verb in ("--help", "--version"):
        return
    assert verb in list_verbs(), f"vision-peft has no verb {verb}"
    if verb == "train" or "--help" in words:
        if "--help" not in words:
            check_overrides(words)
        return
    options = parse_words(verb, words)
    given = list(getattr(options, "overrides", []))
    if verb in TRAINS:
        names = [word for word in given if word.startswith("sweep=")] if verb == "sweep" else []
        for file in (find_configs() / "sweep" / f"{name.removeprefix('sweep=')}.yaml" for name in names):
            assert file.is_file(), file
        costs = [word for word in given if word.startswith(COST_KEYS)]  # beside them other keys list values, too
        check_overrides([*(["-m"] if costs else []), *(word for word in given if word not in [*names, *costs])])
        for more in getattr(options, "against", []):
            check_overrides(more.split())
    elif verb in ("evaluate", "check-data"):
        own = [word for word in split_given(given)[0] if not word.startswith(("split=", "device="))]
        check_overrides(own)


class _ParsedError(Exception):
    """Ends a verb once its parser has done its work."""


def parse_words(verb: str, words: Sequence[str]) -> argparse.Namespace:
    """Return what the parser of a verb makes of these words; raises AssertionError with what the parser says."""
    parsed: list[argparse.Namespace] = []

    def fail(message: str) -> None:
        raise AssertionError(f"vision-peft {verb}: {message}")

    def stop_behind(name: str) -> Callable[..., None]:
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_stop(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> None:
            parser.error = fail  # pyright: ignore[reportAttributeAccessIssue]
            parsed.append(parse(parser, given))
            raise _ParsedError

        return parse_and_stop

    ways: dict[str, Any] = {name: stop_behind(name) for name in ("parse_args", "parse_intermixed_args")}
    with mock.patch.multiple(argparse.ArgumentParser, **ways), contextlib.suppress(_ParsedError):
        import_module(list_verbs()[verb]).main(list(words))
    return parsed[0]


def check_overrides(words: Sequence[str]) -> None:
    """Check the words of train: names of groups, keys and types of values; of a sweep every name, else first values."""
    flags = parse_flags(write_memory_as_key(words))
    if flags.config_dir:  # configs of the reader's own
        return
    parts = [_split_values(word) if flags.multirun else [word] for word in flags.overrides]
    for run in itertools.product(*(values if _names_group(values[0]) else values[:1] for values in parts)):
        _check_run(run)


def _split_values(word: str) -> list[str]:
    key, _, values = word.partition("=")
    return [f"{key}={value}" for value in re.split(r",(?![^\[({'\"]*[\])}'\"])", values)]


def _names_group(word: str) -> bool:
    return (find_configs() / re.sub(r"_\d$", "", word.partition("=")[0].lstrip("+"))).is_dir()


def _check_run(words: Sequence[str]) -> None:
    """Check one run; composed is only what Hydra alone can, since that takes a fifth of a second, and kept."""
    plain = [word for word in words if PLAIN.fullmatch(word) and not _names_group(word)]
    try:
        composed = _compose(tuple(word for word in words if word not in plain))
    except ConfigError:  # what is missing may be one of the others
        read_command_line(words)
        return
    raw: dict[str, Any] = copy.deepcopy(dict(composed.raw))
    for word in plain:
        *sections, key, value = read_value(word)
        section = raw
        for name in sections:
            section[name] = section = section[name] if isinstance(section.get(name), dict) else {}
        section[key] = value
    check_keys(raw, composed.choices)


@functools.cache
def _compose(words: tuple[str, ...]) -> Composed:
    (run,) = read_command_line(words).runs
    return run


def check_install(words: Sequence[str]) -> None:
    """Check the extras that `pip install` names of this package."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    for extras in re.findall(r"(?:vision_peft|\.)\[([\w,-]+)\]", " ".join(words)):
        assert {*extras.split(",")} <= {*config["options.extras_require"]}, extras


def check_markers(words: Sequence[str]) -> None:
    """Check the files and markers that `pytest` is given."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    markers = set(re.findall(r"^(\w+):", config["tool:pytest"]["markers"], flags=re.MULTILINE))
    assert {word for flag, word in itertools.pairwise(words) if flag == "-m"} <= markers, shlex.join(words)
    assert all((REPOSITORY / word).exists() for word in words if word.startswith("tests/")), shlex.join(words)
