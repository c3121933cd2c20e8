"""The questions that methods ask of a timm architecture. A family answers them in one file of this folder.

Written against timm 1.0.31. The blocks of every family name their parts alike (``norm1``, ``attn`` with ``proj``,
``drop_path1``, ``norm2``, ``mlp``, ``drop_path2``), and so does every model (``patch_embed``, ``num_features``); these
names are used as they are. Whatever differs from family to family is asked here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from vision_peft.tuning.graft import override


@dataclass(frozen=True)
class Branch:
    """One of the ways beside the residual stream of a block: what it passes, in order."""

    norm: nn.Module  # in front of the layer, an Identity in a post-norm block
    layer: Any  # attention or an MLP
    drop_path: Any  # the last module before it joins the stream


class Family(ABC):
    """One timm architecture, without state: models, blocks and attention layers are handed in.

    The defaults are those of a pre-norm block with softmax attention whose queries, keys and values come from one
    ``qkv`` layer. A concrete family is final, or the base of one that differs from it in the blocks alone.
    """

    examples: ClassVar[str]  # models that users know, for messages
    model_classes: ClassVar[tuple[type[nn.Module], ...]]
    block_classes: ClassVar[tuple[type[nn.Module], ...]]
    attention_classes: ClassVar[tuple[type[nn.Module], ...]]  # those that extra keys and values can join
    has_input_norms: ClassVar[bool] = True  # norm1 and norm2 stand in front of attention and MLP, else behind them
    bias_without_position: ClassVar[float] = 0.0  # of the scores of keys that stand nowhere in the image
    attention_takes_frames: ClassVar[bool]  # no position bias of the image: attention can also run over frames
    has_side_blocks: ClassVar[bool] = True  # ``side_block`` makes one
    has_grid: ClassVar[bool] = True  # the patches of a block form one grid, in its order
    covers_the_rest: ClassVar[bool] = False  # of models that no other family covers

    # The model

    def covers(self, model: Any) -> bool:
        """Tell whether ``model`` is of this family."""
        return isinstance(model, self.model_classes)

    @abstractmethod
    def stages(self, model: Any) -> list[list[Any]]:
        """List the blocks of ``model`` by stage, in order of depth."""

    def token_mergings(self, model: Any) -> list[Any]:
        """List the modules between stages, in order: each reads what the stage before it gives (B H W C)."""
        return []

    def classifier_names(self, model: Any) -> tuple[str, ...]:
        """Name the classification layers; two for a distilled model."""
        return ("head",)

    @abstractmethod
    def final_norms(self, model: Any) -> list[nn.Module]:
        """List the modules that may be norms behind the last block: first of all tokens, then of the pooled ones."""

    def run_final_norm_once(self, model: Any) -> None:  # noqa: B027 - most families have nothing to do
        """Keep the final norm out of gradient checkpointing, which would run it again from what the next forward left.

        For grafts on it that read more than its input. Nothing to do where it stands behind the blocks.
        """

    @abstractmethod
    def reads_class_token_only(self, model: Any) -> bool:
        """Tell whether the head sees nothing of the last block's output but the class (and distillation) token."""

    def prefix_tokens(self, model: Any) -> int:
        """Count the tokens that stand ahead of the patches behind the last block: class token, registers, prompts."""
        return 0

    def as_sequence(self, model: Any, features: Tensor) -> Tensor:
        """Return what ``forward_features`` gives, a map with channels last or a sequence, as tokens (B N D)."""
        return features if features.ndim == 3 else features.flatten(1, 2)

    def patch_projection(self, model: Any) -> Any:
        """Return the one convolution that embeds patches, None where a stem stands in its place."""
        return model.patch_embed.proj if isinstance(model.patch_embed, PatchEmbed) else None

    def conv_parts(self, model: Any) -> list[nn.Module]:
        """List the convolutional parts in front of and between the blocks; none in most families."""
        return []

    # A block

    def width(self, block: Any) -> int:
        """Return the channels of the residual stream at ``block``, behind its attention."""
        return block.attn.proj.out_features

    def input_width(self, block: Any) -> int:
        """Return the channels of the residual stream in front of ``block``: attention may widen it, pooling tokens."""
        return self.width(block)

    def heads(self, block: Any) -> int:
        """Return the number of heads of queries in ``block``."""
        return block.attn.num_heads

    def branches(self, block: Any, half: str) -> list[Branch]:
        """List the branches of the half ``attn`` or ``mlp`` of a block: one, or several side by side."""
        first = half == "attn"
        norm = block.norm1 if first else block.norm2
        layer, drop_path = (block.attn, block.drop_path1) if first else (block.mlp, block.drop_path2)
        return [Branch(norm if self.has_input_norms else nn.Identity(), layer, drop_path)]

    def landmarks(self, block: Any) -> list[Any]:
        """List the layers of a block whose weights tell this backbone from another (``record.fingerprint``)."""
        return [block.norm1, block.norm2, block.attn.proj]

    def enter(self, x: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the residual stream, and by name what else a block is given, out of the arguments of its forward."""
        return x, kwargs

    def between_halves(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        """Pass the residual stream ``x`` through what stands between attention and MLP, in most blocks nothing."""
        return x

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        """Compute the first half of a block: ``x + drop_path1(after_attn(attn(attn_input(x))))``."""
        return x + block.drop_path1(self.after_attn(block, block.attn(self.attn_input(block, x), **kwargs)))

    def mlp_half(self, block: Any, x: Tensor) -> Tensor:
        """Compute the second half of a block: ``x + drop_path2(after_mlp(mlp(mlp_input(x))))``."""
        return x + block.drop_path2(self.after_mlp(block, block.mlp(self.mlp_input(block, x))))

    def block_end(self, block: Any, x: Tensor, **kwargs: Any) -> Any:
        """Return what the block gives for the residual stream ``x`` behind both halves: ``x``, or a norm of it."""
        return x

    def attn_input(self, block: Any, x: Tensor) -> Tensor:
        """Return what attention reads of the residual stream ``x``."""
        return block.norm1(x) if self.has_input_norms else x

    def mlp_input(self, block: Any, x: Tensor) -> Tensor:
        """Return what the MLP reads of the residual stream ``x``."""
        return block.norm2(x) if self.has_input_norms else x

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        """Pass an attention output ``y`` through what follows it: LayerScale, or a norm behind attention."""
        return y if self.has_input_norms else block.norm1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        """Pass an MLP output ``y`` through what follows it: LayerScale, or a norm behind the MLP."""
        return y if self.has_input_norms else block.norm2(y)

    def norms(self, block: Any) -> list[Any]:
        """List the norms of the residual stream in a block."""
        return [block.norm1, block.norm2]

    def pads_windows(self, block: Any) -> bool:
        """Tell whether ``block`` fills its windows up with zeros in front of attention."""
        return False

    def linears(self, block: Any, target: str) -> list[nn.Linear]:
        """List the layers that ``target`` names: see ``blocks.linears``."""
        attn = block.attn
        if target in ("q", "k", "v", "qkv"):
            if not self.is_fused(attn):
                return [getattr(attn, f"{letter}_proj") for letter in target]
            if self.separate_bias(attn) is not None and not attn.qkv_bias_separate:
                # timm reads qkv.weight there without calling the layer: a graft on it would be skipped in silence.
                override(attn, qkv_bias_separate=True)
            return [attn.qkv]
        if target == "proj":
            return [attn.proj]
        if isinstance(block.mlp, SwiGLU):
            return [block.mlp.fc1_g, block.mlp.fc1_x] if target == "fc1" else [block.mlp.fc2]
        if isinstance(block.mlp, Mlp | GluMlp):
            return [getattr(block.mlp, target)]
        raise ValueError(f"cannot find {target} in an MLP of class {type(block.mlp).__name__}")

    def key_shift_cancels(self, attn: Any) -> bool:
        """Tell whether one constant on every key changes nothing.

        Softmax takes it out, unless keys are rotated or normalised.
        """
        return False

    @abstractmethod
    def side_block(self, block: Any, dim: int) -> nn.Module:
        """Make a pre-norm block of width ``dim`` for the tokens of ``block``: as many heads, 4 dim hidden channels."""

    def side_merging(self, dim: int, out_dim: int) -> nn.Module:
        """Make a linear map of the 2 x 2 neighbours of a map (B H W dim) to (B ⌈H/2⌉ ⌈W/2⌉ out_dim), no bias.

        Raises:
            TypeError: a family of one stage, which merges no tokens.
        """
        raise TypeError(f"{type(self).__name__} has one stage, between which and another no tokens are merged")

    # Attention

    def is_fused(self, attn: Any) -> bool:
        """Tell whether queries, keys and values come from one ``qkv`` layer."""
        return attn.qkv is not None

    def rows_by_head(self, attn: Any) -> int | None:
        """Return the number of heads whose q, k, v stand side by side in a fused layer; None: all of q come first."""
        return None

    def separate_bias(self, attn: Any) -> Tensor | None:
        """Return the bias (3 D) that is kept outside of a fused ``qkv`` layer, None where there is none."""
        return None

    def separate_biases(self, attn: Any) -> dict[str, Tensor]:
        """Return the parts of ``separate_bias`` by slice (q, k, v), as ``blocks.separate_biases`` does."""
        return {} if self.separate_bias(attn) is None else {letter: getattr(attn, f"{letter}_bias") for letter in "qkv"}

    def gate(self, attn: Any) -> nn.Linear | None:
        """Return the layer that reads the tokens to gate attention's output, None where there is none."""
        return None

    def key_value_heads(self, attn: Any) -> tuple[int, int]:
        """Return the number of heads of keys and values, and the channels of each."""
        return attn.num_heads, attn.qkv.out_features // 3 // attn.num_heads

    def project(self, attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values (B heads N head_dim) of tokens ``x`` (B N C), neither rotated nor scaled.

        The layers are called, never their weights read, so that a LoRA on them acts on everything that passes here.
        """
        qkv = attn.qkv(x)
        bias = self.separate_bias(attn)
        qkv = qkv if bias is None else qkv + bias
        q, k, v = qkv.unflatten(-1, (3, *self.key_value_heads(attn))).permute(2, 0, 3, 1, 4).unbind(0)
        return *self.norm_heads(attn, q, k), v

    def norm_heads(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Pass queries and keys (B heads N head_dim) through attention's norms of them, if it has any."""
        return q, k

    def scale_scores(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return queries, keys and the factor on their products that give attention's scores."""
        return q, k, attn.scale

    def rotate(self, attn: Any, t: Tensor, rope: Tensor) -> Tensor:
        """Turn queries or keys ``t`` (B heads N head_dim) by the rotary embedding ``rope`` of their patches."""
        return t

    @abstractmethod
    def attention_bias(self, attn: Any, q: Tensor, **kwargs: Any) -> Tensor | None:
        """Return the additive (or boolean) bias of the scores of ``q``, which broadcasts to (B heads N N), or None.

        ``kwargs`` are those that timm's blocks hand to this attention.
        """

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        """Compute what ``attn`` gives for ``x``, with ``extra`` keys and values: see ``attention.attend``."""
        B, N, _ = x.shape
        q, k, v = self.project(attn, x)
        if kwargs.get("rope") is not None:
            q, k = (self.rotate(attn, t, kwargs["rope"]).type_as(v) for t in (q, k))
        k = torch.cat([*(pair[0].expand(B, -1, -1, -1).type_as(k) for pair in extra), k], dim=2)
        v = torch.cat([*(pair[1].expand(B, -1, -1, -1).type_as(v) for pair in extra), v], dim=2)
        bias = self.attention_bias(attn, q, **kwargs)
        if bias is not None:
            shown = True if bias.dtype == torch.bool else self.bias_without_position
            bias = F.pad(bias, (k.shape[2] - N, 0), value=shown)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        q, k, scale = self.scale_scores(attn, q, k)
        dropout = attn.attn_drop.p if attn.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        y = self.attention_output(attn, x, y.transpose(1, 2).flatten(2))
        return attn.proj_drop(attn.proj(y))

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        """Turn the averaged values ``y`` (B N C) of tokens ``x`` (B N C) into what enters ``proj``."""
        return y


def cat_biases(attn: Any) -> Tensor:
    """Return q_bias, k_bias and v_bias of an attention that has them side by side (3 D)."""
    parts: list[Any] = [attn.q_bias, attn.k_bias, attn.v_bias]
    return torch.cat(parts)
