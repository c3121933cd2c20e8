"""Gradients over samples: the contrastive loss written out, sums over batches, a model that stays as it was."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import images, tiny

import vision_peft as vp
from vision_peft.tuning.sample_gradients import sum_gradients, supcon


def test_images_alone_in_their_class_are_no_anchors_and_without_pairs_there_is_no_loss():
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 2])
    u = F.normalize(z, dim=1)
    terms = []
    for anchor, other in ((0, 2), (2, 0)):
        rest = torch.tensor([(u[anchor] @ u[i]).div(0.1).exp() for i in range(4) if i != anchor]).sum()
        terms.append(-(u[anchor] @ u[other] / 0.1 - rest.log()))
    torch.testing.assert_close(supcon(z, labels, 0.1), torch.stack(terms).mean())
    with pytest.raises(ValueError, match="no two of these 4 share one"):
        supcon(z, torch.arange(4))


def test_under_a_head_that_reads_tokens_features_are_their_mean():
    model: Any = tiny("vit")
    batch = (images(model, 4), torch.tensor([0, 1, 0, 1]))
    vp.replace_head(model, "attentive", 5, queries=4)
    weight = model.blocks[0].attn.qkv.weight
    (found,) = sum_gradients(model, [weight], [batch], "supcon", 0.07)
    tokens = model.forward_head(model.forward_features(batch[0]), pre_logits=True)
    assert tokens.ndim == 3
    (wanted,) = torch.autograd.grad(supcon(tokens.mean(1), batch[1], 0.07), [weight])
    torch.testing.assert_close(found, wanted)


def test_summing_leaves_the_model_as_it_was_and_batches_add_up():
    model: Any = tiny("vit").train()
    model.pos_drop.p = 0.5
    model.requires_grad_(False)
    weights = [model.blocks[0].attn.qkv.weight, model.patch_embed.proj.weight]
    batches = [(images(model, 4, seed), torch.tensor([0, 1, 0, 1])) for seed in (1, 2)]
    apart = [sum_gradients(model, weights, [batch], "supcon", 0.07) for batch in batches]
    whole = sum_gradients(model, weights, batches, "supcon", 0.07)
    for first, second, total in zip(*apart, whole, strict=True):
        torch.testing.assert_close(first + second, total)
    assert model.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    logits = sum_gradients(model, weights, batches[:1], "cross_entropy", 0.07)
    model.eval().requires_grad_(True)
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    torch.testing.assert_close(logits[0], weights[0].grad)
