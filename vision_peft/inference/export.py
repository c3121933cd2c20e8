"""Export a tuned model to a file that needs nothing of this package, kept only where it computes the same."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.inference.export_formats import FORMATS, LARGEST, Format, Run, count_bytes, quiet_exporters
from vision_peft.inference.export_graph import ExportGraph
from vision_peft.inference.make_files import make_files
from vision_peft.inference.onnx_runner import name_runner, write_runner
from vision_peft.inference.outputs import find_task
from vision_peft.inference.pixels import complete_settings, draw_noise
from vision_peft.printable import printable
from vision_peft.tuning.head_maps import reads_maps

CLOSE, CLOSE_FP16 = 1e-4, 0.05  # of logits
_BATCH = 8  # of the images that are compared; the first is a batch of its own


@dataclass(frozen=True)
class Exported:
    """What was written, and how close it is."""

    files: list[Path]
    difference: float  # largest of logits or features, between the file and the tuned model
    metadata: Mapping[str, str]


def check_packages(name: str) -> None:
    """Raise ImportError where packages that the format `name` needs are not installed."""
    absent = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if absent:
        words = f"package{'s' * (len(absent) > 1)} {', '.join(absent)}"
        raise ImportError(f"--format {name} needs the {words}: pip install 'vision_peft[export]'")


@torch.inference_mode(False)
@torch.no_grad()
def export_model(
    model: Any,
    path: Path,
    name: str,
    *,
    images: tuple[Tensor, str] | None = None,
    opset: int | None = None,
    fp16: bool = False,
    preprocessing: bool = False,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export `model`, from `vp.load` and on the CPU, to `path`; an ONNX file gets a runner beside it.

    Args:
        model: images or clips to logits.
        path: of the file; its folder is made.
        name: of the format, see `FORMATS`.
        images: uint8 pixels of `inference.pixels` on which the file and the model are compared, and words for them.
        opset: of ONNX; None leaves it to torch.
        fp16: weights and computation in fp16; input and output stay as they are.
        preprocessing: from uint8 pixels to probabilities, see `ExportGraph`.
        tolerance: largest difference of logits that is accepted, 1e-4 by default and 0.05 in fp16.
        overwrite: replace files that are there.

    Raises:
        ValueError: the file computes something else, or the exporter cannot write the model; nothing is written then.
        FileExistsError: a file is there, and `overwrite` is False.
        ImportError: a package that the format needs is not installed.
    """
    check_packages(name)
    settings = complete_settings(model)
    pixels, words = images or (draw_noise(model, _BATCH), f"{_BATCH} images of noise")
    temperature = model.adapter_info.temperature or 1.0
    task = find_task(model)
    output = "features" if task.open_set else "logits"
    if not model.num_classes and not task.open_set:
        raise ValueError("this adapter has no head, so there are no logits to export")
    if preprocessing and task.kind != "classes":
        raise ValueError(
            f"--with-preprocessing gives probabilities of one of several classes; this adapter answers a task of "
            f"{task.kind}, whose file gives {output} that the runner beside it reads: leave --with-preprocessing out"
        )
    told: dict[str, Any] = {"temperature": temperature, "output": output}
    graph = ExportGraph(model, settings, preprocessing=preprocessing, fp16=fp16, **told)
    wanted = _run_in_batches(lambda x: graph.scale(model(graph.normalise(x)).float()), pixels)
    accepted = tolerance if tolerance is not None else CLOSE_FP16 if fp16 else CLOSE
    metadata = _describe(model, settings, graph, words)
    traced: Format = FORMATS[name]()
    names = [path.name]
    runner = name == "onnx" and not reads_maps(model)  # it answers for whole images
    if name == "onnx":
        names += [
            *([name_runner(path.name)] if runner else []),
            *([f"{path.name}.data"] if count_bytes(graph) > LARGEST else []),
        ]
    with quiet_exporters(), make_files(path.parent, names, overwrite) as made:
        try:
            traced.trace(graph, graph.prepare(draw_noise(model, 2)), opset)  # torch's files keep this input
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ValueError(
                f"torch cannot write this model as {name}: {printable(_first_line(error), 400)}"
            ) from error
        traced.write(made / path.name, metadata)
        run = traced.open(made / path.name)
        difference = _measure(run, graph, pixels, wanted)
        if not difference <= accepted:
            raise ValueError(
                f"nothing is written: the {output} of the file differ by {difference:.1e} from those of the model on "
                f"{words}, wanted at most {accepted:g} (--tolerance)"
            )
        metadata |= {"difference": f"{difference:.2e}"}
        traced.write(made / path.name, metadata)
        if runner:
            divisor = None if preprocessing else temperature
            text = write_runner(path.name, settings, divisor, fp16, task.in_numpy, output=output)
            (made / names[1]).write_text(text, encoding="utf-8")
    return Exported([path.parent / file for file in names], difference, metadata)


def _measure(run: Run, graph: ExportGraph, pixels: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of logits; of a file that gives probabilities, that of their logarithms."""
    found = _run_in_batches(lambda x: run(graph.prepare(x)), pixels)
    return float((graph.to_logits(found) - graph.to_logits(graph.to_outputs(wanted))).abs().max())


def _run_in_batches(run: Any, pixels: Tensor) -> Tensor:
    """Run the first image alone and the others in batches: a batch size that was baked in would be seen."""
    return torch.cat([run(part).float() for part in (pixels[:1], *pixels[1:].split(_BATCH)) if len(part)])


def _describe(model: nn.Module, settings: Mapping[str, Any], graph: ExportGraph, compared: str) -> dict[str, str]:
    """Return the metadata of a file: texts by name, those that are more than text as JSON."""
    info: Any = model.adapter_info
    names: Sequence[str] = info.class_names or [str(label) for label in range(info.num_classes)]
    clips = {key: settings[key] for key in ("num_frames",) if settings.get("num_frames")}
    used = {key: settings[key] for key in ("size", "mean", "std", "interpolation", "resize", "crop_pct")}
    channels = settings.get("channels", 3)
    axes = "B T H W 3" if clips else f"B H W {channels}"
    values = "float32" if "channels" in settings else "uint8"
    layout = (
        f"{values} {axes}" if graph.preprocessing else f"float32 B {channels} {'T ' if clips else ''}H W, normalised"
    )
    return {
        **({"class_names": json.dumps(list(names))} if graph.output == "logits" else {}),  # features name no class
        "input": json.dumps({**used, **clips, "layout": layout}),
        "output": graph.output_name,
        "temperature": repr(graph.temperature),
        **({"task": json.dumps(info.task)} if info.task else {}),
        "precision": "fp16" if graph.fp16 else "fp32",
        "methods": json.dumps([entry["name"] for entry in info.methods]),
        "backbone": info.backbone_name,
        "license": str(info.license or ""),
        "compared_on": compared,
        "made_by": f"vision_peft {version('vision_peft')}, torch {torch.__version__}",
    }


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
