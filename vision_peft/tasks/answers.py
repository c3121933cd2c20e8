"""What the outputs of a head say, for whoever asks a trained model: names with probabilities, or numbers."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

Guess = tuple[str, float]  # a name with its probability, or with a number


class Answers:
    """How answers are read, named and written; a kind of task overrides what it does otherwise."""

    kind: ClassVar[str]
    ranks_names: ClassVar[bool] = True  # whether an answer is the first of names by how likely they are
    names_classes: ClassVar[bool] = True  # whether answers are names with probabilities
    in_numpy: ClassVar[str] = ""  # Python that makes a text `answer` of `logits`, `names` and `task`; "": the likeliest
    expects: ClassVar[bool] = False  # whether `expect` has means
    outputs_are: ClassVar[str] = ""  # what outputs are to whoever has them alone; "": the largest is that of the answer
    classes_have_outputs: ClassVar[bool] = True  # whether each of `classes` has an output of its own, as timm has it
    classes: list[str]

    def to_units(self) -> tuple[Tensor, Tensor] | None:
        """Return what outputs are multiplied by and what is added then (float64) to be answers; None: they are."""
        return None

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the probability of each class (N classes, float32) by outputs N ... of the head.

        Raises:
            ValueError: the task is not of classes.
        """
        raise ValueError(f"a task of {self.kind} has no probabilities of classes")

    def name_answers(self, outputs: Tensor, top: int = 5) -> list[list[Guess]]:
        """Return what outputs N ... say: of each the names with their probabilities, or numbers, that are the answer.

        Args:
            top: how many names there are at most where they are ranked; sets of names and numbers are always whole.
        """
        values, places = self.probabilities(outputs).topk(min(top, len(self.classes)), dim=-1)
        return [
            [(self.classes[place], value) for place, value in zip(*row, strict=True)]
            for row in zip(places.tolist(), values.tolist(), strict=True)
        ]

    def expect(self, outputs: Tensor) -> list[float] | None:
        """Return the mean by probability of each answer, where names are numbers or stand in an order; else None."""
        return None

    def say(self, guesses: Sequence[Guess]) -> str:
        """Write an answer in a few words."""
        return guesses[0][0]

    def format_guess(self, name: str, value: float) -> str:
        """Write one part of an answer, its name perhaps padded."""
        return f"{name} {100 * value:5.1f} %"

    def to_json(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        """Return an answer as `predict` writes it in JSON, where names are not ranked."""
        return dict(guesses)

    def to_cells(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        """Return an answer as cells of a table by their columns, always the same ones, where names are not ranked."""
        return dict(guesses)
