"""The directions in which the inputs of linear layers vary most, and ranks by how much each explains.

EVA (Paischer et al., NeurIPS 2025, https://arxiv.org/abs/2410.07170) starts A of a LoRA from the top right-singular
vectors of the mean-centred inputs of its layer, B from zero. The budget, the sum of all ranks, is shared out anew: the
explained-variance ratios λ_i / Σ λ of all layers are ranked together, and the best of them win, at most ρ times its own
rank for a layer. A layer that wins none is left out.

Source: HF peft 0.21 tuners/lora/eva.py. Deviation: it goes on over the batches with an incremental SVD until components
settle; here the covariance of all samples is summed up and decomposed once, which gives the limit of that.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vision_peft.tuning.linear_sites import Site


class Directions(NamedTuple):
    """Principal directions of a layer's inputs, the strongest first."""

    vectors: Tensor  # (count, in), orthonormal rows; the largest entry of each is positive
    shares: Tensor  # (count), of the whole variance


@torch.no_grad()
def measure_inputs(model: nn.Module, layers: Mapping[nn.Module, int], batches: Iterable[Any]) -> list[Directions]:
    """Measure what ``layers`` read while ``model``, in eval mode, sees the images of all ``batches``.

    Args:
        model: of images or clips.
        layers: linear layers of it, each with the number of directions that are wanted of its inputs.
        batches: (images, labels) and whatever else a loader adds; labels are not used.

    Raises:
        ValueError: no batches, or batches of another kind; too few tokens for so many directions; inputs that are not
            finite.
    """
    sums = {layer: _Sums() for layer in layers}
    handles = [layer.register_forward_pre_hook(sums[layer]) for layer in layers]
    like, modes = next(model.parameters()), {module: module.training for module in model.modules()}
    seen = 0
    try:
        model.eval()
        for batch in batches:
            if not isinstance(batch, tuple | list) or not batch or not isinstance(batch[0], Tensor):
                raise ValueError(f"samples must be batches of (images, labels) tensors; got {type(batch).__name__}")
            model(batch[0].to(like))
            seen += len(batch[0])
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    names = {module: name for name, module in model.named_modules()}
    return [sums[layer].decompose(count, f"{names[layer]} reads of {seen} images") for layer, count in layers.items()]


class _Sums:
    """Sums over the inputs (... in) of a layer, which calls it as a hook."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].flatten(0, -2)
        x = x.double() if x.device.type in ("cpu", "cuda") else x.float()  # others may have no double
        self.count += len(x)
        self.mean = self.mean.to(x) + x.sum(0)
        self.squares = self.squares.to(x) + x.T @ x

    def decompose(self, count: int, what: str) -> Directions:
        if self.count <= count:
            raise ValueError(
                f"{count} directions need at least {count + 1} tokens; {what} are {self.count}: more samples"
            )
        mean = self.mean / self.count
        covariance = self.squares / self.count - torch.outer(mean, mean)
        if not covariance.isfinite().all():
            raise ValueError(f"what {what} is not finite")
        values, vectors = torch.linalg.eigh(covariance)
        vectors = vectors.T.flip(0)[:count]
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        shares = values.flip(0)[:count].clamp_min(0) / values.clamp_min(0).sum().clamp_min(1e-30)
        return Directions((vectors * largest.sign()).float(), shares.float())


def redistribute_ranks(ranks: Collection[int], shares: Collection[Tensor]) -> list[int]:
    """Give the budget, the sum of ``ranks``, to the largest of all ``shares``; the number that each layer gets.

    Among equal shares those of the first layer win.
    """
    every = torch.cat(list(shares)).cpu()
    owners = torch.cat([torch.full((len(own),), i) for i, own in enumerate(shares)])
    best = every.argsort(descending=True, stable=True)[: sum(ranks)]
    return owners[best].bincount(minlength=len(ranks)).tolist()


def choose_directions(
    model: nn.Module, sites: Mapping[Site, int], rho: float, batches: Iterable[Any]
) -> dict[Site, Tensor]:
    """Choose the directions (rank, in) that each site starts from, with ranks shared out anew.

    Args:
        model: with all updates attached.
        sites: with their ranks, the sum of which is the budget.
        rho: a site gets at most so many times its rank.
        batches: as of ``measure_inputs``.

    Raises:
        ValueError: as of ``measure_inputs``; one of the sites is a convolution.
    """
    if kernels := [site.name for site in sites if not isinstance(site.layers[0], nn.Linear)]:
        raise ValueError(f'init="eva" reads tokens; {kernels[0]} is a convolution: take another init')
    limits = {site: min(round(rank * rho), site.full_rank) for site, rank in sites.items()}
    wanted: dict[nn.Module, int] = {}
    for site, limit in limits.items():
        wanted[site.layers[0]] = max(limit, wanted.get(site.layers[0], 0))
    found = dict(zip(wanted, measure_inputs(model, wanted, batches), strict=True))
    shares = [found[site.layers[0]].shares[:limit] for site, limit in limits.items()]
    ranks = redistribute_ranks(sites.values(), shares)
    return {site: found[site.layers[0]].vectors[:rank] for site, rank in zip(sites, ranks, strict=True)}
