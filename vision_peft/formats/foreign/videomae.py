"""Fine-tuned checkpoints of MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2 (modeling_finetune.py): the whole model.

Biases of queries and values lie beside ``attn.qkv.weight`` (keys have none), tubelets in a patch embedding of five
dimensions, ``fc_norm`` behind the mean of all tokens. Positions are a fixed table of sines that the files leave out.
"""

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, fuse_video_qkv, no_leftovers, split_head

_BACKBONE = ("patch_embed", "blocks", "fc_norm")


def read(state: State) -> Foreign:
    """Map the official keys to a fully tuned model.

    Raises:
        ValueError: keys that are not of this code, or of its pretraining.
    """
    if any(name.startswith(("encoder.", "decoder.")) for name in state):
        raise ValueError("this is a pretraining file of VideoMAE: create_backbone(..., checkpoint=...) takes it")
    tuned, head = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    for i in block_numbers(state, "blocks."):
        state |= fuse_video_qkv(state, f"blocks.{i}.attn.")
    backbone = {name: state.pop(name) for name in list(state) if name.split(".")[0] in _BACKBONE}
    no_leftovers(state, "VideoMAE")
    return Foreign(backbone, None, tuned, head, clips="tubelets")
