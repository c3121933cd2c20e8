"""The questions that methods ask about the attention of a timm architecture; ``family.Family`` holds the others."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.graft import override


class AttentionFamily(ABC):
    """Attention layers are handed in. The defaults are softmax attention with one ``qkv`` layer."""

    attention_classes: ClassVar[tuple[type[nn.Module], ...]]  # those that extra keys and values can join
    bias_without_position: ClassVar[float] = 0.0  # of the scores of keys that stand nowhere in the image
    attention_takes_frames: ClassVar[bool]  # no position bias of the image: attention can also run over frames

    def attention_linears(self, attn: Any, target: str) -> list[nn.Linear]:
        """List the layers of an attention that ``target`` names."""
        if target == "proj":
            return [attn.proj]
        if not self.is_fused(attn):
            return [getattr(attn, f"{letter}_proj") for letter in target]
        if self.separate_bias(attn) is not None and not attn.qkv_bias_separate:
            # timm reads qkv.weight there without calling the layer: a graft on it would be skipped in silence.
            override(attn, qkv_bias_separate=True)
        return [attn.qkv]

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

    def project_first(self, attn: Any, x: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Do as ``project``, with queries of the first ``queries`` tokens alone (B heads queries head_dim).

        A fused layer that nothing is grafted onto makes no others, nor does one whose graft can do so
        (``forward_first``); any other one makes all, of which these are taken.
        """
        qkv: Any = attn.qkv
        heads, head_dim = self.key_value_heads(attn)
        if type(qkv) is not nn.Linear or qkv._forward_hooks or qkv._forward_pre_hooks:
            cut_output: Any = getattr(qkv, "forward_first", None) if self.separate_bias(attn) is None else None
            cut = None if cut_output is None else cut_output(x, queries, heads * head_dim)
            if cut is None:
                q, k, v = self.project(attn, x)
                return q[:, :, :queries], k, v
            q = cut[0].unflatten(-1, (heads, head_dim)).transpose(1, 2)
            k, v = cut[1].unflatten(-1, (2, heads, head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
            return *self.norm_heads(attn, q, k), v
        parts = [heads * head_dim, 2 * heads * head_dim]
        biases = [bias for bias in (qkv.bias, self.separate_bias(attn)) if bias is not None]
        of_q, of_kv = sum(biases[1:], biases[0]).split(parts) if biases else (None, None)
        to_q, to_kv = qkv.weight.split(parts)
        q = F.linear(x[:, :queries], to_q, of_q).unflatten(-1, (heads, head_dim)).transpose(1, 2)
        k, v = F.linear(x, to_kv, of_kv).unflatten(-1, (2, heads, head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
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

    def attend(
        self,
        attn: Any,
        x: Tensor,
        extra: list[tuple[Tensor, Tensor]],
        *args: Any,
        queries: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute what ``attn`` gives for ``x``, with ``extra`` keys and values: see ``attention.attend``."""
        B, N, _ = x.shape
        q, k, v = self.project(attn, x) if queries is None else self.project_first(attn, x, queries)
        if kwargs.get("rope") is not None:
            k = self.rotate(attn, k, kwargs["rope"]).type_as(v)
            q = (self.rotate(attn, q, kwargs["rope"]) if queries is None else q).type_as(v)  # prefix tokens do not turn
        bias = self.attention_bias(attn, q if queries is None else k, **kwargs)
        if extra:
            q = q.contiguous()  # a view would keep all of q, k, v in memory, beside the longer k and v
            k = torch.cat([*(pair[0].expand(B, -1, -1, -1).type_as(k) for pair in extra), k], dim=2)
            v = torch.cat([*(pair[1].expand(B, -1, -1, -1).type_as(v) for pair in extra), v], dim=2)
        if bias is not None:
            bias = bias if queries is None else bias[..., :queries, :]
            shown = True if bias.dtype == torch.bool else self.bias_without_position
            bias = F.pad(bias, (k.shape[2] - N, 0), value=shown)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        y = self.mix_values(attn, q, k, v, bias)
        y = self.attention_output(attn, x[:, :queries], y.transpose(1, 2).flatten(2))
        return attn.proj_drop(attn.proj(y))

    def mix_values(self, attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Average values ``v`` (B heads M C) by the scores of queries (B heads N C) and keys (B heads M C), biased.

        Returns:
            B heads N C.
        """
        q, k, scale = self.scale_scores(attn, q, k)
        dropout = attn.attn_drop.p if attn.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        """Turn the averaged values ``y`` (B N C) of tokens ``x`` (B N C) into what enters ``proj``."""
        return y

    def key_shift_cancels(self, attn: Any) -> bool:
        """Tell whether one constant on every key changes nothing.

        Softmax takes it out, unless keys are rotated or normalised.
        """
        return False


def cat_biases(attn: Any) -> Tensor:
    """Return q_bias, k_bias and v_bias of an attention that has them side by side (3 D)."""
    parts: list[Any] = [attn.q_bias, attn.k_bias, attn.v_bias]
    return torch.cat(parts)
