"""P-Tuning v2 (Liu et al., ACL 2022, https://arxiv.org/abs/2110.07602).

Every block gets P learned keys and values in front of its own, for every query to see,

    K ← [K_prefix; K],  V ← [V_prefix; V],

trained directly, with dropout, under a classification head. It is Prefix-Tuning without its MLP, which ``hidden`` puts
back (prefix_projection in the code).

Source: THUDM/P-tuning-v2@b1520c9 model/prefix_encoder.py, model/sequence_classification.py (get_prompt). As published
the prefixes start from N(0, 1), the default of ``torch.nn.Embedding``. Deviations: none on flat backbones; see
``prefix_tuning.py`` for Swin and ``tuning/learned_key_values.py`` for rotary embeddings and norms of keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from vision_peft.tuning.attention import KEYS_VALUES
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.learned_key_values import attach_prefixes
from vision_peft.tuning.method import positive, probability
from vision_peft.tuning.needs import Need


@dataclass(frozen=True)
class PTuningV2(BlockMethod):
    """Learned keys and values in every block, trained directly."""

    name: ClassVar[str] = "p_tuning_v2"
    title: ClassVar[str] = "P-Tuning v2"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-1}

    tokens: int = 10  # prefixes P of every block
    hidden: int | None = None  # units of the projecting MLP, 512 in the code; None: none
    dropout: float = 0.1  # rate on keys and values, drawn per image; the code takes the backbone's 0.1
    std: float = 1.0  # of the normal distribution that direct keys and values start from

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(tokens=self.tokens, std=self.std)
        probability(dropout=self.dropout)
        if self.hidden is not None:
            positive(hidden=self.hidden)

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, KEYS_VALUES)

    def baked(self) -> "PTuningV2":
        return replace(self, hidden=None)

    def attach(self, model: nn.Module) -> None:
        chosen = self.chosen_blocks(model)
        attach_prefixes(chosen, self.tokens, hidden=self.hidden, dropout=self.dropout, std=self.std)
