"""A training that dies in the middle, in this process, as if it were killed."""

from typing import Any, Literal
from unittest import mock

from vision_peft.config.parse import Config
from vision_peft.training import fit as fit_module
from vision_peft.training.trained import train

Place = tuple[int, int] | Literal["evaluation"]  # before (update, part), both from 0, or in the second evaluation


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_at(place: Place, config: Config) -> None:
    """Train until `place` and die there; AssertionError if the training never comes there."""
    last = iter([False, True])
    real_seed, real_evaluate = fit_module.seed_everything, fit_module.evaluate_heads

    def seed(*key: Any) -> None:
        if key[2:4] == place:
            raise Killed
        real_seed(*key)

    def evaluate(*arguments: Any) -> Any:
        if place == "evaluation" and next(last):
            raise Killed
        return real_evaluate(*arguments)

    with (
        mock.patch.object(fit_module, "seed_everything", seed),
        mock.patch.object(fit_module, "evaluate_heads", evaluate),
    ):
        try:
            train(config)
        except Killed:
            return
    raise AssertionError(f"nothing died at {place}")
