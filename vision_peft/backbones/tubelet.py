"""Tubelets: a clip (B C T H W) as one sequence of tokens for timm's VisionTransformer.

    tokens = Conv3d(clip), kernel and stride t x P x P: n = T/t · H/P · W/P of them, by time, then row, then column

In VideoMAE's form (Tong et al., NeurIPS 2022, https://arxiv.org/abs/2203.12602) they get fixed sinusoid positions over
all n and no class token joins them; features are the mean of all tokens behind ``fc_norm``. Source: MCG-NJU/VideoMAE
modeling_finetune.py.

An image ViT is inflated: the convolution is spread over the t frames of a tubelet ("average": w / t in each; "centre":
w in frame t // 2), class token and registers stay, and every time step gets the image's positions. Repeated positions
carry no order, so that a clip and its reverse would look alike: the embedding adds a temporal embedding (1 T/t D) to
the patch tokens. It starts as zero and trains with every method but a linear probe, as AIM's does, which the class
token gets as well (https://arxiv.org/abs/2302.03024).
"""

from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from vision_peft.backbones.clips import as_clip, check_frames

FORM: dict[str, Any] = {"class_token": False, "reg_tokens": 0, "pos_embed": "none", "global_pool": "avg"}  # VideoMAE's


class TubeletEmbed(PatchEmbed):
    """timm's ``embed_layer`` for clips (B C T H W -> B N D); positions included.

    Args:
        num_frames: T of a clip, a multiple of ``tubelet_size``.
        tubelet_size: frames t of a patch.
        positions: ``sinusoid`` adds VideoMAE's table, a buffer that is in no ``state_dict``; ``repeated`` leaves them
            to the model (``pos_embed``) and adds ``temporal_embed``; ``none`` adds nothing, the model or its attention
            does.

    The others are those of timm's PatchEmbed. ``trained_with_methods`` names the parameters that train with every
    method which lets features change (see ``vision_peft.attach``).

    Raises:
        ValueError: frames that do not fit together, sizes that change at every forward.
    """

    grid_size: tuple[int, int, int]  # time steps, rows, columns
    positions: Tensor | None

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Any = None,
        bias: bool = True,
        *,
        num_frames: int = 16,
        tubelet_size: int = 2,
        positions: str = "sinusoid",
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
        output_fmt: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_frames(num_frames, tubelet_size, None)
        if positions not in ("sinusoid", "repeated", "none"):
            raise ValueError(f"positions must be 'sinusoid', 'repeated' or 'none'; got {positions!r}")
        if not strict_img_size or dynamic_img_pad or output_fmt is not None:
            raise ValueError("tubelets need a fixed size: give dynamic_img_size=False and no dynamic_img_pad.")
        like = {"device": device, "dtype": dtype}
        super().__init__(img_size, patch_size, in_chans, embed_dim, norm_layer, bias=bias, **like)  # type: ignore[arg-type]
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        kernel: Any = (tubelet_size, *self.patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=kernel, stride=kernel, bias=bias, **like)
        self._set_grid(self.img_size)
        repeated = positions == "repeated"
        self.trained_with_methods = ("temporal_embed",) if repeated else ()
        steps = num_frames // tubelet_size
        self.temporal_embed = nn.Parameter(torch.zeros(1, steps, embed_dim, **like)) if repeated else None
        table = sinusoid(self.num_patches, embed_dim).to(self.proj.weight) if positions == "sinusoid" else None
        self.register_buffer("positions", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        clip = as_clip(x, self.proj.in_channels, self.num_frames)
        if clip.shape[-2:] != self.img_size:
            raise ValueError(f"wanted clips of {self.img_size} pixels (height, width); got {tuple(clip.shape[-2:])}")
        tokens = self.norm(self.proj(clip).flatten(2).transpose(1, 2))
        positions = self.carried_positions()
        return tokens if positions is None else tokens + positions

    def carried_positions(self) -> Tensor | None:
        """Return what this embedding adds to the tokens (1 N D): their positions, those in time alone, or nothing."""
        if self.temporal_embed is None:
            return self.positions
        of_a_frame = self.num_patches // self.temporal_embed.shape[1]
        return self.temporal_embed.unsqueeze(2).expand(-1, -1, of_a_frame, -1).flatten(1, 2)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map that ``forward_intermediates`` makes: time steps one below the other."""
        rows, columns = super().dynamic_feat_size(img_size)
        return self.grid_size[0] * rows, columns

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Take clips of another size (pixels) from now on.

        Raises:
            ValueError: other patches, or positions that are the model's, which timm would resample across time.
        """
        if patch_size is not None or self.temporal_embed is not None:
            raise ValueError("this tubelet embedding keeps its size: create the backbone with the img_size you want.")
        if img_size is not None:
            self._set_grid((img_size, img_size) if isinstance(img_size, int) else tuple(img_size))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the positions again; timm's ``init_weights(needs_reset=True)`` calls this after ``to_empty``."""
        if self.temporal_embed is not None:
            nn.init.zeros_(self.temporal_embed)
        elif self.positions is not None:
            self.positions = sinusoid(self.num_patches, self.proj.out_channels).to(self.proj.weight)

    def _set_grid(self, img_size: Any) -> None:
        self.img_size, image_grid, _ = self._init_img_size(img_size)
        rows, columns = image_grid or (0, 0)
        self.grid_size = (self.num_frames // self.tubelet_size, rows, columns)
        self.num_patches = self.grid_size[0] * rows * columns


def sinusoid(tokens: int, dim: int) -> Tensor:
    """VideoMAE's positions (1 N D) of token p: channel 2i is sin(p / 10000^(2i/D)), channel 2i + 1 the cosine of it.

    One count runs over time, rows and columns.
    """
    channel = torch.arange(dim, dtype=torch.float64)
    rate = 10000 ** (-2 * (channel // 2) / dim)
    angle = torch.arange(tokens, dtype=torch.float64).unsqueeze(1) * rate
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float().unsqueeze(0)


def videomae_form(num_frames: int, tubelet_size: int) -> dict[str, Any]:
    """Arguments that give any timm model of class VisionTransformer VideoMAE's form."""
    return {**FORM, "embed_layer": partial(TubeletEmbed, num_frames=num_frames, tubelet_size=tubelet_size)}


def vjepa2_form(num_frames: int, tubelet_size: int) -> dict[str, Any]:
    """Arguments that give any timm model of class VisionTransformer V-JEPA 2's form, before ``rotate_blocks``.

    Features are the mean of all tokens behind the final norm; an attentive head reads the tokens, as published.
    """
    embed = partial(TubeletEmbed, num_frames=num_frames, tubelet_size=tubelet_size, positions="none")
    return {**FORM, "fc_norm": False, "embed_layer": embed}


@torch.no_grad()
def inflate(model: Any, num_frames: int, tubelet_size: int, how: str = "average") -> nn.Module:
    """Turn an image model of class VisionTransformer, with its weights, into one of clips, in place.

    Args:
        model: as timm or ``create_backbone`` makes it, with timm's PatchEmbed of fixed size.
        num_frames: T of a clip, a multiple of ``tubelet_size``.
        tubelet_size: frames t of a patch.
        how: ``average`` or ``centre``.

    Returns:
        The same model. On a clip that stands still its patch tokens are those of the image at every time step.
    """
    check_frames(num_frames, tubelet_size, how)
    image: Any = model.patch_embed
    weight = image.proj.weight
    embed = TubeletEmbed(
        image.img_size,
        image.patch_size,
        weight.shape[1],
        weight.shape[0],
        bias=image.proj.bias is not None,
        num_frames=num_frames,
        tubelet_size=tubelet_size,
        positions="repeated",
        device=weight.device,
        dtype=weight.dtype,
    )
    embed.norm = image.norm
    if how == "average":
        embed.proj.weight.copy_(weight.unsqueeze(2) / tubelet_size)
    else:
        embed.proj.weight.zero_()[:, :, tubelet_size // 2] = weight
    if embed.proj.bias is not None:
        embed.proj.bias.copy_(image.proj.bias)
    if model.pos_embed is not None:
        ahead = model.pos_embed.shape[1] - image.num_patches  # class and register tokens may have positions
        prefix, patches = model.pos_embed.split([ahead, image.num_patches], dim=1)
        model.pos_embed = nn.Parameter(torch.cat([prefix, patches.repeat(1, embed.grid_size[0], 1)], dim=1))
    model.patch_embed = embed.train(model.training)
    return model
