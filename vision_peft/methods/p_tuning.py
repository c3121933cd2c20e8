"""P-Tuning (Liu et al., 2021, https://arxiv.org/abs/2103.10385).

P pseudo tokens join the sequence behind the prefix tokens, before the first block. An encoder over trained embeddings E
makes them, so that they depend on each other:

    x ← [prefix tokens; p; patches],  p = W₂ ReLU(W₁ BiLSTM(E))   or, without the LSTM,   p = W₂ ReLU(W₁ E)

The encoder's input never changes: ``bake`` and ``save_adapter`` keep p (P·D numbers) and drop it.

Source: THUDM/P-tuning@f4225d4 LAMA/p_tuning/prompt_encoder.py, PT-Fewshot/pet/wrapper.py. Deviations: the paper anchors
pseudo tokens in a sentence between words; attention over an image knows no order, so ``positions`` gives a token the
position of a patch, in the way in which this backbone encodes it (``tuning/token_positions.py``): a token with the
content of that patch acts as a copy of it. Its index in the sequence stays the same. The backbone stays frozen as in
the LAMA code; the few-shot code trains it too (stack ``FullFineTune``). That code's MLP encoder cannot run with more
than one token; here it does.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.blocks import blocks, width
from vision_peft.tuning.embed_samples import embed_samples
from vision_peft.tuning.families import flat_family_of
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.input_tokens import (
    INPUT_TOKENS,
    TOKEN_POSITIONS,
    PositionEmbeddings,
    add_prefix_tokens,
    prompt_insertion_module,
)
from vision_peft.tuning.method import Method, one_of, positive
from vision_peft.tuning.module_input import as_input
from vision_peft.tuning.needs import Need
from vision_peft.tuning.samples import SamplesNeeded
from vision_peft.tuning.token_positions import TokenPositions


class PromptEncoder(nn.Module):
    """The pseudo tokens (P D) from embeddings of the same shape; torch's initialisation, as in both codes."""

    def __init__(self, dim: int, method: "PTuning") -> None:
        super().__init__()
        self.embedding = nn.Embedding(method.tokens, dim)
        self.lstm: nn.LSTM | None = None
        features = dim
        if method.encoder == "lstm":
            hidden = dim if method.lstm_width == "full" else dim // 2
            features = 2 * hidden
            self.lstm = nn.LSTM(dim, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self) -> Tensor:
        embedded = as_input(self.embedding.weight)
        if self.lstm is not None:
            # not every CPU has an LSTM in bfloat16, and a few tokens cost nothing in fp32
            kind = embedded.device.type
            mixed = torch.amp.is_autocast_available(kind)
            with torch.autocast(kind, enabled=False) if mixed else nullcontext():
                embedded = self.lstm(embedded.unsqueeze(0))[0].squeeze(0)
        return self.mlp(embedded)


class PTuningInput(Graft):
    """Insert the pseudo tokens into the token sequence (B N D -> B N+P D) at index ``pseudo_at``.

    They join behind the module it is grafted onto, in front of it, or, with ``pseudo_side`` None, where the model calls
    ``join``.

    Pseudo tokens with positions join as soon as patches have theirs, so that whatever acts on these (the pre-norm, and
    what methods graft onto it, in any order) acts on both.
    """

    pseudo_tokens: nn.Parameter | PromptEncoder
    pseudo_positions: PositionEmbeddings | None
    pseudo_at: int
    pseudo_side: str | None

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(self.join(x) if self.pseudo_side == "front" else x)
        return self.join(x) if self.pseudo_side == "behind" else x

    def join(self, x: Tensor) -> Tensor:
        tokens = self._tokens()
        if self.pseudo_positions is not None:
            tokens = self.pseudo_positions(tokens)
        tokens = tokens.unsqueeze(0).type_as(x).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.pseudo_at], tokens, x[:, self.pseudo_at :]], dim=1)

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        return {"pseudo_tokens": self._tokens()} if isinstance(self.pseudo_tokens, PromptEncoder) else {}

    def _tokens(self) -> Tensor:
        return self.pseudo_tokens() if isinstance(self.pseudo_tokens, PromptEncoder) else self.pseudo_tokens


@dataclass(frozen=True)
class PTuning(Method):
    """Input tokens made by a small encoder that is dropped after training.

    At P = 10 on ViT-B the default trains 8,279,040 parameters and stores 7,680.
    """

    name: ClassVar[str] = "p_tuning"
    title: ClassVar[str] = "P-Tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    tokens: int = 10  # pseudo tokens P
    encoder: str = "lstm"  # "lstm": two-layer BiLSTM, then an MLP; "mlp"; "none": trained directly, as after baking
    lstm_width: str = "half"  # hidden channels per direction: "half" of the width (LAMA code) or "full" (few-shot code)
    # In the image: "start": no position; "end", "interleaved": those of the last patches, of patches spread evenly.
    positions: str = "start"
    # Of the embeddings: "random": N(0, 1); "patches": patches of ``samples``, placed tokens without their position.
    init: str = "random"

    def __post_init__(self) -> None:
        positive(tokens=self.tokens)
        one_of("encoder", self.encoder, ("lstm", "mlp", "none"))
        one_of("lstm_width", self.lstm_width, ("half", "full"))
        one_of("positions", self.positions, ("start", "end", "interleaved"))
        one_of("init", self.init, ("random", "patches"))

    @property
    def needs(self) -> tuple[Need, ...]:
        return (INPUT_TOKENS,) if self.positions == "start" else (INPUT_TOKENS, TOKEN_POSITIONS)

    @property
    def bake_before_compile(self) -> str | None:
        return "LSTM" if self.encoder == "lstm" else None

    @property
    def samples_needed(self) -> SamplesNeeded | None:
        return SamplesNeeded("to start its tokens from", per_class=1) if self.init == "patches" else None

    @classmethod
    def as_published(cls, few_shot: bool = False, **fields: Any) -> "PTuning":
        """Give the released LAMA code (the default), whose LSTM has half the width per direction.

        few_shot: the few-shot code, whose LSTM has the full width and whose backbone trains (stack ``FullFineTune``).
        """
        return cls(**{"lstm_width": "full" if few_shot else "half", **fields})

    def baked(self) -> "PTuning":
        return replace(self, encoder="none", init="random")

    def attach(self, model: nn.Module) -> None:
        dim = width(blocks(model)[0])
        if self.encoder == "lstm" and self.lstm_width == "half" and dim % 2:
            raise ValueError(f'lstm_width="half" needs an even width, this backbone has {dim}: give lstm_width="full"')
        positions = None if self.positions == "start" else TokenPositions(self.tokens, self.positions)
        at = add_prefix_tokens(model, self.tokens, positions)
        graft(
            prompt_insertion_module(model),
            PTuningInput,
            pseudo_tokens=(
                nn.Parameter(torch.randn(self.tokens, dim)) if self.encoder == "none" else PromptEncoder(dim, self)
            ),
            pseudo_positions=None if positions is None else PositionEmbeddings(model, positions),
            pseudo_at=at,
            pseudo_side="behind" if positions is None else flat_family_of(model).join_with_positions(model),
        )

    @torch.no_grad()
    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> None:
        if samples is None:
            return
        with_positions = self.positions == "start"  # others get those of the patches that they take
        drawn = embed_samples(model, samples, 1, with_positions=with_positions).patches
        drawn = drawn[torch.randperm(len(drawn))[torch.arange(self.tokens) % len(drawn)]]
        tokens: Any = prompt_insertion_module(model).pseudo_tokens
        (tokens.embedding.weight if isinstance(tokens, PromptEncoder) else tokens).copy_(drawn)
