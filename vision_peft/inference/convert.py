"""Make an adapter folder of what official code saved, and a folder of another project of an adapter.

A file that holds its backbone as well gives ``backbone.safetensors`` beside the adapter, in timm's names, from which
``vp.load`` makes it again.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vision_peft.backbones import create_backbone, provenance
from vision_peft.backbones import input_config as find_input
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.formats import Foreign, save_adapter, write_foreign
from vision_peft.formats.adapter_files import INFO, TENSORS
from vision_peft.formats.backbone_record import BACKBONE
from vision_peft.formats.foreign import build_model, clip_names
from vision_peft.formats.foreign.key_map import KeyMap, read_mapped
from vision_peft.formats.foreign.read import list_files
from vision_peft.formats.input_record import KNOWN, complete_input, input_problems
from vision_peft.inference.make_files import make_files
from vision_peft.inference.outputs import explain_outputs
from vision_peft.inference.pixels import draw_noise
from vision_peft.inference.prepare import Preparation
from vision_peft.methods.linear import LinearProbe
from vision_peft.printable import printable
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.attach import attach, detach, replace_head
from vision_peft.tuning.method import Method
from vision_peft.tuning.state import load_tuned

CLOSE = 1e-4  # of outputs of the two ways to build the same model
_VIT, _CLIP = "vit_base_patch16_224", "vit_base_patch16_clip_quickgelu_224"
_NAMED = {  # width, blocks, heads, patch -> the name that timm has for it
    (192, 12, 3, 16): "vit_tiny_patch16_224",
    (384, 12, 6, 16): "vit_small_patch16_224",
    (768, 12, 12, 16): _VIT,
    (1024, 24, 16, 16): "vit_large_patch16_224",
    (1280, 32, 16, 14): "vit_huge_patch14_224",
}
_FRAMES = {"frames": {}, "frames_mean_first": {"mean_first": True}}


@dataclass(frozen=True)
class Converted:
    """What was read and written."""

    folder: Path
    files: list[str]
    methods: tuple[Method, ...]
    num_classes: int
    keys: KeyMap
    notes: tuple[str, ...] = ()  # what the folder cannot hold


def convert_foreign(
    source_path: str | Path,
    folder: Path,
    source: str,
    *,
    backbone: Mapping[str, Any] | None = None,
    num_heads: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    num_frames: int | None = None,
    class_names: Sequence[str] | None = None,
    input_config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **keywords: Any,
) -> Converted:
    """Write a file of `source` (of `read_foreign`) as an adapter folder that `vp.load` reads.

    Args:
        source_path: the file, or the folder of HF peft.
        folder: to write into; made where it is absent.
        source: whose code wrote it.
        backbone: arguments of `create_backbone`: of the backbone that a file without one was trained on; of a file with
            one of the weights that it holds, so that they need not lie beside the adapter.
        num_heads, img_size, num_frames: of a backbone in the file, see `Foreign.build`.
        class_names: one per class.
        input_config: size, mean, std, interpolation, resize, ... of its images, which no file tells.
        overwrite: replace files that are there.
        keywords: of the source, see `read_foreign`.

    Raises:
        ValueError: as `read_foreign`, `create_backbone` and `load_tuned`; something is needed that neither the file nor
            an argument says.
        FileExistsError: a file is there, and `overwrite` is False.
    """
    if problems := input_problems(input_config or {}):
        raise ValueError("; ".join(problems))
    foreign, keys = read_mapped(source_path, source, **keywords)
    built = {"num_heads": num_heads, "img_size": img_size, "num_frames": num_frames}
    if foreign.backbone is None and (given := [key for key, value in built.items() if value is not None]):
        raise ValueError(
            f"{', '.join(given)}: of a backbone in the file, and this file holds none: leave it out, or give "
            "backbone.<key>=... of the one that it was trained on"
        )
    own = foreign.backbone is not None and backbone is None
    names = [INFO, TENSORS, *([BACKBONE] if own else [])]
    if foreign.head_update:
        raise ValueError(
            "this adapter updates the head of the model that it was trained on, which neither the file nor a backbone "
            "here holds: in Python, read_foreign(...).put_on(model) loads it into a model with that head"
        )
    with make_files(folder, names, overwrite) as made:
        if foreign.backbone is None:
            model = _create(backbone)
        else:
            wanted = _build(foreign, num_heads, img_size, num_frames)
            model = _create(backbone) if backbone else _create_own(foreign, wanted, made / BACKBONE)
            if backbone:
                _compare_weights(model, foreign.backbone, backbone)
        if foreign.num_classes:
            replace_head(model, foreign.head, foreign.num_classes)
        methods = foreign.methods_on(model) or (LinearProbe(),)
        for method in methods:
            attach(model, method)
        load_tuned(model, foreign.tuned, head="load" if foreign.num_classes else "keep")
        if foreign.backbone is not None:
            _compare_outputs(model, wanted, "the model that create_backbone makes")
        if input_config:
            _check_input(model, input_config)
        save_adapter(model, made, class_names=class_names, input_config=input_config)
    return Converted(folder, names, methods, foreign.num_classes, keys)


def check_input_keys(recorded: Mapping[str, Any]) -> None:
    """Raise ValueError for a key of the input that nothing reads; in Python others may be recorded beside them."""
    known = [f"input.{key}" for key in KNOWN]
    if unknown := [key for key in recorded if key not in KNOWN]:
        hint = did_you_mean(f"input.{unknown[0]}", known)
        raise ValueError(f"unknown key input.{unknown[0]}{hint}; keys: {', '.join(known)}")


def _check_input(model: Any, recorded: Mapping[str, Any]) -> None:
    """Raise ValueError where no image could be prepared as recorded, or the model would not take it."""
    own = find_input(model)
    settings = complete_input(recorded, own)
    if (frames := settings.get("num_frames")) != own.get("num_frames"):
        raise ValueError(f"input.num_frames is {frames}, and the model takes {own.get('num_frames')}: leave it out")
    prepare, clip = Preparation(settings), () if frames is None else (frames,)
    if prepare.gives_clips:
        VideoFiles(["a clip"], [0], ["anything"]).set_evaluation(settings)
    shape = 1, settings.get("channels", 3), *clip, *settings["size"]
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1).expand(shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the model does not take the input that input.* describes, {' x '.join(map(str, shape[1:]))}: "
            f"{printable(str(error).partition(chr(10))[0], 200)}"
        ) from None


def convert_to(model: nn.Module, folder: Path, target: str, *, overwrite: bool = False) -> Converted:
    """Write the adapter of `model` for the code of `target` (of `write_foreign`), read it back, and compare outputs.

    Raises:
        ValueError: a method that `target` does not know, another target, or what is read back computes something else.
        FileExistsError: a file is there, and `overwrite` is False.
    """
    names = list_files(target)
    with make_files(folder, names, overwrite) as made:
        write_foreign(model, made, target)
        foreign, keys = read_mapped(made, target)
        again = detach(copy.deepcopy(model))
        methods = foreign.methods_on(again)
        _compare_outputs(foreign.put_on(again), model, f"what is read back from the folder for {target}")
    notes = explain_outputs(model, f"a folder for {target} lacks")
    return Converted(folder, names, methods, foreign.num_classes, keys, tuple(notes))


def _create(backbone: Mapping[str, Any] | None) -> Any:
    if not backbone:
        raise ValueError(
            "this file holds no backbone: give the one that it was trained on, backbone.name=NAME (of timm, with its "
            "tag), and backbone.checkpoint=FILE where its weights are those of a file"
        )
    given = {"pretrained": backbone.get("checkpoint") is None, **backbone}
    return create_backbone(given.pop("name"), num_classes=0, **given)


def _build(
    foreign: Foreign, num_heads: int | None, img_size: int | tuple[int, int] | None, num_frames: int | None
) -> nn.Module:
    if num_heads is None:
        width = (foreign.backbone or {})["patch_embed.proj.weight"].shape[0]
        usual = next((f", {key[2]} in timm's ViT of width {width}" for key in _NAMED if key[0] == width), "")
        raise ValueError(f"the file does not say how many attention heads its backbone has: give num_heads=...{usual}")
    return foreign.build(num_heads, img_size, num_frames)


def _create_own(foreign: Foreign, wanted: Any, path: Path) -> Any:
    """Write the backbone of a file to `path` and create it by timm's name, so that it can be made again."""
    if foreign.clips == "internvideo2":
        raise ValueError(
            "no name of timm's makes this backbone again, as an adapter folder would have to: use "
            'vp.read_foreign(file, "internvideo2").build(num_heads=..., img_size=..., num_frames=...) in Python'
        )
    state = {name: tensor.detach().contiguous().clone() for name, tensor in (foreign.backbone or {}).items()}
    save_file(state, path, {"format": "pt"})
    size = tuple(wanted.patch_embed.img_size)
    heads = wanted.blocks[0].attn.num_heads
    told = build_model.describe(state, clips=foreign.clips, num_heads=heads, img_size=size)
    shape = (told["embed_dim"], told["depth"], heads, told["patch_size"][0])
    name = _CLIP if foreign.arguments == clip_names.ARGUMENTS else _NAMED.get(shape, _VIT)
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
    del arguments["img_size"]
    if name in _NAMED.values() and shape in _NAMED:
        arguments = {key: arguments[key] for key in ("mlp_ratio", "init_values", "pre_norm", "global_pool")}
    if foreign.clips == "tubelets":
        arguments = {key: value for key, value in arguments.items() if key != "global_pool"}
        arguments |= {"tubelet_size": state["patch_embed.proj.weight"].shape[2]}
    arguments |= _FRAMES.get(foreign.clips, {})
    if foreign.clips != "none":
        arguments["num_frames"] = wanted.patch_embed.num_frames
    model = create_backbone(name, checkpoint=path, img_size=size, **arguments)
    given = provenance.created_with(model) or {}
    provenance.note_arguments(model, {**given, "checkpoint": BACKBONE})
    return model


def _compare_weights(model: nn.Module, state: Mapping[str, Tensor], backbone: Mapping[str, Any]) -> None:
    own = model.state_dict()
    other = [name for name in state if name not in own or not torch.equal(own[name], state[name].to(own[name].dtype))]
    if other:
        raise ValueError(
            f"backbone.name={backbone.get('name')} has other weights than the file ({other[0]} and {len(other) - 1} "
            "more): leave backbone.name out, and the file's own are kept beside the adapter"
        )


def _compare_outputs(model: Any, wanted: nn.Module, what: str) -> None:
    inputs = (draw_noise(model, 2) / 127.5 - 1).to(next(model.parameters()).device)
    with torch.inference_mode():
        difference = float((model.eval()(inputs) - wanted.eval()(inputs)).abs().max())
    if not difference <= CLOSE:
        raise ValueError(
            f"nothing is written: {what} gives other outputs than the model that was read (by {difference:.1e}, wanted "
            f"at most {CLOSE:.0e})"
        )
