"""Checkpoints of billpsomas/efficient-probing@b8f4fb8 (main_linprobe.py): a ViT and an attentive head on its tokens.

``head.0`` pools (``cls_token`` are the queries, ``v`` projects the values), ``head.1`` is BatchNorm without affine
parameters, ``head.2`` the classifier. The ViT of that code never calls its final norm, of which the file has tensors.
"""

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, no_leftovers, take
from vision_peft.tuning.head_kinds import Attentive, head_text

_BACKBONE = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm", "fc_norm")


def read(state: State, *, tokens: str = "patch", norm: bool = False) -> Foreign:
    """Map the official keys.

    Args:
        state: of the whole model, or of the head alone.
        tokens: what the head reads: patch (of ``ep``), or all (of ``ep_all``, the class token too).
        norm: whether behind the final norm, as with DINOv2's trunk; that code's own ViT leaves it out.

    Raises:
        ValueError: keys that are not of this code, or shapes that do not fit together.
    """
    state = dict(state)
    queries = take(state, "head.0.cls_token", 1, None, None)[0]
    count, dim = queries.shape
    value = take(state, "head.0.v.weight", None, dim)
    pooled = len(value)
    if dim % pooled:
        raise ValueError(f"head.0.v.weight gives {pooled} channels, which do not divide the width {dim}")
    bias = take(state, "head.2.bias", None)
    tuned = {
        "head.pool.queries": queries,
        "head.pool.value.weight": value,
        "head.classifier.0.running_mean": take(state, "head.1.running_mean", pooled),
        "head.classifier.0.running_var": take(state, "head.1.running_var", pooled),
        "head.classifier.0.num_batches_tracked": state.pop("head.1.num_batches_tracked"),
        "head.classifier.1.weight": take(state, "head.2.weight", len(bias), pooled),
        "head.classifier.1.bias": bias,
    }
    backbone = {name: state.pop(name) for name in list(state) if name.split(".")[0] in _BACKBONE}
    no_leftovers(state, "efficient-probing")
    kind = Attentive(queries=count, reduce=dim // pooled, tokens=tokens, norm=norm)
    return Foreign(backbone or None, None, tuned, head_text(kind))
