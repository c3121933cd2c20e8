"""From what a user types to a checked config: Hydra composes, this file finds the mistakes before it does.

Names of configs and keys are checked without torch, which takes seconds to import; values of methods and datasets are
checked by their classes afterwards.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vision_peft.config.commands import command_of, with_values
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import (
    describe_unknown_name,
    find_configs,
    find_unbounded_files,
    list_configs,
)
from vision_peft.config.flags import parse_flags
from vision_peft.config.hydra_safety import check_hydra_keys
from vision_peft.config.key_hints import describe_valueless
from vision_peft.config.registered import registered_names
from vision_peft.config.sections import GROUPS, METHOD_KEYS, check_keys
from vision_peft.config.typed_values import quote_values, unquote_value

if TYPE_CHECKING:
    from vision_peft.config.parse import Config

T = TypeVar("T")
ADD_M = "add -m to run them one after another"
CHECKED_BEFORE_A_SWEEP = 100  # runs; a fifth of a second each


@dataclass(frozen=True)
class Composed:
    """One run as Hydra composed it: plain nested dicts, and for each group the file it was read from."""

    raw: Mapping[str, Any]
    choices: Mapping[str, str]

    def parse(self) -> "Config":
        """Return the typed config; ConfigError lists what is wrong. This imports torch."""
        from vision_peft.config.parse import parse_config

        return parse_config(self.raw, self.choices)


@dataclass(frozen=True)
class CommandLine:
    """Arguments whose names and keys were found right."""

    words: list[str]  # what Hydra shall see in place of the arguments
    runs: list[Composed]  # the run, or the first of a sweep; none where nothing will be trained (--cfg, --info, ...)

    def check_values(self) -> None:
        """Parse every run; ConfigError lists the problems of all of them. This imports torch."""
        _try_all(run.parse for run in self.runs)


def read_command_line(arguments: Sequence[str], several: str = "give one of them") -> CommandLine:
    """Check the names and keys that a command was given, for every run of a sweep before the first one starts.

    A second method ``+method_2=vpt`` becomes Hydra's ``+method@method_2=vpt``; a plain ``key=value`` becomes
    ``++key=value``, so that an unknown key reaches the checks here, which know what was meant. With ``experiment=...
    method=...`` the fields that the experiment gives its own method are deleted.

    Args:
        arguments: overrides and flags as they were typed.
        several: what to do, of this verb, with a key that lists several values; -m is train's.

    Raises:
        ConfigError: unreadable overrides, names without a config file, unknown keys.
    """
    if foreign := [text for text in arguments if not _is_encodable(text)]:
        raise ConfigError([f"{text!a} is not UTF-8 text" for text in foreign])
    parsed = parse_flags(arguments)
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    folders = [find_configs(), *([Path(parsed.config_dir).resolve()] if parsed.config_dir else [])]
    if not folders[-1].is_dir():
        raise ConfigError(
            [f"--config-dir={parsed.config_dir} is not a folder: wanted one with data/*.yaml and the like"]
        )
    if problems := [problem for folder in folders[1:] for problem in find_unbounded_files(folder)]:
        raise ConfigError(problems)
    if problems := describe_valueless(parsed.overrides, {group: list_configs(group) for group in GROUPS}):
        raise ConfigError(problems)
    parser = OverridesParser.create()
    try:
        overrides = [parser.parse_override(text) for text in quote_values(parsed.overrides, parsed.multirun)]
    except HydraException as error:
        raise ConfigError([f"{' '.join(str(error).split())} (write key=value)"]) from error
    if nameless := [text for text in parsed.overrides if text.lstrip("+~").startswith("=")]:
        raise ConfigError([f"{text} has no key before = (write key=value)" for text in nameless])
    problems = [problem for override in overrides for problem in _find_unknown_options(override, folders)]
    if parsed.multirun and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append(
            "-m does not work under torchrun: start each run with its own torchrun, or start without torchrun"
        )
    if not parsed.multirun:
        sweeps = [override.input_line for override in overrides if override.is_sweep_override()]
        problems += [f"{text} lists several values: {several}" for text in sweeps]
    if problems:
        raise ConfigError(problems)
    rewritten = [_rewrite(override, folders) for override in overrides] + _delete_fields(overrides, folders)
    if parsed.hydra_help or parsed.shell_completion:
        return CommandLine([*rewritten, *flags], [])
    listed = itertools.islice(_list_runs([parser.parse_override(text) for text in rewritten]), CHECKED_BEFORE_A_SWEEP)
    runs = _try_all(lambda run=run: _compose(run, folders[1:], parsed.config_name or "config") for run in listed)
    return CommandLine([*rewritten, *flags], [] if parsed.cfg or parsed.info else runs)


def prepare(arguments: Sequence[str]) -> list[str]:
    """Check the arguments of a command, values as well, and return what Hydra shall see in their place."""
    command_line = read_command_line(arguments, ADD_M)
    command_line.check_values()
    return command_line.words


def compose_config(overrides: Sequence[str]) -> "Config":
    """Return the checked config of one run from overrides as they are typed (``["method=lora", "seed=1"]``)."""
    (run,) = read_command_line(overrides).runs
    return run.parse()


def parse_composed(composed: DictConfig) -> "Config":
    """Return the typed config of what Hydra composed for the run that is about to start."""
    return _as_composed(composed, HydraConfig.get().runtime.choices).parse()


def command(task: str | None = None) -> str:
    """Return the command that starts this run again, one run of a sweep or one `task` of a suite by itself."""
    words = [_as_typed(str(text)) for text in HydraConfig.get().overrides.task]
    if any(word.startswith("experiment=") for word in words):
        words = [word for word in words if not word.startswith("~method.")]  # `read_command_line` puts them in again
    return command_of(words if task is None else with_values(words, {"data.task": task}))


def _try_all(actions: Iterable[Callable[[], T]]) -> list[T]:
    """Return what each of `actions` gives; one ConfigError lists the problems of all that fail, each once."""
    results, problems = [], []
    for action in actions:
        try:
            results.append(action())
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return results


def _compose(overrides: Sequence[str], further_folders: Sequence[Path], name: str) -> Composed:
    """Compose one run and check its keys."""
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in further_folders)}]"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(find_configs()), version_base="1.3"):
            composed = compose(name, [*overrides, *search * bool(further_folders)], return_hydra_config=True)
            if further_folders or any("searchpath" in text for text in overrides):
                typed = [text for text in overrides if re.match(r"[+~]*hydra(?!\.searchpath)", text)]
                check_hydra_keys(composed, compose("config", typed, return_hydra_config=True))
        run = _as_composed(composed, composed.hydra.runtime.choices)
    except ConfigError:
        raise
    except UnicodeDecodeError as error:  # names no file
        files = [path for folder in further_folders for path in sorted(folder.rglob("*.yaml")) if not _is_utf8(path)]
        raise ConfigError(
            [f"{path} is not UTF-8 text: save it in that encoding" for path in files] or [str(error)]
        ) from error
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        text = " ".join(str(error).split()).partition(" Config search path:")[0]
        raise ConfigError([f"invalid YAML: {text}" if isinstance(error, YAMLError) else text]) from error
    check_keys(run.raw, run.choices)
    return run


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes of a command line that are not UTF-8
        return False
    return True


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _as_composed(composed: DictConfig, choices: Any) -> Composed:
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    raw = OmegaConf.to_container(ours, resolve=True)
    named = {str(key): value for key, value in raw.items()} if isinstance(raw, dict) else {}
    return Composed(named, {str(key): str(value) for key, value in choices.items()})


def _group(override: Override, folders: list[Path]) -> str | None:
    """Find the folder of configs that an override chooses from; None if it sets a value."""
    key = override.key_or_group
    if key in METHOD_KEYS:
        return "method"
    return key if "." not in key and any((folder / key).is_dir() for folder in folders) else None


def _find_unknown_options(override: Override, folders: list[Path]) -> list[str]:
    group = _group(override, folders)
    if group is None or override.is_delete():
        return []
    options = sorted({*list_configs(group, tuple(folders[1:])), *registered_names(group)})
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    unknown = [str(name) for name in values if str(name) not in options]
    return [f"{override.key_or_group}={name}: {describe_unknown_name(group, name, options)}" for name in unknown]


def _rewrite(override: Override, folders: list[Path]) -> str:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_delete() or key.startswith("hydra") or override.package is not None:
        return text
    value = text.partition("=")[2]
    if key in METHOD_KEYS[1:]:
        return f"+method@{key}={value}"
    if _group(override, folders):
        return f"{key}={value}" if key in GROUPS else f"+{key}={value}"
    return f"++{key}={value}"


def _delete_fields(overrides: list[Override], folders: list[Path]) -> list[str]:
    """Delete the fields that an experiment gives its own method, where the user typed another in its place."""
    typed = {override.key_or_group: override for override in overrides}
    if "method" not in typed or "experiment" not in typed or typed["experiment"].is_sweep_override():
        return []
    name = f"{typed['experiment'].value()}.yaml"
    files = [path for folder in folders if (path := folder / "experiment" / name).is_file()]
    fields = [str(field) for file in files for field in OmegaConf.select(OmegaConf.load(file), "method") or {}]
    return [f"~method.{field}" for field in dict.fromkeys(fields) if f"method.{field}" not in typed]


def _as_typed(text: str) -> str:
    if text.startswith("+experiment="):
        return text[1:]
    if text.startswith("+method@"):
        return text.replace("+method@method_", "+method_", 1)
    return unquote_value(text.removeprefix("++"))


def _list_runs(overrides: list[Override]) -> Iterator[list[str]]:
    """List the overrides of every run of a sweep."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    for run in itertools.product(*choices):
        yield [item for item in run if not item.startswith("hydra")]
