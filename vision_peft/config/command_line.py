"""From what a user types to a checked config: Hydra composes, this file finds the mistakes before it does."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vision_peft.config.help import help_text
from vision_peft.config.hydra_safety import check_flags, check_hydra_keys
from vision_peft.config.parse import GROUPS, METHOD_KEYS, Config, ConfigError, parse_config
from vision_peft.distributed.processes import LostProcess
from vision_peft.distributed.stopping import Interrupted
from vision_peft.suggest import did_you_mean

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
USER_ERROR = 2  # exit code where there is something for the user to mend
REQUEUE = 85  # exit code after SIGTERM, SIGUSR1 or max_time: the state is saved, start the same command again
CHECKED_BEFORE_A_SWEEP = 100  # runs; a fifth of a second each


def prepare(arguments: list[str]) -> list[str]:
    """Check the arguments of a command and hand back what Hydra shall see in their place.

    A second method ``+method_2=vpt`` becomes Hydra's ``+method@method_2=vpt``; a plain ``key=value`` becomes
    ``++key=value``, so that an unknown key reaches `parse_config`, which knows what was meant. With ``experiment=...
    method=...`` the fields that the experiment gives its own method are deleted. The run, or every run of a sweep, is
    composed and checked here, before the first one starts.

    Raises:
        ConfigError: unreadable overrides, names without a config file, and what `parse_config` finds.
    """
    parsed = get_args_parser().parse_intermixed_args(arguments)
    check_flags(parsed)
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    if parsed.help:
        print(help_text(CONFIGS))
        sys.exit()
    if parsed.hydra_help:
        return flags
    folders = [CONFIGS, *([Path(parsed.config_dir).resolve()] if parsed.config_dir else [])]
    parser = OverridesParser.create()
    try:
        overrides = [parser.parse_override(text) for text in parsed.overrides]
    except HydraException as error:
        raise ConfigError([f"{' '.join(str(error).split())} (write key=value)"]) from error
    problems = [problem for override in overrides for problem in _unknown_options(override, folders)]
    if parsed.multirun and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append("-m under torchrun would mix the runs: give each run its own torchrun, or leave torchrun away")
    if not parsed.multirun:
        sweeps = [override.input_line for override in overrides if override.is_sweep_override()]
        problems += [f"{text} lists several values: add -m to run them one after another" for text in sweeps]
    if problems:
        raise ConfigError(problems)
    rewritten = [_rewritten(override, folders) for override in overrides] + _not_of_this_method(overrides, folders)
    runs = _runs([parser.parse_override(text) for text in rewritten])
    for run in itertools.islice(runs, CHECKED_BEFORE_A_SWEEP):
        try:
            _composed(run, folders[1:], parsed.config_name or "config")
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return [*rewritten, *flags]


def compose_config(overrides: list[str]) -> Config:
    """Compose and check the config of one run from overrides as typed (``["method=lora", "seed=1"]``)."""
    return _composed(prepare(overrides), [], "config")


def checked(composed: DictConfig) -> Config:
    """Parse what Hydra composed into the typed config of the run that is about to start."""
    choices = HydraConfig.get().runtime.choices
    return parse_config(_to_dict(composed), {key: str(value) for key, value in choices.items()})


def command(task: str | None = None) -> str:
    """Write the command line that starts this run again: one run of a sweep or one `task` of a suite by itself."""
    words = [_as_typed(str(text)) for text in HydraConfig.get().overrides.task]
    if any(word.startswith("experiment=") for word in words):
        words = [word for word in words if not word.startswith("~method.")]  # `prepare` puts them in again
    return command_of(words if task is None else with_values(words, {"data.task": task}))


def with_values(overrides: list[str], values: Mapping[str, Any]) -> list[str]:
    """Replace the values of typed overrides by `values` for the keys named there."""
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in values]
    return [*kept, *(f"{key}={_value_text(value)}" for key, value in values.items())]


def command_of(overrides: list[str], flags: Sequence[str] = ()) -> str:
    """Write the command line that trains with these overrides, in the present number of processes."""
    here, size = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = [f"--nnodes={size // here}"] if size > here else []
    start = ["torchrun", *nodes, f"--nproc_per_node={here}"] if size > 1 else ["python"]
    return shlex.join([*start, "tools/train.py", *flags, *overrides])


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can mend into one message on stderr and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback.

    A run that was stopped with its state saved ends with 130 after Ctrl-C and with 85 after SIGTERM, SIGUSR1 and at the
    end of max_time. A lost process is exit code 1. Of several processes all but the first say which one they are.
    """
    rank = os.environ.get("RANK", "0")
    who = "" if rank == "0" else f"process {rank}: "
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError, torch.OutOfMemoryError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        text = str(error) or type(error).__name__
        if isinstance(error, ConfigError) and len(error.problems) > 1:
            text = "\n  ".join([f"{len(error.problems)} problems in the config:", *error.problems])
        elif isinstance(error, torch.OutOfMemoryError):
            text = f"{text.splitlines()[0]} Ways out: recipe.accumulate=2, recipe.grad_checkpointing=true"
        print(f"{who}error: {text}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except LostProcess as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"{who}error: {error}; the same command again resumes from the last saved state", file=sys.stderr)
        raise SystemExit(1) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader ") or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        words = " ".join(str(error).split())  # one was killed, or hangs: its errors proper come as themselves
        print(f"{who}error: {words}; the same command again resumes from the last saved state", file=sys.stderr)
        raise SystemExit(1) from None
    except Interrupted as stop:
        raise SystemExit(130 if stop.signal == signal.SIGINT else REQUEUE) from None
    except KeyboardInterrupt:
        print("stopped; the same command again resumes from the last saved state", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def sweep_goes_on(failed: list[str]) -> Iterator[None]:
    """Around one run: where it is one of a sweep and fails, its command is added to `failed`, and the next one starts.

    A stop on request, Ctrl-C and a lost process end the sweep as well. Launchers that start processes of their own
    learn of a failure by the error.
    """
    try:
        yield
    except (SystemExit, Exception) as error:
        stopped, hydra = isinstance(error, SystemExit) and error.code != USER_ERROR, HydraConfig.get()
        if stopped or hydra.mode != RunMode.MULTIRUN or "BasicLauncher" not in hydra.launcher["_target_"]:
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        failed.append(command())


def _composed(overrides: list[str], further_folders: list[Path], name: str) -> Config:
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in further_folders)}]"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(name, overrides + search * bool(further_folders), return_hydra_config=True)
            if further_folders or any("searchpath" in text for text in overrides):
                typed = [text for text in overrides if re.match(r"[+~]*hydra(?!\.searchpath)", text)]
                check_hydra_keys(composed, compose("config", typed, return_hydra_config=True))
        choices = {key: str(value) for key, value in composed.hydra.runtime.choices.items()}
        raw = _to_dict(composed)
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from error
    return parse_config(raw, choices)


def _to_dict(composed: DictConfig) -> dict[str, Any]:
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    raw = OmegaConf.to_container(ours, resolve=True)
    return {str(key): value for key, value in raw.items()} if isinstance(raw, dict) else {}


def _group(override: Override, folders: list[Path]) -> str | None:
    """Find the folder of configs that an override chooses from; None if it sets a value."""
    key = override.key_or_group
    if key in METHOD_KEYS:
        return "method"
    return key if "." not in key and any((folder / key).is_dir() for folder in folders) else None


def _unknown_options(override: Override, folders: list[Path]) -> list[str]:
    group = _group(override, folders)
    if group is None or override.is_delete():
        return []
    options = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    return [
        f"{override.key_or_group}={name}: no such config{did_you_mean(str(name), options)}; "
        f"there are {', '.join(options)}"
        for name in values
        if str(name) not in options
    ]


def _rewritten(override: Override, folders: list[Path]) -> str:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_delete() or key.startswith("hydra") or override.package is not None:
        return text
    value = text.partition("=")[2]
    if key in METHOD_KEYS[1:]:
        return f"+method@{key}={value}"
    if _group(override, folders):
        return f"{key}={value}" if key in GROUPS else f"+{key}={value}"
    return f"++{key}={value}"


def _not_of_this_method(overrides: list[Override], folders: list[Path]) -> list[str]:
    """List deletions of the fields that an experiment gives its own method, where the user typed another method."""
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
    return text.replace("+method@method_", "+method_", 1) if text.startswith("+method@") else text.removeprefix("++")


def _value_text(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value_text, value))}]"
    text = str(value)
    return text if isinstance(value, int | float) or re.fullmatch(r"[\w./+-]+", text) else repr(text)


def _runs(overrides: list[Override]) -> Iterator[list[str]]:
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
