"""A search that samples: Optuna's TPE draws trials from the ranges that the grid spans."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_id_fields, task_name
from vision_peft.distributed.processes import on_rank0, print_rank0
from vision_peft.distributed.stopping import starts_over
from vision_peft.results.figures import rank_val_score
from vision_peft.runs.folder_lock import FolderLock
from vision_peft.search.trials import Trial, Values, format_values, read_grid, replace_values, run_trial

FILE = "search.sqlite3"  # in output_dir: what was sampled so far, of all searches there


def search_optuna(config: Config, command: Callable[[Values], str] = lambda values: "", *, number: int) -> list[Trial]:
    """Run `number` trials from the ranges of the grid; those of an earlier call with the same config count.

    Numbers are sampled between the lowest and the highest of their list, on a logarithmic scale if all are above 0,
    anything else is taken from the list. A trial that diverges counts as 0 %. The process of rank 0 samples for all.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: another process does the same search in the same folder.
    """
    optuna, grid, locks = _import_optuna(), read_grid(config), list[FolderLock]()
    on_rank0(lambda: locks.append(_lock(config, grid)))
    try:
        return _sample(optuna, config, grid, command, number)
    finally:
        for lock in locks:
            lock.release()


def _sample(
    optuna: Any, config: Config, grid: Mapping[str, list[Any]], command: Callable[[Values], str], number: int
) -> list[Trial]:
    states = optuna.trial.TrialState
    studies: list[Any] = []  # the one study, in the main process
    open_trials: list[Any] = []
    on_rank0(lambda: studies.append(_open_study(optuna, config, grid)))

    def ask(number: int) -> Values:
        # Seeded anew for every trial, so that what is sampled depends on the trials before and not on interruptions.
        studies[0].sampler = optuna.samplers.TPESampler(seed=config.seed + number)
        open_trials.append(studies[0].ask())
        for key, options in grid.items():
            _suggest(open_trials[-1], key, options)
        return _decode_values(open_trials[-1].params, grid)

    def tell(score: float) -> None:
        studies[0].tell(open_trials[-1], score)

    kept = replace_values(config, {}, overwrite=False)
    done = on_rank0(lambda: [trial.params for trial in studies[0].get_trials(states=(states.COMPLETE,))[:number]])
    trials = []
    while len(trials) < number:
        earlier = len(trials) < len(done)
        values = _decode_values(done[len(trials)], grid) if earlier else on_rank0(functools.partial(ask, len(trials)))
        print_rank0(f"\n[{len(trials) + 1}/{number}] {format_values(values)}")
        trials.append(run_trial(kept if earlier else config, values, command(values)))
        if not earlier:
            on_rank0(functools.partial(tell, rank_val_score(trials[-1].row)))
    return trials


def _lock(config: Config, grid: Mapping[str, list[Any]]) -> FolderLock:
    """Keep other processes out of this search; another one in the same folder has a lock of its own."""
    folder, name = Path(config.output_dir), _study_name(config, grid).rpartition("-")[2]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FolderLock(folder / f".search-{name}.lock")
    except BlockingIOError:
        raise ValueError(
            f"{folder} holds a search with these settings that another process is at: wait for it or stop it, or give "
            "another output_dir"
        ) from None


def _open_study(optuna: Any, config: Config, grid: Mapping[str, list[Any]]) -> Any:
    """Open the study of this search; a trial that was interrupted is the next one."""
    folder = Path(config.output_dir)
    where = {"study_name": _study_name(config, grid), "storage": f"sqlite:///{folder.absolute() / FILE}"}
    if starts_over(config.overwrite):
        with contextlib.suppress(KeyError):
            optuna.delete_study(**where)
    study = optuna.create_study(**where, direction="maximize", load_if_exists=True)
    states = optuna.trial.TrialState
    for interrupted in study.get_trials(states=(states.RUNNING,)):
        study.enqueue_trial(interrupted.params)  # its run resumes
        study.tell(interrupted.number, state=states.FAIL)
    return study


def _import_optuna() -> Any:
    try:
        import optuna  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise ImportError("--optuna needs Optuna, which is not installed: pip install 'vision_peft[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study_name(config: Config, grid: Mapping[str, list[Any]]) -> str:
    """Name a search: equal for the same search, whatever its protocol and the values that the search replaces."""
    fixed = {key: value for key, value in run_id_fields(config).items() if key not in (*grid, "protocol")}
    digest = hashlib.sha256(json.dumps([fixed, grid], sort_keys=True).encode()).hexdigest()[:8]
    return "-".join(filter(None, (config.data.name, task_name(config.data), digest)))


def _is_range(options: list[Any]) -> bool:
    return len(options) > 1 and all(type(option) in (int, float) for option in options)


def _suggest(asked: Any, key: str, options: list[Any]) -> None:
    if not _is_range(options):
        asked.suggest_categorical(key, list(range(len(options))))
        return
    lowest, highest = min(options), max(options)
    suggest = asked.suggest_int if all(type(option) is int for option in options) else asked.suggest_float
    suggest(key, lowest, highest, log=lowest > 0)


def _decode_values(parameters: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> Values:
    """Convert what Optuna drew to values of a config: three digits of a float, an option for its place in the list."""
    values: Values = {}
    for key, options in grid.items():
        drawn = parameters[key]
        if not _is_range(options):
            values[key] = options[drawn]
        else:
            values[key] = float(f"{drawn:.3g}") if isinstance(drawn, float) else drawn
    return values
