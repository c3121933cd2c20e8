"""Attentive classifiers of facebookresearch/vjepa2@c2963a4 (evals/video_classification_frozen): heads without backbone.

A file holds ``classifiers``, a list of as many as were trained at once over learning rates and weight decays.
"""

from collections.abc import Mapping
from typing import Any

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, take
from vision_peft.tuning.head_kinds import AttentivePooler, head_text

_LIST = "classifiers"


def unpack(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the tensors of the list of classifiers under ``classifiers.0.``, ``classifiers.1.``, ..."""
    found = data.get(_LIST)
    if not isinstance(found, list):
        return data
    return {
        f"{_LIST}.{number}.{name.removeprefix('module.')}": tensor
        for number, classifier in enumerate(found)
        if isinstance(classifier, Mapping)
        for name, tensor in classifier.items()
    }


def read(state: State, *, classifier: int = 0, heads: int = 16, tokens: str = "all", norm: bool = True) -> Foreign:
    """Map the official keys of one classifier.

    Args:
        state: of one, or of a list of them.
        classifier: its number in the list, from 0; the file does not tell which was the best on val.
        heads: of attention, 16 in all published configs.
        tokens: what it reads: all that the encoder gives, as there, or patch.
        norm: whether behind the final norm, as there.

    Raises:
        ValueError: keys that are not of this code, or a number that is not in the list.
    """
    if any(name.startswith(f"{_LIST}.") for name in state):
        numbers = block_numbers(state, f"{_LIST}.")
        if classifier not in numbers:
            raise ValueError(f"the file holds classifiers 0 to {len(numbers) - 1}; got classifier={classifier}")
        prefix = f"{_LIST}.{classifier}."
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    state = dict(state)
    dim = take(dict(state), "pooler.query_tokens", 1, 1, None).shape[-1]
    bias = take(state, "linear.bias", None)
    tuned = {
        "head.classifier.weight": take(state, "linear.weight", len(bias), dim),
        "head.classifier.bias": bias,
    }
    blocks = "pooler.blocks."
    depth = 1 + (len(block_numbers(state, blocks)) if any(name.startswith(blocks) for name in state) else 0)
    complete = "pooler.cross_attention_block.mlp.fc1.weight" in state
    hidden = len(state["pooler.cross_attention_block.mlp.fc1.weight"]) if complete else 4 * dim
    tuned |= {f"head.pool.{name.removeprefix('pooler.')}": state.pop(name) for name in list(state) if "pooler." in name}
    no_leftovers(state, "V-JEPA 2 classifier")
    kind = AttentivePooler(
        depth=depth, heads=heads, mlp_ratio=hidden / dim, complete=complete, tokens=tokens, norm=norm
    )
    return Foreign(None, None, tuned, head_text(kind))
