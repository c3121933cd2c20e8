"""The questions that methods ask of a timm architecture. A family answers them in one file of this folder.

Written against timm 1.0.31. The blocks of every family name their parts alike (``norm1``, ``attn`` with ``proj``,
``drop_path1``, ``norm2``, ``mlp``, ``drop_path2``), and so does every model (``patch_embed``, ``num_features``); these
names are used as they are. Whatever differs from family to family is asked here.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from timm.layers import PatchEmbed
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from vision_peft.tuning.families.attention_family import AttentionFamily
from vision_peft.tuning.graft import OutputGraft

Run = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]  # a way of calling a function of tokens


@dataclass(frozen=True)
class Branch:
    """One of the ways beside the residual stream of a block: what it passes, in order."""

    norm: nn.Module  # in front of the layer, an Identity in a post-norm block
    layer: Any  # attention or an MLP
    drop_path: Any  # the last module before it joins the stream


class Family(AttentionFamily):
    """One timm architecture, without state: models, blocks and attention layers are handed in.

    The defaults are those of a pre-norm block with softmax attention whose queries, keys and values come from one
    ``qkv`` layer. A concrete family is final, or the base of one that differs from it in the blocks alone.
    """

    examples: ClassVar[str]  # models that users know, for messages
    model_classes: ClassVar[tuple[type[nn.Module], ...]]
    block_classes: ClassVar[tuple[type[nn.Module], ...]]
    has_input_norms: ClassVar[bool] = True  # norm1 and norm2 stand in front of attention and MLP, else behind them
    norm_follows_blocks: ClassVar[bool] = True  # the norm of all tokens reads what the last block gives
    has_side_blocks: ClassVar[bool] = True  # ``side_block`` makes one
    has_grid: ClassVar[bool] = True  # the patches of a block form one grid, in its order
    norms_maps: ClassVar[bool] = True  # timm's forward_intermediates can norm the maps that it gives
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

    def map_norms(self, model: Any) -> list[nn.Module]:
        """List the norms behind what ``forward_intermediates`` gives: of all maps in a flat model, else of the last."""
        return self.final_norms(model)[1:] if self.norms_maps else self.final_norms(model)

    def run_final_norm_once(self, model: Any) -> None:
        """Keep the final norm out of gradient checkpointing, which would run it again from what the next forward left.

        For grafts on it that read more than its input. Nothing to do where it stands behind the blocks.
        """

    @abstractmethod
    def reads_class_token_only(self, model: Any) -> bool:
        """Tell whether the head sees nothing of the last block's output but the class (and distillation) token."""

    def read_tokens(self, model: Any) -> int | None:
        """Count the tokens, from the first on, that the head reads of the last block's output; None: all of them."""
        return None

    def prefix_tokens(self, model: Any) -> int:
        """Count the tokens that stand ahead of the patches behind the last block: class token, registers, prompts."""
        return 0

    def as_sequence(self, model: Any, features: Tensor) -> Tensor:
        """Return what ``forward_features`` gives, a map with channels last or a sequence, as tokens (B N D)."""
        return features if features.ndim == 3 else features.flatten(1, 2)

    def patch_embedding(self, model: Any) -> Any:
        """Return the module that makes tokens of an image, None where a stem of convolutions does."""
        return getattr(model, "patch_embed", None)

    def patch_projection(self, model: Any) -> Any:
        """Return the layer of the patch embedding whose output the tokens are, up to a norm.

        A convolution, a linear layer, or the last of a stem; None where there is no such layer.
        """
        embedding = self.patch_embedding(model)
        return embedding.proj if isinstance(embedding, PatchEmbed) else None

    def patch_norm(self, model: Any) -> nn.Module:
        """Return the norm behind ``patch_projection``, an Identity where there is none."""
        return getattr(self.patch_embedding(model), "norm", nn.Identity())

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
        norm, layer = (block.norm1, block.attn) if half == "attn" else (block.norm2, block.mlp)
        return [Branch(norm if self.has_input_norms else nn.Identity(), layer, self.drop_path(block, half))]

    def drop_path(self, block: Any, half: str) -> nn.Module:
        """Return the drop-path of the half ``attn`` or ``mlp`` of a block with one branch a half."""
        return block.drop_path1 if half == "attn" else block.drop_path2

    def shares_drop_path(self, block: Any) -> bool:
        """Tell whether timm has one drop-path for both halves of ``block``."""
        return False

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
        """Compute the first half of a block: ``x + drop_path1(after_attn(attn(attn_input(x))))``.

        With ``queries`` among ``kwargs`` it gives the first so many tokens alone, see ``short_block``.
        """
        y = self.after_attn(block, block.attn(self.attn_input(block, x), **kwargs))
        return _add(first_tokens(x, **kwargs), self.drop_path(block, "attn"), y)

    def mlp_half(self, block: Any, x: Tensor, run: Run | None = None) -> Tensor:
        """Compute the second half of a block: ``x + drop_path2(after_mlp(mlp(mlp_input(x))))``.

        ``run(function, x)`` calls what stands in front of the drop-path, to keep less of it for the backward pass.
        """

        def transform(x: Tensor) -> Tensor:
            return self.after_mlp(block, block.mlp(self.mlp_input(block, x)))

        return _add(x, self.drop_path(block, "mlp"), transform(x) if run is None else run(transform, x))

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
        half, find = ("mlp", self.mlp_linears) if target in ("fc1", "fc2") else ("attn", self.attention_linears)
        return [linear for branch in self.branches(block, half) for linear in find(branch.layer, target)]

    def mlp_linears(self, mlp: Any, target: str) -> list[nn.Linear]:
        """List the first (``fc1``) or second layers of an MLP.

        Raises:
            ValueError: an MLP of a class that is not known.
        """
        if isinstance(mlp, SwiGLU):
            return [mlp.fc1_g, mlp.fc1_x] if target == "fc1" else [mlp.fc2]
        if isinstance(mlp, Mlp | GluMlp):
            return [getattr(mlp, target)]
        raise ValueError(f"cannot find {target} in an MLP of class {type(mlp).__name__}")

    def norm_read(self, branch: Branch) -> nn.Module:
        """Return the norm whose output the first layers of a branch read: some MLPs begin with one of their own."""
        return branch.norm

    @abstractmethod
    def side_block(self, block: Any, dim: int) -> nn.Module:
        """Make a pre-norm block of width ``dim`` for the tokens of ``block``: as many heads, 4 dim hidden channels."""

    def side_merging(self, dim: int, out_dim: int) -> nn.Module:
        """Make a linear map of the 2 x 2 neighbours of a map (B H W dim) to (B ⌈H/2⌉ ⌈W/2⌉ out_dim), no bias.

        Raises:
            TypeError: a family of one stage, which merges no tokens.
        """
        raise TypeError(f"{type(self).__name__} has one stage, between which and another no tokens are merged")


def first_tokens(x: Tensor, queries: int | None = None, **kwargs: Any) -> Tensor:
    """Return the tokens of ``x`` (B N C) that attention was asked for: the first ``queries``, else all."""
    return x if queries is None else x[:, :queries]


def _add(x: Tensor, drop_path: nn.Module, y: Tensor) -> Tensor:
    return drop_path.add_to(x, y) if isinstance(drop_path, OutputGraft) else x + drop_path(y)
