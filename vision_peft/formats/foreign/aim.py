"""Checkpoints of taoyang1122/adapt-image-models@b3580d2: vit_clip.py and vit_imagenet.py under mmaction's recogniser.

Backbone keys start with ``backbone.``, the head is ``cls_head.fc_cls``; ``ln_post`` is timm's ``norm``.
"""

from typing import Any

from vision_peft.formats.foreign import clip_names
from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, take
from vision_peft.methods.aim import AIM

_SEATS = {
    "T_Adapter": "aim.temporal",
    "T_Adapter_in": "aim.temporal_in",
    "S_Adapter": "drop_path1.aim_spatial",
    "MLP_Adapter": "aim.mlp",
}
_LAYERS = {"D_fc1": "down_proj", "D_fc2": "up_proj"}
_BACKBONE = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")


def read(state: State, *, scale: float) -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        scale: s of the run's config (``adapter_scale``: 0.5, on SSv2 1); the file does not tell.

    Raises:
        ValueError: keys that are not of this code.
    """
    head = {f"head.{k}": state[f"cls_head.fc_cls.{k}"] for k in ("weight", "bias") if f"cls_head.fc_cls.{k}" in state}
    state = {name.removeprefix("backbone."): t for name, t in state.items() if not name.startswith("cls_head.fc_cls.")}
    is_clip = any(name.startswith(clip_names.BLOCKS) for name in state)
    blocks = clip_names.BLOCKS if is_clip else "blocks."
    tuned = {"norm_pre.temporal_embed": take(state, "temporal_embedding", 1, None, None), **head}
    frames = tuned["norm_pre.temporal_embed"].shape[1]
    tuned |= {f"norm.{kind}": state[f"ln_post.{kind}"] for kind in ("weight", "bias")}
    two = f"{blocks}0.T_Adapter_in.D_fc1.weight" in state
    hidden, width = 0, tuned["norm.weight"].shape[0]
    for i in block_numbers(state, blocks):
        for theirs, seat in _SEATS.items():
            if theirs == "T_Adapter_in" and not two:
                continue
            for layer, ours in _LAYERS.items():
                source, name = f"{blocks}{i}.{theirs}.{layer}", f"blocks.{i}.{seat}.{ours}"
                tuned[f"{name}.weight"] = take(state, f"{source}.weight", None, None)
                tuned[f"{name}.bias"] = take(state, f"{source}.bias", None)
        hidden = tuned[f"blocks.{i}.aim.mlp.down_proj.weight"].shape[0]
    backbone = clip_names.take_image_tower(state) if is_clip else _take_timm(state)
    if not backbone:
        for kind in ("weight", "bias"):
            state.pop(f"ln_post.{kind}")
    no_leftovers(state, "AIM")
    method = AIM(ratio=hidden / width, temporal=2 if two else 1, scale=scale)
    arguments: dict[str, Any] = clip_names.ARGUMENTS if is_clip else {}
    return Foreign(backbone or None, method, tuned, clips="frames", num_frames=frames, arguments=arguments)


def _take_timm(state: State) -> State:
    if "patch_embed.proj.weight" not in state:
        return {}
    names = {name: name.replace("ln_post.", "norm.") for name in state}
    return {ours: state.pop(name) for name, ours in names.items() if ours.split(".")[0] in _BACKBONE}
