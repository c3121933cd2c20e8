"""What an adapter says of its backbone: the name as one string, the architecture, and how to make it again."""

from collections.abc import Mapping
from typing import Any

from vision_peft.backbones.bounds import argument_problems
from vision_peft.backbones.clips import INFLATE
from vision_peft.backbones.provenance import backbone_name, created_with
from vision_peft.formats.input_record import MAX_FRAMES, MAX_SIDE
from vision_peft.printable import printable
from vision_peft.tuning.backbone import architecture
from vision_peft.tuning.packed_linear import quantized_as
from vision_peft.tuning.quantize import DTYPES

BACKBONE = "backbone.safetensors"  # weights of a backbone that lie beside its adapter, recorded by this name alone
MAX_TEXT = 4096  # letters of a name or path
MAX_CLASSES = 2**16
_OWN = (
    "pretrained",
    "checkpoint",
    "seed",
    "num_classes",
    "num_frames",
    "tubelet_size",
    "inflate",
    "mean_first",
    "unrecorded",
)


def record_backbone(model: Any) -> dict[str, Any]:
    """Describe the backbone of ``model``, as adapter.json holds it.

    ``name`` is one string that ``create_backbone`` takes; ``license`` is that of the weights where timm knows it;
    ``arguments`` are those of ``create_backbone``, None where something else made the model. A checkpoint is recorded
    as it was given, for information: nothing opens that path. Arguments that JSON does not hold are named under
    ``unrecorded``. ``quantized`` says in what type packed weights are kept, where they are.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    given = created_with(model)
    arguments = None
    if given is not None:
        rest = {key: value for key, value in given.items() if key not in ("name", "img_size")}
        strange = [key for key in rest if key not in _OWN and argument_problems({key: rest[key]})]
        arguments = {key: value for key, value in rest.items() if key not in strange}
        arguments |= {"unrecorded": strange} if strange else {}
    known = None if given is not None and not given.get("pretrained") else config.get("license")
    found = {"name": backbone_name(model), "license": known, "architecture": architecture(model)}
    packed = quantized_as(model)
    return {**found, "arguments": arguments, **({} if packed is None else {"quantized": packed})}


def full_name(backbone: Mapping[str, Any]) -> str:
    """Return the name of a recorded backbone as one string; older adapters keep name and tag apart."""
    return ".".join(str(part) for part in (backbone.get("name"), backbone.get("tag")) if part)


def backbone_problems(backbone: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with a recorded backbone, each of its entries named."""
    problems = [
        f"backbone.{key} is not text: {str(backbone[key])[:40]!r}"
        for key in ("name", "tag", "license")
        if backbone.get(key) is not None and not (isinstance(backbone[key], str) and len(backbone[key]) <= MAX_TEXT)
    ]
    if backbone.get("quantized") not in (None, *DTYPES):
        problems.append(f"backbone.quantized is {printable(backbone['quantized'], 40)}, wanted {' or '.join(DTYPES)}")
    if not isinstance(backbone.get("architecture", {}), dict | None):
        problems.append(f"backbone.architecture is {printable(backbone['architecture'], 40)}, wanted an object")
    arguments = backbone.get("arguments")
    if arguments is None:
        return problems
    if not isinstance(arguments, dict):
        return [*problems, f"backbone.arguments is {printable(arguments, 40)}, wanted an object or null"]
    accepted = {
        "pretrained": (lambda value: isinstance(value, bool), "true or false"),
        "checkpoint": (lambda value: isinstance(value, str) and len(value) <= MAX_TEXT, "a path"),
        "seed": (lambda value: type(value) is int and 0 <= value < 2**64, "a whole number from 0 to 2^64 - 1"),
        "num_classes": (lambda value: type(value) is int and 0 < value <= MAX_CLASSES, f"1 to {MAX_CLASSES} classes"),
        "num_frames": (_is_frames, f"1 to {MAX_FRAMES} frames"),
        "tubelet_size": (_is_frames, f"1 to {MAX_FRAMES} frames"),
        "inflate": (lambda value: value in INFLATE, " or ".join(INFLATE)),
        "mean_first": (lambda value: isinstance(value, bool), "true or false"),
        "unrecorded": (lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value), "names"),
    }
    problems += [
        f"backbone.arguments.{key} is {printable(arguments[key], 60)}, wanted {words}"
        for key, (accept, words) in accepted.items()
        if key in arguments and not accept(arguments[key])
    ]
    rest = {key: value for key, value in arguments.items() if key not in accepted}
    return problems + [f"backbone.arguments: {problem}" for problem in argument_problems(rest)]


def recorded_size(backbone: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width in pixels that a recorded backbone was built for, None where it takes any.

    Raises:
        ValueError: not a size.
    """
    size = (backbone.get("architecture") or {}).get("img_size")
    if not size:
        return None
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n <= MAX_SIDE for n in size)):
        raise ValueError(f"backbone.architecture.img_size is {printable(size, 60)}, wanted [height, width] in pixels")
    return size[0], size[1]


def creation_arguments(backbone: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``create_backbone`` that make a recorded backbone again.

    Args:
        backbone: as ``record_backbone`` or an older vision_peft wrote it.
        given: arguments of the user, which stand before the recorded ones; ``checkpoint`` has to be among them where
            the backbone was made from a file.

    Returns:
        The arguments, ``name`` among them; ``seed`` is for torch, where the weights are random.

    Raises:
        ValueError: what was recorded does not tell where the weights come from; says what to give.
    """
    recorded = backbone.get("arguments")
    name = given.get("name") or full_name(backbone)
    found = _inferred(backbone) if recorded is None else dict(recorded)
    file, unrecorded = found.pop("checkpoint", None), found.pop("unrecorded", [])
    found = {**found, "img_size": recorded_size(backbone), **given, "name": name}
    problems = [f"give {key}=..., which adapter.json cannot hold" for key in unrecorded if key not in given]
    if found.get("checkpoint") is not None:
        found |= {"pretrained": False}
        found = {key: value for key, value in found.items() if key not in ("seed", "num_classes")}
    elif file is not None:
        problems.append(f"its weights came from the file {file[:200]!r}: give it as checkpoint=FILE")
    elif name.startswith("local-dir:") and "name" not in given:
        problems.append("its weights came from a folder: give it as backbone='local-dir:FOLDER'")
    elif not name:
        problems.append(
            "its name is not recorded: give backbone=NAME, and checkpoint=FILE if its weights are in a file"
        )
    elif not found.get("pretrained") and found.get("seed") is None:
        problems.append(_other_ways(random=recorded is not None))
    elif recorded is None and found.get("tubelet_size") and "inflate" not in given:
        problems.append("how image weights were inflated is not recorded: give inflate='average' or 'centre'")
    if problems:
        words = printable("; ".join(problems), 2000)
        raise ValueError(f"cannot make the backbone {printable(name) or '(unnamed)'} of this adapter: {words}")
    return found


def _other_ways(random: bool) -> str:
    """Say what can be done where a name and a seed do not give the weights."""
    lost = "are not recorded"
    if random:
        lost = "were random, and no seed is recorded: torch.manual_seed(N) has to come right before create_backbone"
    return (
        f"its weights {lost}. With the model at hand call vp.load_adapter(model, FOLDER), else give checkpoint=FILE or "
        "backbone='ARCHITECTURE.TAG'"
    )


def _inferred(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Infer from name and architecture the arguments of a backbone whose arguments are not recorded."""
    known = backbone.get("architecture") or {}
    clip = {key: known[key] for key in ("num_frames", "tubelet_size", "mean_first") if known.get(key)}
    name = full_name(backbone)
    return {**({"pretrained": True} if "." in name or ":" in name else {}), **clip}


def _is_frames(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_FRAMES
