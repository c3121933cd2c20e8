"""Checkpoints of leexinhao/ZeroI2V@ce04d8b: vit_zero_clip.py, its _ablation and _eval under mmaction's recogniser.

Backbone keys start with ``backbone.`` and are CLIP's, the head is ``cls_head.fc_cls``; ``ln_post`` is timm's ``norm``.
A file that tools/weight_reparam.py merged has no adapters: its method is ``ZeroI2V(adapters=0)``.
"""

from vision_peft.formats.foreign import clip_names
from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, take
from vision_peft.methods.zero_i2v import ZeroI2V

_SEATS = {
    "T_Adapter_in": "norm1.zero_i2v",
    "S_Adapter": "attn.proj.zero_i2v",
    "MLP_Adapter": "norm2.zero_i2v",
    "MLP_Adapter_out": "mlp.fc2.zero_i2v",
}
_LAYERS = {"D_fc1": "down_proj", "D_fc2": "up_proj"}


def read(
    state: State,
    *,
    scale: float,
    shift_div: int,
    long_shift_div: int | None = None,
    long_shift_right: bool = True,
) -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        scale: s of the run's config (``adapter_scale``: 0.5, on SSv2 1); the file does not tell.
        shift_div: of the run's config (``stdha_cfg``: 12).
        long_shift_div: the same (on SSv2: 12); None where the config has none.
        long_shift_right: the same.

    Raises:
        ValueError: keys that are not of this code.
    """
    head = {f"head.{k}": state[f"cls_head.fc_cls.{k}"] for k in ("weight", "bias") if f"cls_head.fc_cls.{k}" in state}
    state = {name.removeprefix("backbone."): t for name, t in state.items() if not name.startswith("cls_head.fc_cls.")}
    tuned = {"norm_pre.temporal_embed": take(state, "temporal_embedding", 1, None, None), **head}
    frames = tuned["norm_pre.temporal_embed"].shape[1]
    tuned |= {f"norm.{kind}": state[f"ln_post.{kind}"] for kind in ("weight", "bias")}
    last = f"{clip_names.BLOCKS}0.MLP_Adapter_out.D_fc1.weight" in state
    seats = dict([*_SEATS.items()][: 4 if last else 3]) if any("_Adapter" in name for name in state) else {}
    hidden, width = 0, tuned["norm.weight"].shape[0]
    for i in block_numbers(state, clip_names.BLOCKS):
        for theirs, seat in seats.items():
            for layer, ours in _LAYERS.items():
                source, name = f"{clip_names.BLOCKS}{i}.{theirs}.{layer}", f"blocks.{i}.{seat}.{ours}"
                tuned[f"{name}.weight"] = take(state, f"{source}.weight", None, None)
                tuned[f"{name}.bias"] = take(state, f"{source}.bias", None)
            hidden = tuned[f"blocks.{i}.{seat}.down_proj.weight"].shape[0]
    backbone = clip_names.take_image_tower(state)
    if not backbone:
        for kind in ("weight", "bias"):
            state.pop(f"ln_post.{kind}")
    no_leftovers(state, "ZeroI2V")
    method = ZeroI2V(
        ratio=hidden / width if seats else 0.25,
        shift_div=shift_div,
        long_shift_div=long_shift_div,
        long_shift_right=long_shift_right,
        adapters=len(seats),
        scale=scale,
    )
    return Foreign(backbone or None, method, tuned, clips="frames", num_frames=frames, arguments=clip_names.ARGUMENTS)
