"""Checkpoints of linziyi96/st-adapter@b914b38 (models_adapter.py): CLIP's image tower with adapters, and ``fc``.

Its readout takes the mean of the frames' class tokens first and norms it then.
"""

from vision_peft.formats.foreign import clip_names
from vision_peft.formats.foreign.clip_names import BLOCKS
from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_number, no_leftovers, take
from vision_peft.methods.st_adapter import STAdapter

_SITES = {"attn": "adapter_pre_attn", "mlp": "adapter_pre_mlp"}
_LAYERS = {"fc1": "down_proj", "conv": "conv", "fc2": "up_proj"}


def read(state: State) -> Foreign:
    """Map the official keys; the adapter before the last MLP, which never learned, is kept.

    Raises:
        ValueError: keys that are not of this code, or blocks with adapters that are not the last ones.
    """
    state = dict(state)
    tuned = {f"head.{kind}": state.pop(f"fc.{kind}") for kind in ("weight", "bias") if f"fc.{kind}" in state}
    adapters = {name: state.pop(name) for name in list(state) if "adapter_pre_" in name}
    backbone = clip_names.take_image_tower(state)
    no_leftovers(state, "ST-Adapter")
    if not adapters:
        raise ValueError("not an ST-Adapter file: no adapter_pre_attn or adapter_pre_mlp in it")
    sites = tuple(site for site, name in _SITES.items() if any(f".{name}." in key for key in adapters))
    numbers = sorted({block_number(name, BLOCKS) for name in adapters})
    depth = len({name.split(".")[1] for name in backbone if name.startswith("blocks.")})
    last = depth - 1 if backbone else numbers[-1]
    if numbers != list(range(last - len(numbers) + 1, last + 1)):
        raise ValueError(f"wanted adapters in the last blocks, up to number {last}, got them in {numbers}")
    width, kernel = 0, (0, 0, 0)
    for i in numbers:
        for site in sites:
            for theirs, ours in _LAYERS.items():
                source, name = f"{BLOCKS}{i}.{_SITES[site]}.{theirs}", f"blocks.{i}.st_adapter.{site}.{ours}"
                dims = (None,) * (5 if ours == "conv" else 2)
                tuned[f"{name}.weight"] = take(adapters, f"{source}.weight", *dims)
                tuned[f"{name}.bias"] = take(adapters, f"{source}.bias", None)
            weight = tuned[f"blocks.{i}.st_adapter.{site}.conv.weight"]
            width, kernel = len(weight), tuple(weight.shape[2:])
    no_leftovers(adapters, "ST-Adapter")
    chosen = "all" if len(numbers) == last + 1 else f"last {len(numbers)}"
    method = STAdapter.as_published(width=width, kernel=kernel, sites=sites, blocks=chosen)
    return Foreign(backbone or None, method, tuned, clips="frames_mean_first", arguments=clip_names.ARGUMENTS)
