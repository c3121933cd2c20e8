"""The views of a video put together: its answer is the mean over them, whichever process saw which."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vision_peft.distributed.processes import all_gather, all_gather_tensors


class VideoLogits:
    """Logits of videos from those of their views.

    Sums are in float64: a few dozen numbers of float32 add up there without rounding, so that neither the order of the
    views nor the number of processes moves a mean.

    Args:
        video_of: index of a view in its dataset -> number of its video.
        average: what the mean is of. "logits", as in AdaptFormer's multi-view test, or "probabilities" after a softmax,
            as in those of VideoMAE and ST-Adapter; the logits of a video are then their logarithm.
    """

    def __init__(self, video_of: Callable[[int], int], average: str = "logits") -> None:
        self.video_of, self.average = video_of, average
        self.sums: dict[int, Tensor] = {}  # by video: classes, float64
        self.views: dict[int, int] = {}  # by video, how many are in the sum
        self.labels: dict[int, int] = {}
        self.unreadable: dict[int, int] = {}  # labels of the videos of which a view could not be read

    def add(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Take in views: logits B classes, labels B, indices B, all on the CPU."""
        answers = logits.double().softmax(1) if self.average == "probabilities" else logits.double()
        for own, label, index in zip(answers, labels.tolist(), indices.tolist(), strict=True):
            self._add(self.video_of(index), own, 1, label)

    def mark_unreadable(self, indices: Iterable[int], labels: Iterable[int]) -> None:
        """Note views that could not be read: their videos get no logits, whatever became of the other views."""
        self.unreadable |= {self.video_of(index): label for index, label in zip(indices, labels, strict=True)}

    def gather(self) -> "VideoLogits":
        """Those of all processes together; every process gets the same."""
        whole = VideoLogits(self.video_of, self.average)
        classes = max(all_gather(max(map(len, self.sums.values()), default=0)))
        sums = torch.stack([*self.sums.values()]) if self.sums else torch.empty(0, classes, dtype=torch.float64)
        numbers = torch.tensor([[video, self.views[video], self.labels[video]] for video in self.sums])
        everyone = zip(all_gather_tensors(numbers.long().view(-1, 3)), all_gather_tensors(sums), strict=True)
        for theirs, parts in everyone:
            for (video, views, label), own in zip(theirs.tolist(), parts, strict=True):
                whole._add(video, own, views, label)
        for pairs in all_gather([*self.unreadable.items()]):
            whole.unreadable |= dict(pairs)
        return whole

    def mean_logits(self) -> tuple[list[int], Tensor, Tensor]:
        """Numbers, mean logits (videos x classes, fp32) and labels of the readable videos, in order."""
        videos = sorted(self.sums.keys() - self.unreadable.keys())
        if not videos:
            return [], torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        means = torch.stack([self.sums[video] / self.views[video] for video in videos])
        logits = (means.log() if self.average == "probabilities" else means).float()
        return videos, logits, torch.tensor([self.labels[video] for video in videos])

    def _add(self, video: int, logits: Tensor, views: int, label: int) -> None:
        self.sums[video] = self.sums[video] + logits if video in self.sums else logits
        self.views[video] = self.views.get(video, 0) + views
        self.labels[video] = label
