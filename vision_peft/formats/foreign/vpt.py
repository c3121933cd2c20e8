"""Checkpoints of KMnP/vpt@4410440 (src/models/vit_prompt/vit.py), a ViT with the key names of the JAX code.

Implemented from a description of the files. Two containers occur: the whole model, and ``{"shallow_prompt",
"deep_prompt"}`` of numpy arrays. The classes' layer is called ``head`` or ``head.last_layer``, the encoder may carry
the prefix ``enc.``; the last two from memory of the official code, no such file was at hand.
"""

import torch

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, fuse_qkv, no_leftovers
from vision_peft.methods.vpt import VPT
from vision_peft.tuning.method import Method

_LAYERS = {
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "attn.out": "attn.proj",
    "ffn.fc1": "mlp.fc1",
    "ffn.fc2": "mlp.fc2",
}
_REST = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "encoder.encoder_norm.weight": "norm.weight",
    "encoder.encoder_norm.bias": "norm.bias",
}


def read(state: State, *, dropout: float = 0.0) -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        dropout: prompt dropout, of use for further training only.

    Raises:
        ValueError: keys that are not of this code.
    """
    state = {name.removeprefix("enc.").removeprefix("transformer."): tensor for name, tensor in state.items()}
    names = {"shallow_prompt": "prompt_embeddings", "deep_prompt": "deep_prompt_embeddings"}
    state = {names.get(name, name): tensor for name, tensor in state.items()}
    tuned: State = {
        name.replace("head.last_layer.", "head."): state.pop(name) for name in list(state) if name.startswith("head.")
    }
    backbone: State = {}
    if any(name.startswith("encoder.layer.") for name in state):
        for i in block_numbers(state, "encoder.layer."):
            layer, block = f"encoder.layer.{i}.", f"blocks.{i}."
            backbone |= fuse_qkv(state, f"{layer}attn.", ("query", "key", "value"), f"{block}attn.qkv")
            for theirs, ours in _LAYERS.items():
                for kind in ("weight", "bias"):
                    backbone[f"{block}{ours}.{kind}"] = state.pop(f"{layer}{theirs}.{kind}")
        backbone |= {ours: state.pop(theirs) for theirs, ours in _REST.items()}
    method: Method | None = None
    shallow, deep = state.pop("prompt_embeddings", None), state.pop("deep_prompt_embeddings", None)
    projection = {kind: state.pop(f"prompt_proj.{kind}", None) for kind in ("weight", "bias")}
    no_leftovers(state, "VPT")
    if shallow is not None:
        tokens, dim = shallow.shape[-2:]
        projected = projection["weight"] is not None
        method = VPT(tokens=tokens, deep=deep is not None, dropout=dropout, project=dim if projected else None)
        prompts = (
            shallow.reshape(1, tokens, dim) if deep is None else torch.cat([shallow.reshape(1, tokens, dim), deep])
        )
        seats = ["norm_pre."] if deep is None else [f"blocks.{i}.attn." for i in range(len(prompts))]
        tuned |= {f"{seat}prompts": prompt for seat, prompt in zip(seats, prompts, strict=True)}
        tuned |= {
            f"{seats[0]}prompt_project.{kind}": tensor for kind, tensor in projection.items() if tensor is not None
        }
    return Foreign(backbone or None, method, tuned)
