"""An embedding of time for image models that see clips frame by frame."""

from torch import Tensor, nn

from vision_peft.tuning.graft import Graft


class FramePositions(Graft):
    """In front of the norm before the first block: tokens ((B T) N D) get the embedding of their frame."""

    temporal_embed: nn.Parameter  # 1 T D

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.temporal_embed.shape[1]))
        return super().forward((clips + self.temporal_embed.unsqueeze(2)).flatten(0, 1))

    def fold(self) -> None:
        """Leave it where it is: a method that merges otherwise keeps it (``Method.merged``)."""
