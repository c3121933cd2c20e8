"""Image models on clips, frame by frame: every frame is an image of its own, and features are the mean over time.

    clip (B C T H W) -> frames (B·T C H W) -> blocks -> pooling and norms, as on images -> mean over T -> head

Nothing in it sees two frames at once: the baseline of video, and the backbone of methods that add what looks at time.
"""

from typing import Any

from timm.layers import PatchEmbed
from torch import Tensor, nn

from vision_peft.backbones.clips import as_clip, check_frames


class FrameEmbed(PatchEmbed):
    """timm's PatchEmbed on the frames of clips (B C T H W -> B·T N D): those of a clip follow each other."""

    num_frames: int
    mean_first: bool = False  # see frame_wise

    @classmethod
    def of(cls, image: PatchEmbed, num_frames: int) -> "FrameEmbed":
        """Make the same embedding, with its own ``proj`` and ``norm``, for clips of ``num_frames``."""
        embed = cls(
            image.img_size,
            image.patch_size,  # type: ignore[arg-type]
            image.proj.in_channels,
            1,  # the projection is put in its place below
            output_fmt=None if image.flatten else image.output_fmt.value,
            strict_img_size=image.strict_img_size,
            dynamic_img_pad=image.dynamic_img_pad,
            device="meta",
        )
        embed.proj, embed.norm, embed.num_frames = image.proj, image.norm, num_frames
        return embed.train(image.training)

    def forward(self, x: Tensor) -> Tensor:
        clip = as_clip(x, self.proj.in_channels, self.num_frames)
        return super().forward(clip.transpose(1, 2).flatten(0, 1))

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map that ``forward_intermediates`` makes: frames one below the other."""
        rows, columns = super().dynamic_feat_size(img_size)
        return self.num_frames * rows, columns


class MeanOverTime(nn.Dropout):
    """The mean of the features (B·T D) over the T frames of a clip, then timm's dropout before the head."""

    def __init__(self, num_frames: int, p: float) -> None:
        super().__init__(p)
        self.num_frames = num_frames

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unflatten(0, (-1, self.num_frames)).mean(1))


class NormOfMean(nn.LayerNorm):
    """The final norm of the mean of the features (B·T ... D) over the T frames of a clip; its keys stay the norm's."""

    num_frames: int

    @classmethod
    def of(cls, norm: nn.LayerNorm, num_frames: int) -> "NormOfMean":
        """Make the same norm, with its own ``weight`` and ``bias``."""
        new = cls(norm.normalized_shape, eps=norm.eps, device="meta")  # type: ignore[arg-type]
        new.weight, new.bias, new.num_frames = norm.weight, norm.bias, num_frames
        return new.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unflatten(0, (-1, self.num_frames)).mean(1))


def frame_wise(model: Any, num_frames: int, mean_first: bool = False) -> nn.Module:
    """Turn an image model of class VisionTransformer or Eva into one of clips of ``num_frames``, in place.

    No parameter is added or renamed. ``forward_features`` gives the tokens of all frames (B·T N D), ``forward_head``
    makes one row of every clip.

    Args:
        model: as timm or ``create_backbone`` makes it, with timm's PatchEmbed.
        num_frames: T of a clip.
        mean_first: take the mean over time before the final norm, as ST-Adapter's code does, and not behind it.

    Returns:
        The same model.

    Raises:
        ValueError: no frames, or no final LayerNorm that could norm the mean.
    """
    check_frames(num_frames, None, None)
    seat = next((name for name in ("norm", "fc_norm") if isinstance(getattr(model, name), nn.LayerNorm)), None)
    if mean_first and seat is None:
        raise ValueError(f"this {type(model).__name__} has no LayerNorm behind its blocks: leave mean_first out")
    model.patch_embed = FrameEmbed.of(model.patch_embed, num_frames)
    if mean_first and seat is not None:
        model.patch_embed.mean_first = True
        setattr(model, seat, NormOfMean.of(getattr(model, seat), num_frames))
        return model
    model.head_drop = MeanOverTime(num_frames, model.head_drop.p).train(model.training)
    return model
