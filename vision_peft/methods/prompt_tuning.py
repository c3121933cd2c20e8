"""Prompt Tuning (Lester et al., EMNLP 2021, https://arxiv.org/abs/2104.08691).

P learned tokens join the sequence behind the prefix tokens, before the first block:

    x ← [prefix tokens; p; patches]

With ``ensemble=N`` the same images run with N prompts of the same task in one batch under one head. In training the
output holds the logits of every prompt, (N·B, C), all images with the first prompt first; in eval mode it is (B, C).

Source: google-research/prompt-tuning prompts.py; the ensemble from the paper's section 6. Carried over to images: the
vocabulary is the patch tokens that enter the first block, a label's embedding their mean over some images of its class.
More classes than tokens: the first classes; fewer: the rest are patch tokens drawn at random; a class with fewer
images than the ensemble has prompts starts some of them only. Random prompts start from U(-0.5, 0.5), as the paper's
do (from memory).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vision_peft.tuning.blocks import blocks, width
from vision_peft.tuning.embed_samples import embed_samples
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.input_tokens import INPUT_TOKENS, add_prefix_tokens, prompt_insertion_module
from vision_peft.tuning.method import Method, one_of, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.samples import SamplesNeeded


class PromptTuningInput(Graft):
    """Puts the prompts (N P D) into the token sequence (B M D -> N·B M+P D) at index ``soft_prompts_at``."""

    soft_prompts: nn.Parameter
    soft_prompts_at: int

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        prompts = self.soft_prompts.type_as(x).repeat_interleave(x.shape[0], dim=0)
        x = x.repeat(self.soft_prompts.shape[0], 1, 1)
        return torch.cat([x[:, : self.soft_prompts_at], prompts, x[:, self.soft_prompts_at :]], dim=1)


class Vote(nn.Module):
    """Logits (N·B C) of N prompts: as they are in training, else the scores (B C), log-probabilities, of their vote."""

    def __init__(self, ensemble: int, kind: str) -> None:
        super().__init__()
        self.ensemble, self.kind = ensemble, kind

    def forward(self, logits: Tensor) -> Tensor:
        if self.training:
            return logits
        members = logits.unflatten(0, (self.ensemble, -1)).log_softmax(-1)
        mean = members.logsumexp(0) - math.log(self.ensemble)
        if self.kind == "mean":
            return mean
        votes = nn.functional.one_hot(members.argmax(-1), members.shape[-1]).sum(0)
        return ((votes + mean.exp()) / (self.ensemble + 1)).log()  # at a tie the mean probability decides


class PromptEnsemble(Graft):
    """The whole model: its logits pass the vote; without a classifier the features of all prompts are averaged."""

    token_wise = True
    prompt_vote: Vote
    num_classes: int

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y = super().forward(*args, **kwargs)
        if self.num_classes:
            return self.prompt_vote(y)
        return y if self.prompt_vote.training else y.unflatten(0, (self.prompt_vote.ensemble, -1)).mean(0)

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """timm's, as sequences (N·B L C): its maps have a row for every image, which N prompts would be mixed into."""
        if (args[4] if len(args) > 4 else kwargs.get("output_fmt", "NCHW")) != "NLC":
            raise ValueError(
                f"intermediates of an ensemble of {self.prompt_vote.ensemble} prompts are sequences, "
                f"{self.prompt_vote.ensemble} for every image: pass output_fmt='NLC'"
            )
        return super().forward_intermediates(x, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class PromptTuning(Method):
    """Learned tokens at the input, started at random or from the classes, alone or as an ensemble of prompts."""

    name: ClassVar[str] = "prompt_tuning"
    title: ClassVar[str] = "Prompt Tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-2}

    tokens: int = 20  # prompt tokens P
    init: str = "random"  # "random"; "class_labels": mean patch tokens of ``samples``; "file": rows of ``init_file``
    init_file: str | None = None  # safetensors with one tensor (classes, width), say text means; the rest stays random
    images_per_class: int = 8  # images behind a class mean, for each prompt of the ensemble
    ensemble: int = 1  # prompts N of the one task
    vote: str = "mean"  # of the ensemble: "mean" (log of the mean probability) or "majority"

    def __post_init__(self) -> None:
        positive(tokens=self.tokens, images_per_class=self.images_per_class, ensemble=self.ensemble)
        one_of("init", self.init, ("random", "class_labels", "file"))
        one_of("vote", self.vote, ("mean", "majority"))
        if (self.init == "file") != (self.init_file is not None):
            raise ValueError(
                f'init="file" and init_file go together; got init={self.init!r}, init_file={self.init_file!r}'
            )
        if self.init == "file" and self.ensemble > 1:
            raise ValueError(
                f"an ensemble started from one file would stay {self.ensemble} equal prompts: wanted ensemble=1"
            )

    @classmethod
    def as_published(cls, **fields: Any) -> "PromptTuning":
        """Give the released code: one prompt, without ensembles (the default)."""
        return cls(**fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "PromptTuning":
        """Give the paper: the prompts of an ensemble vote by majority (from memory), not by their mean probability."""
        return cls(**{"vote": "majority", **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (INPUT_TOKENS,)

    @property
    def samples_needed(self) -> SamplesNeeded | None:
        if self.init != "class_labels":
            return None
        return SamplesNeeded("to start its prompts from", per_class=self.images_per_class * self.ensemble)

    def attach(self, model: nn.Module) -> None:
        at = add_prefix_tokens(model, self.tokens)
        prompts = torch.empty(self.ensemble, self.tokens, width(blocks(model)[0])).uniform_(-0.5, 0.5)
        graft(prompt_insertion_module(model), PromptTuningInput, soft_prompts=nn.Parameter(prompts), soft_prompts_at=at)
        if self.ensemble > 1:
            graft(model, PromptEnsemble, prompt_vote=Vote(self.ensemble, self.vote))

    @torch.no_grad()
    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> None:
        prompts: Any = prompt_insertion_module(model).soft_prompts
        if self.init_file is not None:
            rows = _read_rows(Path(self.init_file), prompts.shape[-1])[: self.tokens]
            prompts[0, : len(rows)] = rows.to(prompts)
        if samples is None:
            return
        found = embed_samples(model, samples, self.images_per_class * self.ensemble)
        for member, prompt in enumerate(prompts):
            own = [means[member :: self.ensemble] for means in found.means.values()]
            rows = [means.mean(0) for means in own if len(means)]
            rest = found.patches[torch.randperm(len(found.patches))[torch.arange(self.tokens) % len(found.patches)]]
            prompt.copy_(torch.cat([torch.stack(rows), rest] if rows else [rest])[: self.tokens])


def _read_rows(path: Path, dim: int) -> Tensor:
    """Read the one tensor (rows, ``dim``) of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"init_file {path} is not a file: wanted a safetensors file with one tensor (classes, {dim})"
        )
    try:
        tensors = list(safetensors.torch.load_file(path).values())
    except SafetensorError as error:
        raise ValueError(f"init_file {path} cannot be read as safetensors: {error}") from None
    if len(tensors) != 1 or tensors[0].ndim != 2 or tensors[0].shape[1] != dim or not tensors[0].isfinite().all():
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(
            f"init_file {path}: wanted one finite tensor (classes, {dim}), as wide as the backbone; got {shapes}"
        )
    return tensors[0]
