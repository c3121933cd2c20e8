"""Checkpoints of dongzelian/SSF@e94e0e7 (models/vision_transformer.py): timm's keys plus one scale and shift a site.

They hold the whole model. Where it pools on average, the file has ``fc_norm`` in place of ``norm``, and the last pair
acts before pooling, where no norm is.
"""

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, split_head
from vision_peft.methods.ssf import SSF

# Owner of a pair in the file, its number there -> the layer whose output it scales
_IN_BLOCK = {
    ("", 1): "norm1",
    ("", 2): "norm2",
    ("attn.", 1): "attn.qkv",
    ("attn.", 2): "attn.proj",
    ("mlp.", 1): "mlp.fc1",
    ("mlp.", 2): "mlp.fc2",
}
_OUTSIDE = {("patch_embed.", 1): "patch_embed.proj", ("", 1): "norm"}
_BACKBONE = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm", "fc_norm")


def read(state: State) -> Foreign:
    """Map the official keys of a ViT.

    Raises:
        ValueError: keys that are not of this code, or a site without its pair.
    """
    state = dict(state)
    tuned, head = split_head(state)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    sites = dict(_OUTSIDE)
    for i in block_numbers(state, "blocks."):
        sites |= {(f"blocks.{i}.{owner}", n): f"blocks.{i}.{layer}" for (owner, n), layer in _IN_BLOCK.items()}
    if any("ssf_" in name for name in state):
        for (owner, number), layer in sites.items():
            for kind in ("ssf_scale", "ssf_shift"):
                tuned[f"{layer}.{kind}"] = state.pop(f"{owner}{kind}_{number}")
    tuned_here = any("ssf_" in name for name in tuned)
    backbone = {name: state.pop(name) for name in list(state) if name.split(".")[0] in _BACKBONE and "ssf_" not in name}
    no_leftovers(state, "SSF")
    method = SSF.as_published() if "fc_norm.weight" in backbone else SSF()
    return Foreign(backbone, method if tuned_here else None, tuned, head)
