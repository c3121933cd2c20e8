"""What the families share whose tokens are maps (B H W C) in windows, fewer and wider from stage to stage: Swin."""

from typing import Any, ClassVar

from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from vision_peft.tuning.families.family import Family, Run


class WindowedFamily(Family):
    """Attention within windows, which are shifted in every other block, with a position bias of its own."""

    merging_classes: ClassVar[tuple[type[nn.Module], ...]]
    attention_takes_frames = False

    def stage_modules(self, model: Any) -> list[Any]:
        """List the modules that hold the blocks of a stage and, in front of them, its patch merging."""
        return list(model.layers)

    def stages(self, model: Any) -> list[list[Any]]:
        return [list(stage.blocks) for stage in self.stage_modules(model)]

    def token_mergings(self, model: Any) -> list[Any]:
        found = [stage.downsample for stage in self.stage_modules(model)]
        return [merging for merging in found if isinstance(merging, self.merging_classes)]

    def classifier_names(self, model: Any) -> tuple[str, ...]:
        return ("head.fc",)

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.norm]

    def reads_class_token_only(self, model: Any) -> bool:
        return False

    def map_size(self, block: Any) -> tuple[int, int]:
        """Return the (rows, columns) of the maps that ``block`` was built for."""
        return block.input_resolution

    def pads_windows(self, block: Any) -> bool:
        sizes = self.map_size(block)
        return any(size % window for size, window in zip(sizes, block.window_size, strict=True))

    def side_block(self, block: Any, dim: int) -> nn.Module:
        """Make a block that attends in the same windows, with its own position biases, to maps of any size."""
        return SwinTransformerBlock(
            dim,
            self.map_size(block),
            block.attn.num_heads,
            window_size=block.window_size,
            shift_size=block.shift_size,  # type: ignore[arg-type]  # timm takes a pair too
            always_partition=True,  # else the two are worked out again from the resolution
            dynamic_mask=True,
            mlp_ratio=4,
            qkv_bias=True,
        )

    def side_merging(self, dim: int, out_dim: int) -> nn.Module:
        """Make a merging that pads odd sides with zeros."""
        return PatchMerging(dim, out_dim, norm_layer=nn.Identity)

    def attend_in_windows(self, block: Any, x: Tensor) -> Tensor:
        """Cut a map ``x`` (B H W C) into windows, shifted where ``block`` does so, and run attention in each."""
        return block._attn(x)

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.attend_in_windows(block, self.attn_input(block, x))
        return x + block.drop_path1(self.after_attn(block, y))

    def mlp_half(self, block: Any, x: Tensor, run: Run | None = None) -> Tensor:
        return super().mlp_half(block, x.flatten(1, 2), run).view_as(x)

    def with_mask(self, bias: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
        """Add the mask of shifted windows (windows N N) to a position bias that broadcasts to (B heads N N)."""
        if mask is None:
            return bias
        # the windows of one image stand next to each other in the batch
        return bias + mask.repeat(q.shape[0] // mask.shape[0], 1, 1).unsqueeze(1)
