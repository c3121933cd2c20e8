"""One pass over many files: predict them, hand the answers to what writes them, and keep the score."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vision_peft.calibration import Reliability
from vision_peft.data.dataset import ImageDataset
from vision_peft.inference.montage import Tile
from vision_peft.inference.predict_files import predict_files
from vision_peft.inference.predictor import Predictor
from vision_peft.inference.write_answers import Answer

Write = Callable[[Sequence[Answer]], None]


@dataclass
class Score:
    """How good answers are where the truth is known."""

    support: Counter[str] = field(default_factory=Counter)  # files, by true label
    right: Counter[str] = field(default_factory=Counter)
    reliability: Reliability = field(default_factory=Reliability)
    unsure: int = 0  # answers of an earlier start that do not say how sure they were

    def count(self, label: str, truth: str) -> None:
        """Take in one answer."""
        self.support[truth] += 1
        self.right[truth] += label == truth

    def count_again(self, label: str, truth: str, surest: tuple[str, float] | None) -> None:
        """Take in one answer of an earlier start, and the likeliest class and its probability, where they are known."""
        self.count(label, truth)
        if surest is None:
            self.unsure += 1
            return
        name, probability = surest
        self.reliability.count(torch.tensor([probability], dtype=torch.float64), torch.tensor([name == truth]))

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error in percent; None where it is not known of all answers."""
        return None if self.unsure else self.reliability.error

    @property
    def known(self) -> int:
        """Files whose truth is known."""
        return self.support.total()

    @property
    def top1(self) -> float:
        """Share of right answers in percent."""
        return 100 * self.right.total() / self.known

    @property
    def mean_per_class(self) -> float:
        """Mean over the classes that occur of their shares of right answers, in percent."""
        return sum(100 * self.right[name] / count for name, count in self.support.items()) / len(self.support)


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each file.

    Attributes:
        top: likeliest labels.
        probabilities: of all classes, too.
        features: too.
        shown: places of the files whose answers are kept for a picture.
    """

    top: int = 5
    probabilities: bool = False
    features: bool = False
    shown: frozenset[int] = frozenset()


def answer_inputs(
    predictor: Predictor,
    dataset: ImageDataset,
    labels: Sequence[int | None],
    wanted: Wanted,
    writers: Sequence[Write],
    score: Score,
    *,
    workers: int | str = "auto",
    report: Callable[[int], None] = lambda done: None,
) -> tuple[list[Tile], dict[str, str]]:
    """Predict all files of a dataset, in order.

    Args:
        predictor: of the model.
        dataset: of `make_dataset`.
        labels: of the files, where they are known.
        wanted: of each.
        writers: get the answers, batch by batch.
        score: counts them.
        workers: as in evaluation.
        report: is told how many files are done.

    Returns:
        The answers to be shown, and why files could not be predicted, by their paths.
    """
    tiles, failures, done = list[Tile](), dict[str, str](), 0
    for places, outputs, failed in predict_files(predictor, dataset, workers):
        causes = dict(failed)
        finite = outputs.logits.isfinite().all(1).tolist()
        causes |= {
            place: "the output of the model is NaN or infinite"
            for place, good in zip(places, finite, strict=True)
            if not good
        }
        failures |= {dataset.path(dataset.first_item(place)): causes[place] for place in sorted(causes)}
        kept = [row for row, good in enumerate(finite) if good]
        task = predictor.task
        probabilities = task.probabilities(outputs.logits[kept]) if task.names_classes else None
        guesses = task.name_answers(outputs.logits[kept], wanted.top)
        expected = task.expect(outputs.logits[kept]) or [None] * len(kept)
        answers = []
        for row, (place, named) in enumerate(zip([places[row] for row in kept], guesses, strict=True)):
            label = labels[place]
            truth = None if label is None else predictor.classes[label]
            answer = Answer(
                dataset.path(dataset.first_item(place)),
                named,
                truth,
                probabilities[row].tolist() if wanted.probabilities and probabilities is not None else None,
                outputs.features[kept[row]].numpy() if wanted.features else None,
                task.say(named),
                expected[row],
            )
            answers.append(answer)
            if truth is not None:
                score.count(answer.label, truth)
            if place in wanted.shown:
                tiles.append(Tile(place, answer.label, named[0][1] if task.ranks_names else None, truth))
        if probabilities is not None:
            score.reliability.add(*_with_truth(probabilities, [labels[places[row]] for row in kept]))
        for write in writers:
            write(answers)
        done += len(places) + len(failed)
        report(done)
    return tiles, failures


def _with_truth(probabilities: Tensor, labels: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Return the probabilities and labels of the answers whose truth is known."""
    known = [row for row, label in enumerate(labels) if label is not None]
    return probabilities[known], torch.tensor([labels[row] for row in known], dtype=torch.int64)
