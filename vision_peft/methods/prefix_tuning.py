"""Prefix-Tuning (Li and Liang, ACL 2021, https://arxiv.org/abs/2101.00190).

Every block gets P learned keys and values in front of its own, for every query to see:

    K ← [K_prefix; K],  V ← [V_prefix; V],  [K_prefix, V_prefix] of all blocks = W₂ tanh(W₁ E),  E: P learned embeddings

The MLP only helps training: ``bake`` and ``save_adapter`` keep the keys and values that it makes and drop it.

Source: XiangLi1999/PrefixTuning@6519d30 gpt2/train_control.py (control_trans), which the default follows.
Deviations: none on flat backbones. On Swin, E has the width of the first stage and W₂ serves blocks of every width.
Keys neither pass the norm of keys nor a rotary embedding, which GPT-2 does not have (see
``tuning/learned_key_values.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from vision_peft.tuning.attention import KEYS_VALUES
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.learned_key_values import attach_prefixes
from vision_peft.tuning.method import positive, probability
from vision_peft.tuning.needs import Need


@dataclass(frozen=True)
class PrefixTuning(BlockMethod):
    """Learned keys and values in every block, trained through a Tanh MLP.

    At P = 10 on ViT-B the default trains 9,857,024 parameters and stores 184,320.
    """

    name: ClassVar[str] = "prefix_tuning"
    title: ClassVar[str] = "Prefix-Tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-3}

    tokens: int = 10  # prefixes P of every block
    hidden: int | None = 512  # units of the MLP; None: keys and values are trained directly, from N(0, 1)
    deep: bool = False  # a second hidden layer of the MLP
    embedding: int | None = None  # channels of E; None: as many as the backbone has
    dropout: float = 0.0  # rate on keys and values, drawn per image

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(tokens=self.tokens)
        probability(dropout=self.dropout)
        if self.hidden is not None:
            positive(hidden=self.hidden)
        elif self.deep:
            raise ValueError(
                "deep=True adds a layer to the MLP, which hidden=None leaves out: give hidden or deep=False"
            )
        elif self.embedding is not None:
            raise ValueError(
                f"the MLP reads E, and hidden=None leaves the MLP out: give hidden or no embedding={self.embedding}"
            )
        if self.embedding is not None:
            positive(embedding=self.embedding)

    @classmethod
    def as_published(cls, **fields: Any) -> "PrefixTuning":
        """Give the released code: E is as wide as the backbone (the default)."""
        return cls(**fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "PrefixTuning":
        """Give the paper: E is narrower than the backbone, 512 channels (its 512 or 800; from memory)."""
        return cls(**{"embedding": 512, **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, KEYS_VALUES)

    def baked(self) -> "PrefixTuning":
        return replace(self, hidden=None, deep=False, embedding=None)

    def attach(self, model: nn.Module) -> None:
        chosen = self.chosen_blocks(model)
        attach_prefixes(
            chosen, self.tokens, hidden=self.hidden, embedding=self.embedding, deep=self.deep, dropout=self.dropout
        )
