"""Gradients of weights over images, before anything trains: which weights a task would change most."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = ("supcon", "cross_entropy")


def sum_gradients(
    model: Any, weights: Sequence[nn.Parameter], batches: Iterable[Any], loss: str, temperature: float
) -> list[Tensor]:
    """Sum the gradient of the mean loss of every batch over one pass of ``batches``, in eval mode.

    Args:
        model: a timm vision transformer.
        weights: parameters, trained or frozen, which stay as they are.
        batches: (images B C H W, labels B) and whatever else a loader adds.
        loss: "supcon", of the features that the head reads (where it reads tokens, of their mean), or "cross_entropy",
            of the logits.
        temperature: of the contrastive loss.

    Returns:
        The sums, as ``weights``; of zeros where no output depends on one.

    Raises:
        ValueError: no batches, batches of another kind, or a loss that these images do not have.
    """
    like, modes = weights[0], {module: module.training for module in model.modules()}
    flags = [weight.requires_grad for weight in weights]
    sums = [torch.zeros_like(weight, memory_format=torch.contiguous_format) for weight in weights]
    seen = False
    try:
        model.eval()
        for weight in weights:
            weight.requires_grad_(True)
        for images, labels in map(_check, batches):
            with torch.enable_grad():
                value = _compute_loss(model, images.to(like), labels.to(like.device), loss, temperature)
                found = torch.autograd.grad(value, weights, allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient
            seen = True
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode
    if not seen:
        raise ValueError("samples hold no batch: wanted a loader over images of every class")
    return sums


def supcon(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, https://arxiv.org/abs/2004.11362), L_out.

        mean over anchors i of  -1/|P(i)| Σ_{p in P(i)} log( exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ) )

    z are the ``features`` (B D) at length 1, P(i) the other rows with the label of i: another image of the class or
    another view of the same. Rows that are alone with their label are no anchors.

    Raises:
        ValueError: no two rows share a label.
    """
    z = F.normalize(features, dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    scores = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    log_p = scores - scores.logsumexp(1, keepdim=True)
    positive = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
    count = positive.sum(1)
    if not count.any():
        raise ValueError(
            f"the contrastive loss compares images of one class, and no two of these {len(z)} share one: give larger, "
            "shuffled batches, or every image twice, augmented"
        )
    mean = log_p.masked_fill(~positive, 0).sum(1) / count.clamp_min(1)
    return -mean[count > 0].mean()


def _compute_loss(model: Any, images: Tensor, labels: Tensor, loss: str, temperature: float) -> Tensor:
    if loss == "supcon":
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        return supcon(features if features.ndim == 2 else features.mean(1), labels, temperature)
    logits = model(images)
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"samples have the label {int(labels.max())}, the head {logits.shape[1]} classes")
    return F.cross_entropy(logits, labels)


def _check(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not all(isinstance(t, Tensor) for t in batch[:2]):
        raise ValueError(f"samples must be batches of (images, labels) tensors; got {type(batch).__name__}")
    images, labels = batch[:2]
    return images, labels
