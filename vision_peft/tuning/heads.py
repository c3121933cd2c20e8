"""Classification heads: which kinds there are, putting one on a model, folding one into timm's linear layer."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning import graft, record
from vision_peft.tuning.attentive import AttentiveHead
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.few_bit_linear import FewBitLinear
from vision_peft.tuning.head_kinds import CLASS_MEAN, HeadOptions, MapHead, TokenHead, count_mlp_layers, read_head
from vision_peft.tuning.head_maps import check_maps, give_maps, map_classifier
from vision_peft.tuning.head_tokens import (
    ClassMeanLinear,
    check_class_and_mean,
    check_tokens,
    give_class_and_mean,
    give_tokens,
    take_tokens_back,
)
from vision_peft.tuning.map_heads import MapClassifier
from vision_peft.tuning.neighbours import NeighbourHead
from vision_peft.tuning.short_block import restore_last_block, shorten_last_block


def replace_head(model: Any, kind: str, num_classes: int, **options: Any) -> nn.Module:
    """Give ``model`` a new head of ``kind`` for ``num_classes``; ``detach`` puts the old one back.

    Args:
        model: a timm vision transformer.
        kind: ``linear``; ``batchnorm_linear`` for BatchNorm without affine parameters before it (the head of MAE's
            and AdaptFormer's main_image.py); ``vpt_linear`` for the linear layer of VPT's code, whose biases start at
            -log 99, so that with a sigmoid every class would start at 1 %; ``mlp-k`` for VPT's MLP-k: k linear layers,
            the k - 1 hidden ones as wide as the features and each followed by ReLU; ``bi_linear`` for a linear layer of
            1 bit a weight without a bias (the Bi-Head of PETL-ViT's binary_adapter), in adapter folders
            ``bi_linear_packed``, of which two numbers train; ``class_mean`` for a linear layer of the class token and
            the mean of the patch tokens side by side, as DINOv2's linear evaluation takes them. ``attentive`` for
            efficient probing and ``attentive_pooler`` for V-JEPA 2's classifier read tokens in place of pooled
            features, see ``attentive``; both also as ``adapter.json`` records them, with options: ``attentive
            queries=8``. ``seg_linear``, ``seg_multi``, ``seg_upernet`` and ``seg_pup`` read maps and answer for every
            place (B C h w), see ``map_heads``.
        num_classes: number of classes, at least 1.
        **options: of those that read tokens or maps: the fields of ``head_kinds.Attentive``, ``AttentivePooler``,
            ``MapLinear``, ``MapMulti``, ``MapPyramid`` or ``MapProgressive``.

    ``linear``, ``batchnorm_linear`` and ``class_mean`` start from weights of σ = 0.01 and zero biases, as linear
    probes of MAE and DINOv2 do: with small logits at the start the parts before the head learn sooner than with
    torch's default, which ``reset_classifier`` leaves. So does the last layer of ``mlp-k``; its hidden layers start as
    torch's. That k counts the last layer fits the totals of VPT's tables; ReLU is our reading, and any BatchNorm or
    dropout that its code has between the layers is left out. ``vpt_linear`` starts from kaiming_normal(fan_out) weights
    as VPT's code does.

    Raises:
        ValueError: another kind or option, no classes, a width that the head does not divide, or no class token for it.
    """
    head = read_head(kind, options)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    if isinstance(head, TokenHead):
        check_tokens(model, head)
    if isinstance(head, MapHead):
        check_maps(model, head)
    if head == CLASS_MEAN:
        check_class_and_mean(model)
    tuning = record.get_or_create_record(model)
    old = {name: model.get_submodule(name) for name in classifier_names(model)}
    if not tuning.replaced_head:
        tuning.replaced_head, tuning.num_classes = old, model.num_classes
    shortened = restore_last_block(model)
    take_tokens_back(model)
    model.reset_classifier(num_classes)
    like = next(model.parameters())
    for name in classifier_names(model):
        linear = model.get_submodule(name)
        created = create_head(model, kind, head, num_classes, linear, like)
        if created is not linear:
            model.set_submodule(name, created.train(model.training))
    if isinstance(head, TokenHead):
        give_tokens(model, head)
    if isinstance(head, MapHead):
        give_maps(model, head)
    if head == CLASS_MEAN:
        give_class_and_mean(model)
    if shortened or tuning.methods:
        shorten_last_block(model)
    return model


def create_head(
    model: Any, kind: str, head: str | HeadOptions, num_classes: int, linear: Any, like: Tensor
) -> nn.Module:
    """Create the head that ``replace_head`` puts in the place of timm's ``linear``, or give that start values.

    Args:
        model: whose features it reads.
        kind: as given to ``replace_head``.
        head: what ``read_head`` makes of it.
        num_classes: number of classes.
        linear: for so many classes, as timm makes it.
        like: tensor whose device and type a head with options takes.
    """
    if isinstance(head, MapHead):
        return map_classifier(model, head, num_classes).to(like)
    if isinstance(head, TokenHead):
        return AttentiveHead(model.num_features, num_classes, head).to(like)
    if isinstance(head, HeadOptions):
        return NeighbourHead(linear.in_features, num_classes, head).to(like.device)
    if kind.startswith("bi_linear"):
        quantised = FewBitLinear(linear.in_features, num_classes, bits=1).to(linear.weight)
        return quantised.pack() if kind == "bi_linear_packed" else quantised
    if head == CLASS_MEAN:
        linear = ClassMeanLinear(2 * linear.in_features, num_classes).to(linear.weight)
    if kind == "vpt_linear":
        nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        nn.init.constant_(linear.bias, -math.log(99))
    else:
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    before = _before(kind, linear.in_features)
    return nn.Sequential(*before, linear).to(linear.weight) if before else linear


def classifier_of(head: Any) -> nn.Module:
    """Return the part of a head that features (B D) enter: all of it, behind the pooling of an attentive one."""
    return head.classifier if isinstance(head, AttentiveHead) else head


def _before(kind: str, dim: int) -> list[nn.Module]:
    if kind == "batchnorm_linear":
        return [nn.BatchNorm1d(dim, affine=False, eps=1e-6)]
    return [layer for _ in range(count_mlp_layers(kind) - 1) for layer in (nn.Linear(dim, dim), nn.ReLU())]


@torch.no_grad()
def plain_head(head: Any) -> nn.Module:
    """``head`` as what timm has in its place: BatchNorm is folded into a copy of the linear layer behind it.

    Raises:
        ValueError: an MLP, a head of tokens, maps or neighbours, which no linear layer of pooled features equals, or
            one of the user's own.
    """
    if isinstance(head, AttentiveHead):
        raise ValueError(
            "cannot merge an attentive head, which reads tokens, into the one linear layer of a plain timm model: keep "
            "the adapter and use save_adapter / load_adapter"
        )
    if isinstance(head, MapClassifier):
        raise ValueError(
            "cannot merge a head for maps into the one linear layer of a plain timm model, behind its pooling: "
            "keep the adapter and use save_adapter / load_adapter"
        )
    if isinstance(head, ClassMeanLinear):
        raise ValueError(
            "cannot merge a head of the class token and the mean of the patches into the one linear layer of a plain "
            "timm model, which reads one of them: keep the adapter and use save_adapter / load_adapter"
        )
    if isinstance(head, NeighbourHead):
        raise ValueError("cannot merge the votes of neighbours into a linear layer: keep the adapter, which holds them")
    if isinstance(head, FewBitLinear):
        plain = nn.Linear(head.in_features, head.out_features).to(head.book)
        plain.weight.copy_(head.quantised())
        nn.init.zeros_(plain.bias)
        return plain
    if is_plain_layer(head):
        return head
    parts: list[Any] = list(head) if graft.plain_class(head) is nn.Sequential else []
    classes = [graft.plain_class(part) for part in parts]
    if classes == [nn.Linear, nn.ReLU] * (len(parts) // 2) + [nn.Linear]:
        raise ValueError(
            "cannot merge an MLP head into the one linear layer of a plain timm model: keep the adapter and use "
            "save_adapter / load_adapter"
        )
    known = classes == [nn.BatchNorm1d, nn.Linear] and not parts[0].affine and parts[0].track_running_stats
    if not known or parts[1].bias is None:
        inside = f"({', '.join(type(part).__name__ for part in parts)})" if parts else ""
        raise ValueError(
            f"cannot merge a head of your own making, {type(head).__name__}{inside}, into the one linear layer of a "
            "plain timm model: keep this model, and what it learned by vp.tuned_state_dict and vp.load_tuned"
        )
    batchnorm, last = parts
    linear: Any = copy.deepcopy(last)
    mean: Any = batchnorm.running_mean
    scale = (batchnorm.running_var + batchnorm.eps).rsqrt()
    linear.bias -= linear.weight @ (mean * scale)
    linear.weight *= scale
    return linear


def is_plain_layer(head: nn.Module) -> bool:
    """Tell whether a head is one layer of torch's or timm's, and computes what that class does."""
    cls = graft.plain_class(head)
    of_library = cls.__module__.startswith(("torch.nn.modules.", "timm."))
    return of_library and cls is not nn.Sequential and "forward" not in vars(head)
