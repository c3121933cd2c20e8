"""Successive halving: many settings for a few epochs, the better ones again for more, val chooses among all.

Jamieson and Talwalkar 2016 (https://arxiv.org/abs/1502.07943), with rounds that are given: [[4, 2], [2, 5], [1, 10]]
are four settings for two epochs, the better two for five, the best for ten. Each trial is a whole training whose
schedule has its own length, so that a later round does not go on from an earlier one; and a short trial may stay the
best.
"""

from collections.abc import Callable, Sequence

from vision_peft.search.candidates import Rungs, Values
from vision_peft.search.trials import Trial, rank_trials

EPOCHS = "recipe.epochs"


def halve(settings: Sequence[Values], rungs: Rungs, run: Callable[[Values], Trial]) -> list[Trial]:
    """Run the rounds and return all trials, in their order; those that diverged go on only where all did."""
    left, trials = [*settings], []
    for number, epochs in rungs:
        of_round = [run({**values, EPOCHS: epochs}) for values in left[:number]]
        trials += of_round
        if all(trial.diverged for trial in of_round):
            break
        ranked = [trial.values for trial in rank_trials(of_round) if not trial.diverged]
        left = [{key: value for key, value in values.items() if key != EPOCHS} for values in ranked]
    return trials
