"""ST-Adapter (Pan et al., NeurIPS 2022, https://arxiv.org/abs/2206.13559).

An image ViT sees a clip frame by frame; in front of attention or the MLP, in the residual stream, a bottleneck with a
depthwise 3-D convolution over time, rows and columns lets its patch tokens z see the other frames:

    z ← z + W_up DWConv3d(W_down z)

No activation, no norm; class token, registers and prompts pass unchanged.

Source: linziyi96/st-adapter@b914b38 models_adapter.py. The convolution starts from zero, the linear layers with
torch's weights and zero biases. Two kernels as published: 12 adapters of width 384 before the MLPs ("12×384"), or 24
before attention and MLP ("24×384").
Deviations: any prefix tokens and grid (one class token and a square there). Where the class token alone is read, the
adapter before the last MLP changes nothing that reaches the head (8 % of the parameters of 12×384, never a gradient):
it is left out here; ``as_published`` keeps it. The official readout is LN of the mean class token of all frames; it is
the backbone's affair (``create_backbone``), not the method's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks, width
from vision_peft.tuning.families import family_of
from vision_peft.tuning.frame_attention import FRAMES, frames
from vision_peft.tuning.graft import graft
from vision_peft.tuning.method import positive, some_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.patch_grid import PATCH_GRID, PATCH_SEQUENCE, GridBlock, GridNow, patch_grid


class TemporalBottleneck(nn.Module):
    """W_up DWConv3d(W_down z) on the patches, zero on the prefix tokens; tokens are ((B T) N D)."""

    def __init__(self, dim: int, num_frames: int, grid: GridNow, method: "STAdapter") -> None:
        super().__init__()
        channels = method.width
        kernel: Any = method.kernel
        self.down_proj = nn.Linear(dim, channels)
        padding: Any = tuple(size // 2 for size in kernel)
        self.conv = nn.Conv3d(channels, channels, kernel, padding=padding, groups=channels)
        self.up_proj = nn.Linear(channels, dim)
        self.num_frames, self.grid = num_frames, grid
        nn.init.zeros_(self.conv.weight)
        for layer in (self.down_proj, self.conv, self.up_proj):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.grid.now()
        patches = self.down_proj(x[:, x.shape[1] - rows * columns :])
        z = patches.unflatten(0, (-1, self.num_frames)).unflatten(2, (rows, columns))  # B T H W c
        z = self.conv(z.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        y = self.up_proj(z.flatten(2, 3).flatten(0, 1))
        return nn.functional.pad(y, (0, 0, x.shape[1] - rows * columns, 0))


class STAdapterBlock(GridBlock):
    """Adapters in front of one or both halves; on what comes out of them the halves work as before."""

    st_adapter: Any  # nn.ModuleDict of TemporalBottleneck by half

    def grid_now(self) -> GridNow | None:
        return next(iter(self.st_adapter.values())).grid

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        return super().attn_half(self._adapted("attn", x), **kwargs)

    def mlp_half(self, x: Tensor) -> Tensor:
        return super().mlp_half(self._adapted("mlp", x))

    def _adapted(self, site: str, x: Tensor) -> Tensor:
        return x + self.st_adapter[site](x) if site in self.st_adapter else x


@dataclass(frozen=True)
class STAdapter(BlockMethod):
    """Bottlenecks with a depthwise convolution over space and time, for image backbones on clips.

    The default is the published 12×384 without the adapter that cannot learn under a class-token readout.
    """

    name: ClassVar[str] = "st_adapter"
    title: ClassVar[str] = "ST-Adapter"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 5e-4}

    width: int = 384  # channels of the convolution
    kernel: tuple[int, ...] = (3, 1, 1)  # its odd size in frames, rows and columns of patches
    sites: tuple[str, ...] = ("mlp",)  # halves of the block with an adapter in front; ("attn", "mlp"): 24×384
    keep_dead: bool = False  # keep the adapter before the last MLP where only the class token is read

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(width=self.width)
        some_of("sites", self.sites, ("attn", "mlp"))
        if len(self.kernel) != 3 or any(size < 1 or size % 2 == 0 for size in self.kernel):
            raise ValueError(f"kernel must be three odd numbers (frames, rows, columns); got {self.kernel}")

    @classmethod
    def as_published(cls, **fields: Any) -> "STAdapter":
        """Give the released code, with the adapter before the last MLP that never gets a gradient."""
        return cls(**{"keep_dead": True, **fields})

    @classmethod
    def read_fields(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(recorded)
        layers = fields.pop("layers", None)  # how many of the last, before ``blocks``
        return fields if layers is None else {"blocks": f"last {layers}", **fields}

    @property
    def needs(self) -> tuple[Need, ...]:
        return FRAMES, PATCH_SEQUENCE, PATCH_GRID

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        num_frames, grid = frames(model), patch_grid(model)
        assert grid is not None, "PATCH_SEQUENCE"
        all_blocks = blocks(model)
        chosen = self.chosen_blocks(model)
        drop_last = not self.keep_dead and family_of(model).reads_class_token_only(model)
        if drop_last and self.sites == ("mlp",) and chosen == all_blocks[-1:]:
            raise ValueError(
                "an adapter before the last MLP alone cannot learn where only the class token is read: take more "
                "blocks, sites=('attn',), or a backbone with global_pool='avg'"
            )
        for block in chosen:
            last = block is all_blocks[-1]
            sites = [site for site in self.sites if not (site == "mlp" and last and drop_last)]
            adapters = {site: TemporalBottleneck(width(block), num_frames, grid, self) for site in sites}
            if adapters:
                graft(block, STAdapterBlock, st_adapter=nn.ModuleDict(adapters))
