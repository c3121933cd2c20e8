"""Which method on this data: each candidate gets the same small search on val, as far as time and memory allow.

Order: the estimated cost of a search, the cheapest first. The level of search is the largest at which all are estimated
to fit into the budget, else the smallest; who does not fit any more is skipped and said so. All that was measured and
decided stands in compare.json, every training in its run folder, so that the same command goes on where it was.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError

from vision_peft.config.command_line import command_of, compose_config, with_values
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_id_fields
from vision_peft.distributed.device import choose_compute, reset_peak_memory
from vision_peft.distributed.stopping import starts_over
from vision_peft.memory.choose import DoesNotFit
from vision_peft.results.table import format_seconds
from vision_peft.runs.find_run import find_run
from vision_peft.search.candidates import Candidate, Rungs, Values
from vision_peft.search.compare_state import DONE, OPEN, SKIPPED, Progress, open_state
from vision_peft.search.competitor import Competitor, check_comparable, describe_trial, log_to
from vision_peft.search.estimate import estimate_seconds, import_late, is_solved, measure_speed
from vision_peft.search.halving import halve
from vision_peft.search.measure_inference import measure_inference
from vision_peft.search.trials import Trial, find_ended_row, rank_trials, run_trial, trial_config
from vision_peft.tasks import learn_task
from vision_peft.training.build import check_methods, load_splits
from vision_peft.training.trained import Trained, train

NO_MEMORY = (MemoryError, OutOfMemoryError)
OUT_OF_MEMORY = "out of memory: give --memory, so that batches are cut"
OF_BUDGET = 0.9  # that searches may be estimated to take; the rest is for the measuring of inference
Tell = Callable[[str], None]


class _OverBudget(Exception):
    """The time is over in the middle of a search."""


class Contest:
    """The comparison of some candidates on one dataset."""

    def __init__(
        self,
        words: Sequence[str],
        candidates: Sequence[Candidate],
        levels: Sequence[Rungs],
        budget_s: float,
        memory: str | None,
        tell: Tell,
    ) -> None:
        """Check what was typed and open compare.json.

        Args:
            words: overrides of all candidates.
            candidates: in any order.
            levels: of search, the largest first.
            budget_s: for all, over all starts.
            memory: most that a training may take, as the config has it; None: what the device has.
            tell: is given a line at each event.

        Raises:
            ConfigError: the problems of all candidates' configs.
            ValueError: a folder with another comparison; data without what is needed.
        """
        self.levels, self.tell, self.started = levels, tell, time.monotonic()
        shared = [*words, "protocol=val_select", f"memory={memory or '100%'}"]
        configs: dict[str, Config] = {}
        problems: dict[str, None] = {}
        for candidate in candidates:
            try:
                configs[candidate.name] = compose_config([*shared, *candidate.words])
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError(problems)
        first = next(iter(configs.values()))
        check_comparable(first)
        self.folder = Path(first.output_dir)
        splits = load_splits(dataclasses.replace(first, methods=()))  # a method that is not for the task is left out
        self.splits = {name: split.count_sources() for name, split in splits.items()}
        self.task = learn_task(splits["train"], first.recipe)
        fixed = run_id_fields(first).items()
        of = {key: value for key, value in fixed if key.split(".")[0] in ("data", "backbone", "seed")}
        of["recipe"] = sorted(word for word in words if word.startswith("recipe."))
        of["levels"] = levels
        self.state = open_state(self.folder, of, budget_s, memory, starts_over(first.overwrite))
        self.all: list[Competitor] = []
        for candidate in candidates:
            progress = self.state.candidates.get(candidate.name)
            if progress is None or progress.words != [*candidate.words]:
                progress = self.state.candidates[candidate.name] = Progress(words=[*candidate.words])
            own = [*words, *candidate.words, "protocol=val_select", *([f"memory={memory}"] if memory else [])]
            config = dataclasses.replace(configs[candidate.name], overwrite=first.overwrite)
            self.all.append(Competitor(candidate, own, config, progress))
        self.before = self.state.used_s

    @property
    def used_s(self) -> float:
        """Seconds of all starts."""
        return self.before + time.monotonic() - self.started

    @property
    def rungs(self) -> Rungs:
        """The rounds of the level that was chosen."""
        return self.levels[self.state.level or 0]

    def save(self) -> None:
        """Write compare.json."""
        self.state.used_s = self.used_s
        self.state.save(self.folder)

    def estimate(self, competitor: Competitor, level: int) -> float:
        """Estimate the seconds of a candidate's search, with what a run was seen to take beside its epochs."""
        more = 0.0 if is_solved(competitor.config) else self.find_overhead()
        return estimate_seconds(competitor.config, competitor.progress, self.splits, self.levels[level], more)

    def find_overhead(self) -> float:
        """Return the seconds by which a run takes longer than estimated, as seen where settings are solved for."""
        done = [each.progress for each in self.all if each.progress.state == DONE and is_solved(each.config)]
        late = [max(each.took_s - (each.estimate_s or 0), 0) / 2 for each in done]
        return sum(late) / len(late) if late else 0.0

    def measure(self) -> None:
        """Time a few updates of each candidate; one that does not fit the backbone or the data is skipped."""
        for competitor in self.all:
            progress = competitor.progress
            if progress.state == SKIPPED or progress.update_s is not None:
                continue
            try:
                check_methods(config := competitor.config, self.task)
                if any(method.brings_head for method in config.methods):  # nothing is updated: a linear head instead
                    plain = [word for word in competitor.words if not word.startswith("method.")]
                    config = compose_config(with_values(plain, {"method": "linear"}))
                with log_to(competitor.log):
                    speed = measure_speed(config)
            except (ValueError, NotImplementedError, *NO_MEMORY) as error:
                self.skip(competitor, OUT_OF_MEMORY if isinstance(error, NO_MEMORY) else str(error).splitlines()[0])
                continue
            progress.start_s, progress.update_s = speed.start_s, speed.update_s
            self.save()
        if all(each.progress.state == SKIPPED for each in self.all):
            reasons = "; ".join(f"{each.name}: {each.progress.why}" for each in self.all)
            raise ValueError(f"none of the methods can be trained here: {reasons}")

    def plan(self) -> None:
        """Choose the level of search, if none is chosen.

        Raises:
            ValueError: the budget does not even suffice for the cheapest candidate at the smallest level.
        """
        able = [each for each in self.all if each.progress.state != SKIPPED]
        if self.state.level is None:
            budget, smallest = self.state.budget_s, len(self.levels) - 1
            self._choose_level(able)
            cheapest = min(able, key=lambda each: self.estimate(each, smallest))
            least = self.estimate(cheapest, smallest)
            if least > OF_BUDGET * budget - self.used_s:
                raise ValueError(
                    f"--budget {format_seconds(budget)} is too small: {cheapest.name}, the cheapest, is estimated to "
                    f"take {format_seconds(least)} after {format_seconds(self.used_s)} of measuring: give --budget "
                    f"{max(round((least + self.used_s) / OF_BUDGET / 60 + 0.5), 1)}m or more"
                )
        for each in able:
            each.progress.estimate_s = each.progress.estimate_s or self.estimate(each, self.state.level or 0)
        self.all.sort(key=lambda each: each.progress.estimate_s or float("inf"))
        self.save()

    def _choose_level(self, searched: Sequence[Competitor]) -> None:
        """Choose the largest level at which all of these are estimated to fit, else the smallest."""
        left = OF_BUDGET * self.state.budget_s - self.used_s
        totals = [sum(self.estimate(each, level) for each in searched) for level in range(len(self.levels))]
        self.state.level = next((level for level, total in enumerate(totals) if total <= left), len(totals) - 1)

    def _plan_again(self) -> None:
        """Choose the level anew, by what was learned of runs, as long as no search that goes by it has begun."""
        searched = [each for each in self.all if not is_solved(each.config)]
        if any(each.progress.took_s for each in searched):
            return
        able = [each for each in searched if each.progress.state == OPEN]
        self._choose_level(able)
        for each in able:
            each.progress.estimate_s = self.estimate(each, self.state.level or 0)
        self.save()

    def run(self) -> None:
        """Search with every candidate, the cheapest first, and read test with what val chose.

        Raises:
            ValueError: the limit of memory is too small for all of them.
        """
        import_late(self.all[0].config)
        for competitor in self.all:
            progress = competitor.progress
            if progress.state == OPEN and not is_solved(competitor.config):
                self._plan_again()
            if progress.state == SKIPPED or (progress.state == OPEN and not self._has_time(competitor)):
                continue
            try:
                with log_to(competitor.log):
                    self._search(competitor)
            except (DoesNotFit, _OverBudget) as error:
                self.skip(competitor, str(error))
            except ValueError as error:  # it does not fit the task
                if competitor.trials:
                    raise
                self.skip(competitor, str(error).splitlines()[0])
            except NO_MEMORY:
                self.skip(competitor, OUT_OF_MEMORY)
        if all(each.progress.state == SKIPPED for each in self.all):
            first = self.all[0]
            more = f", and likewise {len(self.all) - 1} more" if len(self.all) > 1 else ""
            raise ValueError(f"no method could be compared: {first.name}: {first.progress.why}{more}")

    def skip(self, competitor: Competitor, why: str) -> None:
        """Leave a candidate out."""
        competitor.progress.state, competitor.progress.why = SKIPPED, why
        self.tell(f"{competitor.name}: left out, {why}")
        self.save()

    def find_chosen(self, competitor: Competitor) -> tuple[Trained, Values]:
        """Find the run that read test, by the trials."""
        best = rank_trials(competitor.trials)[0]
        config = self._final_config(competitor, best.values)
        folder = find_run(config)
        row = find_ended_row(config, folder)
        assert row is not None
        return Trained(row, folder, config), best.values

    def measure_inference(self) -> None:
        """Measure what a forward pass costs with each adapter, where it is not known."""
        for competitor in self.all:
            progress = competitor.progress
            if progress.state == DONE and not progress.ratios:
                progress.ratios = measure_inference(self.find_chosen(competitor)[0])
                self.save()

    def _has_time(self, competitor: Competitor) -> bool:
        """Tell whether the rest of the budget suffices, with what the candidates before took beside their estimates."""
        progress, budget = competitor.progress, self.state.budget_s
        if progress.took_s:  # it has begun in an earlier start
            return True
        done = [each.progress for each in self.all if each.progress.state == DONE and not is_solved(each.config)]
        took, estimated = sum(each.took_s for each in done), sum(each.estimate_s or 0 for each in done)
        need = (progress.estimate_s or 0) * (min(max(took / estimated, 0.5), 3) if estimated else 1)
        left = OF_BUDGET * budget - self.used_s
        if need <= left:
            return True
        there = f"{format_seconds(max(left, 0))} of the budget were left" if left > 0 else "the budget is used up"
        self.skip(competitor, f"it is estimated to take {format_seconds(need)}, and {there}")
        return False

    def _search(self, competitor: Competitor) -> None:
        """Run the trials of a candidate, or find them finished, then read test with the best."""
        config, progress, name = competitor.config, competitor.progress, competitor.name
        started, before = time.monotonic(), progress.took_s
        settings = competitor.candidate.list_settings(config.recipe.lr, self.rungs[0][0])
        number = 1 if is_solved(config) else sum(min(count, len(settings)) for count, _ in self.rungs)

        def run(values: Values) -> Trial:
            if progress.state == OPEN and self.used_s > self.state.budget_s:
                raise _OverBudget(f"the budget was used up after {len(competitor.trials)} of its {number} trials")
            _, began = reset_peak_memory(choose_compute(config.device, config.precision).device), time.monotonic()
            command = command_of(with_values(competitor.words, {**values, "read_test": False}))
            trial = run_trial(config, values, command)
            competitor.trials.append(trial)
            if progress.state == OPEN:
                progress.took_s = before + time.monotonic() - started
                took, used = format_seconds(time.monotonic() - began), format_seconds(self.used_s)
                self.tell(f"{name} [{len(competitor.trials)}/{number}] {describe_trial(trial)} ({took}, {used} in all)")
                self.save()
            return trial

        competitor.trials = []
        if is_solved(config):
            run({})
        else:
            halve(settings, self.rungs, run)
        best = rank_trials(competitor.trials)[0]
        if best.diverged:
            self.skip(competitor, f"all {len(competitor.trials)} trials diverged")
            return
        reset_peak_memory(choose_compute(config.device, config.precision).device)
        keys = {key for trial in competitor.trials for key in trial.values}
        tried = {key: [*dict.fromkeys(trial.values[key] for trial in competitor.trials)] for key in sorted(keys)}
        command = command_of(with_values(competitor.words, best.values))
        train(self._final_config(competitor, best.values), command, tried or None)
        if progress.state == OPEN:
            progress.took_s, progress.state = before + time.monotonic() - started, DONE
            self.save()

    def _final_config(self, competitor: Competitor, values: Mapping[str, Any]) -> Config:
        trial = trial_config(competitor.config, values)
        return dataclasses.replace(trial, read_test=True, overwrite=False)
