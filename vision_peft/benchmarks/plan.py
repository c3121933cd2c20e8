"""Which settings a cost table holds, and in which groups they are measured; nothing here needs torch.

A group is a backbone, a batch and a precision. Its settings are measured in turn and compared with each other only.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vision_peft.suggest import did_you_mean

# Peer -> what it is called in the table, and the package it needs.
PEERS = {
    "hf_lora": ("HF peft: LoRA-8 qkv", "peft"),
    "vpt_inserted": ("inserted: VPT-50", None),
    "adaptformer_written_out": ("written out: AdaptFormer-64", None),
}


@dataclass(frozen=True)
class Group:
    """Settings that are measured in turn."""

    shared: tuple[str, ...]  # overrides of all of them
    settings: Mapping[str, tuple[str, ...]]  # name in the table -> further overrides
    peers: tuple[str, ...] = ()

    def count(self) -> int:
        """Count the settings with peers and the two references."""
        return len(self.settings) + len(self.peers) + 2

    def words_of(self, name: str) -> list[str]:
        """Return the overrides of one setting."""
        return override(self.shared, self.settings[name])


def override(words: Iterable[str], further: Sequence[str]) -> list[str]:
    """Put `further` overrides behind `words`, of which those of the same keys go."""
    given = {word.partition("=")[0] for word in further}
    return [*(word for word in words if word.partition("=")[0] not in given), *further]


_RANDOM = ("backbone=timm", "backbone.pretrained=false")
_DEFAULT = (*_RANDOM, "backbone.name=vit_base_patch16_224")
_ADAPTFORMER = {"AdaptFormer-64": ("method=adaptformer",)}
_LORA = {"LoRA-8 q,v": ("method=lora",)}
_ALL = {
    **_ADAPTFORMER,
    "AdaptFormer-64, blocks again": ("method=adaptformer", "recipe.recompute=block"),
    "Adapter+-8": ("method=adapter_plus",),
    "Houlsby-64": ("method=houlsby",),
    "Convpass-8": ("method=convpass",),
    "RepAdapter-8": ("method=repadapter",),
    **_LORA,
    "LoRA-8 qkv": ("method=lora", "method.targets=[qkv]"),
    "FacT-TT-16": ("method=fact",),
    "SSF": ("method=ssf",),
    "BitFit": ("method=bitfit",),
    "VPT-deep-50": ("method=vpt", "method.tokens=50"),
    "P-Tuning v2-50": ("method=p_tuning_v2", "method.tokens=50"),
    "LST-8": ("method=lst",),
    "DTL-2": ("method=dtl",),
    "partial-1": ("method=partial",),
    "linear": ("method=linear",),
    "full": ("method=full",),
}
_FEW = {**_ADAPTFORMER, **_LORA, "VPT-deep-50": _ALL["VPT-deep-50"], "BitFit": _ALL["BitFit"], "full": _ALL["full"]}
_COMPILED = {**_ADAPTFORMER, **_LORA, "full": _ALL["full"]}


def _on_gpu(name: str, batch_size: int, settings: Mapping[str, tuple[str, ...]], compiled: bool = False) -> Group:
    sizes = (f"backbone.name={name}", f"recipe.batch_size={batch_size}", f"compile={'blocks' if compiled else 'false'}")
    peers = () if compiled or "giant" in name else ("hf_lora", "adaptformer_written_out")
    return Group((*_RANDOM, *sizes, "precision=bf16", "device=cuda"), settings, peers)


_SIZES = ("vit_base_patch16_224", "vit_large_patch16_224", "vit_small_patch16_224")
PRESETS = {
    "cpu": [Group((*_DEFAULT, "recipe.batch_size=8", "precision=fp32", "device=cpu"), _ALL, tuple(PEERS))],
    "gpu": [
        _on_gpu("vit_giant_patch14_224", 64, _ADAPTFORMER),  # 1.01 billion parameters
        *(_on_gpu(name, batch_size, _FEW) for batch_size in (64, 256) for name in _SIZES),
        *(_on_gpu(name, batch_size, _COMPILED, True) for batch_size in (64, 256) for name in _SIZES),
    ],
}


def plan_preset(
    name: str, overrides: Sequence[str], further: Mapping[str, Sequence[str]], peers: Sequence[str] | None = None
) -> list[Group]:
    """Plan the groups of a preset, in which `overrides` replace what it says; `further` settings join each group.

    Without `peers` it has its own, of which those are left out that are not installed.
    """
    groups = []
    for group in PRESETS[name]:
        shared = tuple(override(group.shared, overrides))
        settings = {**group.settings, **{label: tuple(words) for label, words in further.items()}}
        chosen = [peer for peer in group.peers if is_installed(peer)] if peers is None else peers
        groups.append(Group(shared, settings, tuple(chosen)))
    kept: list[Group] = []
    for group in groups:
        if group not in kept:  # an override may have made two groups the same
            kept.append(group)
    return kept


def plan_methods(
    methods: Sequence[str], peers: Sequence[str], overrides: Sequence[str], further: Mapping[str, Sequence[str]]
) -> list[Group]:
    """Plan the groups of `methods`, names of configs, and of `further` settings.

    Each combination of values that `overrides` list (`recipe.batch_size=8,64`) is a group; without a backbone it is
    ViT-B/16, and the weights are random, which changes no cost.
    """
    given = {word.partition("=")[0] for word in overrides}
    backbone = _RANDOM[1:] if "backbone" in given else _DEFAULT
    settings = {name: (f"method={name}",) for name in methods}
    settings |= {label: tuple(words) for label, words in further.items()}
    shared = [tuple(override(backbone, overrides))]
    for word in overrides:
        values = split_values(word.partition("=")[2])
        key = word.partition("=")[0]
        if len(values) > 1:
            shared = [tuple(override(words, [f"{key}={value}"])) for words in shared for value in values]
    return [Group(words, settings, tuple(peers)) for words in shared]


def split_values(text: str) -> list[str]:
    """Split a value at the commas outside of brackets and quotes: `8,64` are two, `[8,64]` is one."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def is_installed(peer: str) -> bool:
    """Tell whether the package that a peer needs is there."""
    package = PEERS[peer][1]
    return package is None or importlib.util.find_spec(package) is not None


def choose_methods(text: str, known: Sequence[str]) -> list[str]:
    """Read `methods=...`: names of configs, or all of `known`.

    Raises:
        ValueError: a name without a config.
    """
    return _choose("methods", text, known, list(known))


def choose_peers(text: str) -> list[str]:
    """Read `peers=...`: names, all that are installed, or none.

    Raises:
        ValueError: a name that is not a peer, or one whose package is not installed.
    """
    names = (
        [] if text == "none" else _choose("peers", text, list(PEERS), [peer for peer in PEERS if is_installed(peer)])
    )
    for name in names:
        if not is_installed(name):
            package = PEERS[name][1]
            raise ValueError(
                f"peers={name} compares with the package {package}, which is not installed: pip install {package}"
            )
    return names


def _choose(key: str, text: str, known: Sequence[str], all_of_them: list[str]) -> list[str]:
    names = [name.strip() for name in text.removeprefix("[").removesuffix("]").split(",")]
    if names == ["all"]:
        return all_of_them
    for name in names:
        if name not in known:
            raise ValueError(f"{key}={name} is not one of {', '.join(known)}, all{did_you_mean(name, known)}")
    return list(dict.fromkeys(names))
