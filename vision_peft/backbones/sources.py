"""Whose backbone file it is, told by its tensors' names: they are mapped to what timm reads, and the rest is explained.

timm's own converters are used where they account for what they read (DINOv2, OpenAI's names of CLIP, BEiT, EVA, Swin);
they pass over the rest of a file without a word, so text towers, decoders and other networks are taken out here, by
name and with a reason. What no layout explains is an error, here or in timm's strict loading.
"""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

_PRETRAINING = "for pretraining only"
_TEXT = {
    "text tower": (
        r"(text|text_decoder|transformer|token_embedding|ln_final)\.|(positional_embedding|text_projection|attn_mask)$",
        "not the image tower",
    ),
    "scalars": (r"(logit_scale|logit_bias|input_resolution|context_length|vocab_size)$", "of the image-text pair"),
}
_FRESH_FC_NORM = (
    "fc_norm, the norm after average pooling (MAE's fine-tuning starts it anew as well). Where a method freezes the "
    "backbone it stays at scale 1 and shift 0; vp.NormTuning() or vp.FullFineTune() train it; fc_norm=False keeps the "
    "pretrained norm instead"
)
_LINEAR_QKV = re.compile(r"(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)$")


@dataclass(frozen=True)
class _Layout:
    """What one code's files look like: a file is of it where every mark matches a name from its start."""

    name: str
    marks: tuple[str, ...]
    prefix: str = ""  # of the backbone's tensors
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)  # group -> (pattern of its names, reason)


_CLIP = _Layout("CLIP in OpenAI's names", (r"visual\.class_embedding$",), "visual.", _TEXT)
_EVA_CLIP = _Layout("EVA-CLIP", (r"visual\.blocks\.",), "visual.", _TEXT)
_OPEN_CLIP = _Layout(
    "OpenCLIP with a timm tower",
    (r"visual\.trunk\.blocks\.",),
    "visual.trunk.",
    _TEXT | {"projection": (r"visual\.head\.mlp\.", "an MLP, not one linear layer")},
)
_ADAPTFORMER = _Layout(
    "AdaptFormer's code (q_proj, k_proj, v_proj, fc1, fc2)",
    (r"blocks\.\d+\.fc1\.weight$", r"blocks\.\d+\.attn\.q_proj\.weight$"),
    dropped={
        "method": (r"blocks\.\d+\.adaptmlp\.|embeddings\.\d+$", "trained by a method; vp.read_foreign reads it"),
    },
)
_LAYOUTS = (
    _Layout(
        "MoCo-v3 pretraining",
        (r"base_encoder\.blocks\.",),
        "base_encoder.",
        {
            "momentum_encoder": (r"momentum_encoder\.", "the slow copy of the encoder"),
            "predictor": (r"predictor\.", _PRETRAINING),
            "projector": (r"base_encoder\.head\.", _PRETRAINING),
        },
    ),
    _Layout(
        "DINO or DINOv2 training",
        (r"backbone\.blocks\.",),
        "backbone.",
        {"projection heads": (r"(head|dino_head|ibot_head)\.", _PRETRAINING)},
    ),
    _OPEN_CLIP,
    _CLIP,
    _EVA_CLIP,
    _Layout(
        "MAE pretraining, encoder and decoder",
        (r"decoder_blocks\.",),
        dropped={"decoder": (r"decoder_(embed|pos_embed|blocks|norm|pred)\b|mask_token$", _PRETRAINING)},
    ),
    _ADAPTFORMER,
    _Layout("DINOv3", (r"storage_tokens$",)),
    _Layout("DINOv2", (r"mask_token$", r"blocks\.\d+\.ls1\.gamma$")),
    _Layout("Hugging Face transformers' names", (r"(\w+\.)?embeddings\.patch_embeddings\.",)),
)
_TIMM = _Layout("timm's names (those of MAE, DeiT and MoCo-v3 encoders too)", ())
_VIDEO_LAYOUTS = (
    _Layout(
        "VideoMAE pretraining, encoder and decoder",
        (r"encoder\.blocks\.",),
        "encoder.",
        {"decoder": (r"decoder\.|encoder_to_decoder\.|mask_token$", _PRETRAINING)},
    ),
    _ADAPTFORMER,
)
_VIDEOMAE = _Layout("VideoMAE or VideoMAE v2, encoder", ())
_VJEPA2 = _Layout(
    "V-JEPA 2, encoder",
    (),
    dropped={"positions": (r"pos_embed$", "attention turns queries and keys instead")},
)
_LEFT_BY_TIMM = {  # what timm's converters leave out where the model has no place for it
    "mask token": (r"(.*\.)?mask_token$", _PRETRAINING),
    "prediction head": (r"lm_head\.", _PRETRAINING),
    "representation layer": (r"pre_logits\.", "timm's models have none"),
    "DINOv3 parts": (r"local_cls_norm\.|projectors\.|.*\.(bias_mask|periods)$", "for pretraining, or constants"),
    "buffers": (r".*(relative_position_index|attn_mask)$|.*\brope", "constants that the model computes"),
}


@dataclass
class Source:
    """A backbone file: ``state`` is what timm is to read; everything else of it is in ``dropped``."""

    name: str
    state: dict[str, Tensor]
    own_of_openai: bool = False  # CLIP as OpenAI published it
    total: int = 0  # tensors of the file
    projection: tuple[str, ...] = ()  # the file's names of CLIP's projection, which becomes the head
    dropped: list[str] = field(default_factory=list)  # one line a group, with count and reason
    fresh: list[str] = field(default_factory=list)  # what of the model is not from the file
    notes: list[str] = field(default_factory=list)
    unused: int = 0
    alarm: bool = False  # something that a user would expect to be loaded is not

    def __post_init__(self) -> None:
        self.total = self.total or len(self.state)

    @property
    def positions(self) -> Tensor | None:
        """Position embeddings of the file (1 N C or N C), those of prefix tokens included."""
        return self.state.get("visual.positional_embedding" if self.is_clip else "pos_embed")

    @property
    def is_vjepa2(self) -> bool:
        """Whether attention has rotary positions in time, rows and columns."""
        return self.name == _VJEPA2.name

    @property
    def is_clip(self) -> bool:
        """Whether timm's converter for OpenAI's names reads the file."""
        return self.name == _CLIP.name

    def drop(self, group: str, count: int, reason: str, *, alarm: bool = False) -> None:
        """Account for ``count`` tensors that are not used."""
        self.dropped.append(f"{group} ({count} tensor{'s' * (count != 1)}): {reason}")
        self.unused += count
        self.alarm |= alarm

    def start_fc_norm(self, group: str, count: int) -> None:
        """Account for the pretrained norm ``group``, in whose place average pooling has a fresh fc_norm."""
        self.drop(group, count, "the norm after the last block, which the model does not have", alarm=True)
        self.fresh.append(_FRESH_FC_NORM)

    def report(self) -> str:
        """One line on the source and the number of tensors used, then one for each thing to know."""
        lines = [f"{self.name}; {self.total - self.unused} of {self.total} tensors used"]
        lines += [f"dropped: {line}" for line in self.dropped] + [f"fresh: {line}" for line in self.fresh]
        return "\n  ".join(lines + self.notes)


def identify(state: dict[str, Tensor], origin: str) -> Source:
    """Tell whose names ``state`` has and map them to those that timm reads.

    Raises:
        ValueError: a video checkpoint, tensors that the layout does not explain, or a block without q, k or v.
    """
    key = tubelet_key(state)
    if key is not None:
        frames = state[key].shape[2]
        raise ValueError(
            f"{origin} is a video checkpoint: {key} has the shape {tuple(state[key].shape)}, patches over {frames} "
            "frames. Wanted an image checkpoint (4 dimensions there), or a model of clips: give num_frames (16, say) "
            f"and tubelet_size={frames}."
        )
    if "class_embedding" in state and "conv1.weight" in state:  # the image tower's own state_dict
        state = {f"{_CLIP.prefix}{key}": value for key, value in state.items()}
    layout = next((layout for layout in _LAYOUTS if _matches(layout, state)), _TIMM)
    source = Source(layout.name, dict(state), own_of_openai="input_resolution" in state)
    for group, (pattern, reason) in layout.dropped.items():
        _drop(source, group, pattern, reason, alarm=layout is _ADAPTFORMER)
    if layout in (_CLIP, _OPEN_CLIP):
        source.projection = tuple(key for key in source.state if re.match(r"visual\.(proj|head\.proj\.\w+)$", key))
    head = _projection_as_head(source) if layout is _OPEN_CLIP else {}
    state = _without_prefix(source.state, layout, origin) | head
    source.state = _to_timm_blocks(state, origin) if layout is _ADAPTFORMER else state
    return source


def identify_video(state: dict[str, Tensor], origin: str) -> Source:
    """``identify`` for a video checkpoint, of VideoMAE, VideoMAE v2, AdaptFormer or V-JEPA 2.

    Keys have no bias in the first three: it is zero. So V-JEPA 2's encoder is told by one that is not.

    Raises:
        ValueError: tensors that the layout does not explain, or a block without q, k or v.
    """
    layout = next((layout for layout in _VIDEO_LAYOUTS if _matches(layout, state)), _VIDEOMAE)
    if layout is _VIDEOMAE:
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
        layout = _VJEPA2 if _has_key_biases(state) else _VIDEOMAE
    source = Source(layout.name, dict(state))
    for group, (pattern, reason) in layout.dropped.items():
        _drop(source, group, pattern, reason, alarm=layout is _ADAPTFORMER)
    mapped = _without_prefix(source.state, layout, origin)
    mapped = _to_timm_blocks(mapped, origin) if layout is _ADAPTFORMER else mapped
    for key in [key for key in mapped if key.endswith(".q_bias")]:
        attn = key.removesuffix("q_bias")
        if f"{attn}v_bias" not in mapped:
            raise ValueError(f"{origin} lacks {attn}v_bias beside {key}.")
        q, v = mapped.pop(key), mapped.pop(f"{attn}v_bias")
        mapped[f"{attn}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    source.state = mapped
    return source


def _has_key_biases(state: dict[str, Tensor]) -> bool:
    if "norm.weight" not in state:  # of tubelet models in timm's names those of VideoMAE's form have fc_norm alone
        return False
    biases = [value for key, value in state.items() if re.match(r"blocks\.\d+\.attn\.qkv\.bias$", key)]
    return any(bias.numel() % 3 == 0 and bool(bias.chunk(3)[1].any()) for bias in biases)


def tubelet_key(state: dict[str, Tensor]) -> str | None:
    """Name of the patch embedding where it spans several frames (5 dimensions), None in an image checkpoint."""
    embeddings = [key for key in state if key.endswith(("patch_embed.proj.weight", "conv1.weight"))]
    return next((key for key in embeddings if state[key].ndim == 5), None)


def account_for_timm(source: Source, names: set[str]) -> None:
    """Add to ``source`` what timm's converters left out of it; ``names`` are those of the loaded model."""
    given = {key: value for key, value in source.state.items() if key not in names}
    for group, (pattern, reason) in _LEFT_BY_TIMM.items():
        found = [key for key in given if re.match(pattern, key)]
        if found:
            source.drop(group, len(found), reason)
        for key in found:
            del given[key]
    if not any(key.endswith((".q_bias", "qkv.bias", "q_proj.bias")) for key in names):  # DINOv3 without these biases
        biases = [value for key, value in given.items() if key.endswith(".qkv.bias")]
        if biases:
            zero = not any(bias.any() for bias in biases)
            reason = f"the architecture has none ({'all zero' if zero else 'NOT zero: take the _qkvb architecture'})"
            source.drop("biases of q, k, v", len(biases), reason, alarm=not zero)


def _matches(layout: _Layout, state: dict[str, Tensor]) -> bool:
    return all(any(re.match(mark, key) for key in state) for mark in layout.marks)


def _drop(source: Source, group: str, pattern: str, reason: str, *, alarm: bool) -> None:
    found = [key for key in source.state if re.match(pattern, key)]
    for key in found:
        del source.state[key]
    if found:
        source.drop(group, len(found), reason, alarm=alarm)


def _without_prefix(state: dict[str, Tensor], layout: _Layout, origin: str) -> dict[str, Tensor]:
    unknown = [key for key in state if not key.startswith(layout.prefix)]
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ValueError(
            f"{origin} has the layout of {layout.name}, but these tensors are not of it: {', '.join(unknown[:8])}"
            f"{more}. Wanted {layout.prefix}* and {', '.join(layout.dropped)}; save those of the backbone alone."
        )
    if layout is _CLIP:  # timm's converter takes it off, and maps what is behind it
        return state
    return {key.removeprefix(layout.prefix): value for key, value in state.items()}


def _projection_as_head(source: Source) -> dict[str, Tensor]:
    weight = source.state.pop("visual.head.proj.weight", None)
    bias = source.state.pop("visual.head.proj.bias", None)
    if weight is None:
        return {}
    return {"head.weight": weight, "head.bias": weight.new_zeros(len(weight)) if bias is None else bias}


def _to_timm_blocks(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """AdaptFormer's ``q_proj``, ``k_proj``, ``v_proj`` joined to ``qkv``, its ``fc1`` and ``fc2`` under ``mlp``."""
    mapped: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        projection = _LINEAR_QKV.match(key)
        if projection:
            parts.setdefault(f"{projection[1]}qkv.{projection[3]}", {})[projection[2]] = value
        else:
            mapped[re.sub(r"^(blocks\.\d+\.)(fc[12]\.)", r"\1mlp.\2", key)] = value
    for name, found in parts.items():
        missing = [f"{part}_proj" for part in "qkv" if part not in found]
        if missing:
            raise ValueError(f"{origin} lacks {', '.join(missing)} beside the others of {name}.")
        mapped[name] = torch.cat([found[part] for part in "qkv"])
    return mapped
