"""Reproduce rows: the commands that make them again, and the device, commit and versions they ran with."""

import functools
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from vision_peft.printable import for_shell
from vision_peft.results.averages import Groups, list_tasks
from vision_peft.results.row import Row

LONGEST_SPLIT = 20_000  # letters of a command with quotation marks; shlex takes a time that grows with their square
_TASK, _SEED, _EXPERIMENT = "data.task=", "seed=", "experiment="


def collect_commands(rows: Sequence[Row], suites: Mapping[str, Groups]) -> list[str]:
    """Collect the commands of rows; those that differ only in task and seed become one sweep.

    A list of tasks that is a whole benchmark of `suites`, or one of its groups, is replaced by that name.
    """
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[tuple(word for word in _split_command(row) if not word.startswith((_TASK, _SEED)))].append(row)
    commands: list[str] = []
    for words, group in alike.items():
        if len(group) == 1 or words[:1] not in (("python",), ("vision-peft",)):
            commands += [show_command(row) for row in group if row.command]
            continue
        seeds_of: dict[str, set[int]] = defaultdict(set)
        for row in group:
            task = next((word for word in _split_command(row) if word.startswith(_TASK)), "")
            seeds_of[task.removeprefix(_TASK)].add(row.seed)
        tasks_with: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for task, seeds in seeds_of.items():
            tasks_with[tuple(sorted(seeds))].append(task)
        for seeds, tasks in tasks_with.items():
            named = _shorten_tasks(tasks, suites.get(group[0].dataset, {}))
            several = len(seeds) > 1 or len(named) > 1
            sweep = [f"{_TASK}{','.join(named)}"] * bool(named[0]) + [f"{_SEED}{','.join(map(str, seeds))}"]
            commands.append(for_shell([*words[:2], *["-m"] * several, *words[2:], *sweep]))
    return commands


def list_experiments(rows: Iterable[Row]) -> list[str]:
    """List the experiments that commands of rows name, each once."""
    words = (word for row in rows for word in _split_command(row) if word.startswith(_EXPERIMENT))
    return [*dict.fromkeys(word.removeprefix(_EXPERIMENT) for word in words)]


def describe_provenance(rows: Sequence[Row]) -> list[str]:
    """Describe device, commit and versions of rows, each distinct value once, and what was different on a resume."""
    names = dict.fromkeys(name for row in rows for name in row.versions)
    versions = (f"{name} {_join_distinct(row.versions.get(name) for row in rows)}" for name in names)
    return [
        f"device: {_join_distinct(map(_describe_device, rows))}",
        f"commit: {_join_distinct(row.commit for row in rows) or 'unknown'}",
        *([f"versions: {', '.join(versions)}"] if names else []),
        *(f"{row.label}, seed {row.seed}: {text}" for row in rows if (text := _describe_resumes(row))),
    ]


def _describe_device(row: Row) -> str:
    processes = f", {row.world_size} processes" if row.world_size > 1 else ""
    return f"{row.device}, {row.precision}{processes}"


def _describe_resumes(row: Row) -> str:
    """Describe what was different after a run was resumed: "resumed after update 3 with precision bf16"."""
    texts = []
    for changes in row.resumed_with:
        versions = changes.get("versions")
        flat = {**changes, **(versions if isinstance(versions, dict) else {})}
        words = [f"{key.replace('_', ' ')} {value}" for key, value in flat.items() if key not in ("update", "versions")]
        texts.append(f"resumed after update {changes.get('update')} with {', '.join(words)}")
    return "; ".join(texts)


def _split_command(row: Row) -> list[str]:
    return [*_split(row.command)]


@functools.lru_cache(maxsize=4096)
def _split(command: str) -> tuple[str, ...]:
    if not {*command} & {*"'\"\\"}:
        return tuple(filter(None, re.split("[ \t\r\n]+", command)))
    if len(command) > LONGEST_SPLIT:
        return (command,)
    try:
        return tuple(shlex.split(command))
    except ValueError:  # an unclosed quotation mark: the command is shown as it is
        return (command,)


def show_command(row: Row) -> str:
    """Quote the command of a row anew: it starts one program of ours, whatever stood in the file, or is a comment."""
    words = _split_command(row)
    if not words:
        return "# started from Python, without a command"
    known = words[:1] and words[0] in ("python", "torchrun", "vision-peft") and len(words) > 1
    return for_shell(words) if known else f"# {row.command}"


def _shorten_tasks(tasks: list[str], groups: Groups) -> list[str]:
    for name, group in {"all": list_tasks(groups), **groups}.items():
        if group and set(tasks) == set(group):
            return [name]
    return tasks


def _join_distinct(values: Iterable[str | None]) -> str:
    return " and ".join(dict.fromkeys(str(value) for value in values if value is not None))
