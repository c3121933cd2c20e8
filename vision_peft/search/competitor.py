"""A candidate of a comparison with its config, its trials, and how far it is."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path

from vision_peft.config.parse import Config
from vision_peft.distributed.device import choose_compute
from vision_peft.results.figures import describe_figure, format_number, get_val_score
from vision_peft.search.candidates import Candidate
from vision_peft.search.compare_state import Progress
from vision_peft.search.trials import Trial, format_values
from vision_peft.training.suite import list_tasks

LOGS = "logs"  # below output_dir: what each candidate printed


@dataclasses.dataclass
class Competitor:
    """A candidate with its config and how far it is."""

    candidate: Candidate
    words: list[str]  # overrides of its trainings
    config: Config
    progress: Progress
    trials: list[Trial] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def log(self) -> Path:
        """The file that its trainings print into."""
        letters = "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in self.name)
        return Path(self.config.output_dir, LOGS, f"{letters}.txt")


def check_comparable(config: Config) -> None:
    """Raise ValueError where the config is of several trainings, or of none."""
    if list_tasks(config):
        raise ValueError("compare works on one task: give data.task=NAME, and compare the others in turn")
    if config.dry_run:
        raise ValueError("compare has no dry run: use dry_run=true with train")
    if choose_compute(config.device, config.precision).world_size > 1:
        raise ValueError("compare measures in one process: start it without torchrun")


def describe_trial(trial: Trial) -> str:
    """Describe what a trial found: "recipe.lr=0.004 recipe.epochs=5: val top-1 % 81.50"."""
    score = get_val_score(trial.row)
    words = f"val {describe_figure(trial.row, trial.row.metric)} {format_number(score)}" if score is not None else ""
    return f"{format_values(trial.values) or 'as it is'}: {trial.diverged or words}"


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what is printed inside to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
    gc.collect()
