"""What became of the candidates of a comparison, as its table shows it."""

from collections.abc import Sequence
from pathlib import Path

from vision_peft.config.command_line import command_of, with_values
from vision_peft.memory.plan import read_limit, read_predicted
from vision_peft.memory.sizes import format_memory
from vision_peft.results.comparison import Entry, list_done
from vision_peft.results.method_titles import add_size
from vision_peft.results.row import Row
from vision_peft.results.table import format_seconds
from vision_peft.search.candidates import Rungs, count_epochs, describe_rungs
from vision_peft.search.compare import Contest
from vision_peft.search.compare_state import DONE
from vision_peft.search.competitor import Competitor
from vision_peft.search.estimate import is_solved
from vision_peft.search.halving import EPOCHS
from vision_peft.search.trials import Trial


def list_entries(contest: Contest) -> list[Entry]:
    """List all candidates, with what val chose or why they were left out."""
    return [_make_entry(contest, each) for each in contest.all]


def _make_entry(contest: Contest, competitor: Competitor) -> Entry:
    candidate, progress = competitor.candidate, competitor.progress
    if progress.state != DONE:
        return Entry(candidate.name, why=progress.why or "not compared yet")
    trained, values = contest.find_chosen(competitor)
    rows = {str(trial.values): trial.row for trial in competitor.trials} | {str(values): trained.row}
    size = values.get(candidate.size_key or "")
    return Entry(
        name=add_size(candidate.name, size),
        row=trained.row,
        tried=_describe_tried(competitor, trained.row),
        search_s=sum(row.total_seconds or row.train_seconds for row in rows.values()),
        predicted_bytes=read_predicted(trained.folder),
        inference=progress.ratios.get("inference"),
        merged=progress.ratios.get("merged"),
        folder=str(trained.folder),
        command=command_of(with_values(competitor.words, values)),
    )


def _describe_tried(competitor: Competitor, row: Row) -> str:
    """Say what a candidate tried on val: epochs in all, or the values that were solved for."""
    if not is_solved(competitor.config):
        return f"{count_tried_epochs(competitor.trials)} epochs"
    solved = next((key for key in ("penalty", "k") if row.curve and key in row.curve[0]), "setting")
    return f"{len(row.curve)} {({'penalty': 'penalties', 'setting': 'settings'}).get(solved, solved)}"


def count_tried_epochs(trials: Sequence[Trial]) -> int:
    """Count the epochs that trials had: all of their schedule, or those before they diverged."""
    return sum(trial.row.epochs if trial.diverged is None else len(trial.row.curve) for trial in trials)


def describe_less(competitors: Sequence[Competitor], rungs: Rungs) -> str:
    """Say who tried less than the level has: "SSF (5 of 8 settings, 96 epochs)"; empty if nobody did."""
    words = []
    for each in competitors:
        if each.progress.state != DONE or is_solved(each.config):
            continue
        trials = each.trials
        epochs, diverged = count_tried_epochs(trials), sum(trial.diverged is not None for trial in trials)
        settings = {str({key: value for key, value in trial.values.items() if key != EPOCHS}) for trial in trials}
        if len(settings) < rungs[0][0] or epochs < count_epochs(rungs):
            of = f"{len(settings)} of {rungs[0][0]} settings, {epochs} epochs"
            words.append(f"{each.name} ({of}{f', {diverged} trials diverged' if diverged else ''})")
    return ", ".join(words)


def list_notes(contest: Contest, entries: Sequence[Entry]) -> list[str]:
    """Say what each method had, what the columns are, and which `entries` took more memory than they were to take."""
    rungs, budget = contest.rungs, format_seconds(contest.state.budget_s)
    less = f", less for {less}" if (less := describe_less(contest.all, rungs)) else ""
    return [
        f"tried on val: {describe_rungs(rungs)}, {count_epochs(rungs)} epochs for each method{less}; one run where the "
        "setting is solved for; test was read once, for what val chose",
        f"all of it took {format_seconds(contest.used_s)}, the budget was {budget}",
        "brackets behind an accuracy: 95 % of a bootstrap over test items; parameters are those without the head",
        "train: the chosen run, search: all runs of the method; memory: peak of the process, in brackets as predicted",
        "infer: a forward pass relative to the bare backbone, timed in turn; * with what was merged into the weights",
        *describe_excess(entries),
    ]


def describe_excess(entries: Sequence[Entry]) -> list[str]:
    """Say which methods took more memory than their limit, as what a process takes before it trains cannot be cut."""
    over = []
    for entry, row in list_done(entries):
        limit, taken = read_limit(Path(entry.folder)), (row.peak_memory_mb or 0) * 1e6
        if limit is not None and taken > limit:
            over.append(f"{entry.name} ({format_memory(taken)} of {format_memory(limit)})")
    return [f"more memory than the limit: {', '.join(over)}"] * bool(over)
