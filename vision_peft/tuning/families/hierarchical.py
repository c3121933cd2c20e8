"""What the families share whose blocks pool tokens and change width on the way, or attend in windows of their own."""

from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from vision_peft.tuning.families.family import Family


class HierarchicalFamily(Family):
    """Stages of blocks without modules between them: the first block of a stage pools and widens in its attention.

    ``input_width`` and ``width`` differ there, and so do the tokens in front of and behind the half with attention.
    """

    attention_takes_frames = False
    has_side_blocks = False
    channels_first: ClassVar[bool] = False  # of what ``forward_features`` gives

    def classifier_names(self, model: Any) -> tuple[str, ...]:
        return ("head.fc",)

    def reads_class_token_only(self, model: Any) -> bool:
        return False

    def as_sequence(self, model: Any, features: Tensor) -> Tensor:
        """Norm tokens, too, where timm norms them in its head."""
        norm: Any = getattr(model.head, "norm", None)
        if norm is self.final_norms(model)[0]:
            features = norm(features)
        return features.flatten(2).transpose(1, 2) if self.channels_first else super().as_sequence(model, features)

    def patch_projection(self, model: Any) -> Any:
        return model.patch_embed.proj

    def side_block(self, block: Any, dim: int) -> NoReturn:
        raise AssertionError("SIDE_BLOCKS")

    def attention_bias(self, attn: Any, q: Tensor, **kwargs: Any) -> Tensor | None:
        return None

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.ls1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.ls2(y)


def cut_at(blocks: Any, ends: list[int]) -> list[list[Any]]:
    """Cut a list of blocks behind the numbers ``ends``, the last block among them."""
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [list(blocks)[start : end + 1] for start, end in zip(starts, ends, strict=True)]


def final_norm_of(parts: list[nn.Module]) -> list[nn.Module]:
    """Return ``parts`` that are a norm, at least the last of them."""
    found = [part for part in dict.fromkeys(parts) if not isinstance(part, nn.Identity)]
    return found or parts[-1:]
