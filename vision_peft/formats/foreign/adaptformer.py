"""Checkpoints of ShoufaChen/AdaptFormer@6967d67 (models/vit_image.py, vit_video.py; head as main_*.py make it).

Its blocks have ``q_proj``, ``k_proj``, ``v_proj``, ``fc1`` and ``fc2`` where timm has ``attn.qkv`` and ``mlp``. Its
built-in VPT (``embeddings.i``) puts prompts before the class token and drops them after every block: VPT-deep.
The video model is VideoMAE's: tubelets, no class token, positions that are not in the file, biases of queries and
values alone, and ``fc_norm`` behind the mean of all tokens, which trains with every method.
"""

from typing import Any

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, fuse_qkv, fuse_video_qkv, no_leftovers, split_head
from vision_peft.methods.adaptformer import AdaptFormer
from vision_peft.methods.norm_tuning import NormTuning
from vision_peft.methods.vpt import VPT
from vision_peft.tuning.method import Method, one_of

_ADAPTMLP = {"down_proj": "down_proj", "up_proj": "up_proj", "adapter_layer_norm_before": "norm"}


def read(state: State, *, scale: float = 0.1, form: str = "parallel", dropout: float | None = None) -> Foreign:
    """Map the official keys of an image or video model.

    Args:
        state: tensors of the file.
        scale: s of the run (``--ffn_adapter_scalar``); a learned scalar in the file wins.
        form: ``parallel`` or ``sequential`` (``ffn_option``), whose keys are the same.
        dropout: adapter dropout, of use for further training only; None: that of the code, 0.1 for images, 0 for video.

    The layer norm of ``ffn_adapter_layernorm_option="out"`` has the keys of ``"in"``; it is read as ``"in"``.

    Raises:
        ValueError: keys that are not of this code.
    """
    one_of("form", form, ("parallel", "sequential"))
    state = dict(state)
    tuned, head = split_head(state)
    for name in [name for name in state if name.startswith("head.")]:
        del state[name]
    numbers = block_numbers(state, "blocks.")
    is_video = "patch_embed.proj.weight" in state and state["patch_embed.proj.weight"].ndim == 5
    if dropout is None:
        dropout = 0.0 if is_video else 0.1
    fields: dict[str, Any] = {"scale": scale, "form": form, "dropout": dropout}
    backbone: State = {}
    method: Method | None = None
    for i in numbers:
        block = f"blocks.{i}."
        seat = f"{block}drop_path2.adaptmlp." if form == "sequential" else f"{block}adaptmlp."
        for name in [name for name in state if name.startswith(f"{block}adaptmlp.")]:
            layer, _, kind = name.removeprefix(f"{block}adaptmlp.").partition(".")
            if layer == "scale":
                fields["scale"] = "learnable"
                tuned[f"{seat}scale"] = state.pop(name).reshape(1)
            elif layer in _ADAPTMLP:
                if layer == "adapter_layer_norm_before":
                    fields["input"] = "own_norm"
                if layer == "down_proj" and kind == "weight":
                    fields["bottleneck"] = state[name].shape[0]
                tuned[f"{seat}{_ADAPTMLP[layer]}.{kind}"] = state.pop(name)
        prompts = state.pop(f"embeddings.{i}", None)
        if prompts is not None:
            method = VPT(tokens=prompts.shape[1])
            tuned[f"{block}attn.prompts"] = prompts[0]
        if f"{block}attn.q_bias" in state:
            backbone |= fuse_video_qkv(state, f"{block}attn.")
        elif f"{block}attn.q_proj.weight" in state:
            parts = ("q_proj", "k_proj", "v_proj")
            backbone |= fuse_qkv(state, f"{block}attn.", parts, f"{block}attn.qkv")
        for name in [name for name in state if name.startswith(block)]:
            ours = name.replace(f"{block}fc", f"{block}mlp.fc")
            if ours.removeprefix(block).split(".")[0] in ("norm1", "norm2", "attn", "mlp"):
                backbone[ours] = state.pop(name)
    for name in list(state):
        if name.split(".")[0] in ("cls_token", "pos_embed", "patch_embed", "norm", "fc_norm"):
            backbone[name] = state.pop(name)
    no_leftovers(state, "AdaptFormer")
    if "bottleneck" in fields:
        if method is not None:
            raise ValueError("file holds both adaptmlp and prompt tensors: the official code trains one of them")
        method = AdaptFormer(**fields)
    if not is_video:
        return Foreign(backbone if "patch_embed.proj.weight" in backbone else None, method, tuned, head)
    tuned |= {f"fc_norm.{kind}": backbone[f"fc_norm.{kind}"] for kind in ("weight", "bias")}
    return Foreign(backbone, method, tuned, head, beside=(NormTuning(norms="final"),), clips="tubelets")
