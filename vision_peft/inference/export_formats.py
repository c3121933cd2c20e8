"""Write an `ExportGraph` as ONNX, torch.export or TorchScript, with metadata, and run what was written."""

import contextlib
import importlib
import io
import json
import logging
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vision_peft.inference.export_graph import ExportGraph

ABOUT = "about.json"  # name of the metadata inside torch's files
LARGEST = 2**31 - 2**26  # bytes of weights; an ONNX file that holds them itself ends at 2^31
Run = Callable[[Tensor], Tensor]
Metadata = Mapping[str, str]


def count_bytes(graph: torch.nn.Module) -> int:
    """Count the bytes of all tensors of a model."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*graph.parameters(), *graph.buffers()))


class Format(ABC):
    """One of the formats: a graph, traced once, that is written and run."""

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()  # beyond torch's

    @abstractmethod
    def trace(self, graph: ExportGraph, example: Tensor, opset: int | None) -> None:
        """Record the operations of `graph` on a batch of `example`, for batches of any size."""

    @abstractmethod
    def write(self, path: Path, metadata: Metadata) -> None:
        """Write what was traced."""

    @abstractmethod
    def open(self, path: Path) -> Run:
        """Return what runs a file on a batch, on the CPU."""


class Onnx(Format):
    """ONNX by torch's exporter, run by onnxruntime; the metadata are `metadata_props`."""

    name, endings, packages = "onnx", (".onnx",), ("onnx", "onnxscript", "onnxruntime")

    def trace(self, graph: ExportGraph, example: Tensor, opset: int | None) -> None:
        names = {"input_names": [graph.input_name], "output_names": [graph.output_name]}
        shapes = ({0: torch.export.Dim("batch")},)
        options: dict[str, Any] = {"opset_version": opset, "dynamo": True, "verbose": False, "dynamic_shapes": shapes}
        self.program: Any = torch.onnx.export(graph, (example,), **names, **options)
        found = self.program.model.opset_imports.get("")
        if opset is not None and found != opset:
            raise ValueError(f"--opset {opset} cannot be written: torch's exporter gave {found} in its place")
        for part in (self.program.model.graph, *self.program.model.graph.all_nodes()):
            part.metadata_props.clear()  # traces of this machine's source files
        self.is_large = count_bytes(graph) > LARGEST  # weights then go into FILE.data

    def write(self, path: Path, metadata: Metadata) -> None:
        self.program.model.metadata_props.update(metadata)
        self.program.save(path, external_data=self.is_large)

    def open(self, path: Path) -> Run:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns about every fp16 operation that it has no CPU kernel for
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


class TorchExport(Format):
    """torch.export's program, which `torch.export.load(FILE).module()` runs; the metadata are an extra file."""

    name, endings = "torch_export", (".pt2",)

    def trace(self, graph: ExportGraph, example: Tensor, opset: int | None) -> None:
        self.program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for module in self.program.graph_module.modules():
            for node in getattr(module, "graph", torch.fx.Graph()).nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine

    def write(self, path: Path, metadata: Metadata) -> None:
        torch.export.save(self.program, path, extra_files={ABOUT: json.dumps(dict(metadata))})

    def open(self, path: Path) -> Run:
        return torch.export.load(path).module()


class TorchScript(Format):
    """A trace that `torch.jit.load(FILE)` runs, from C++ too; the metadata are an extra file."""

    name, endings = "torchscript", (".pt", ".ts", ".pth")

    def trace(self, graph: ExportGraph, example: Tensor, opset: int | None) -> None:
        self.program: Any = torch.jit.trace(graph, (example,), check_trace=False)

    def write(self, path: Path, metadata: Metadata) -> None:
        content = io.BytesIO()
        torch.jit.save(self.program, content, _extra_files={ABOUT: json.dumps(dict(metadata))})
        with zipfile.ZipFile(content) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as kept:
            for entry in whole.infolist():
                if not entry.filename.endswith(".debug_pkl"):  # paths of this machine
                    kept.writestr(entry, whole.read(entry))

    def open(self, path: Path) -> Run:
        return torch.jit.load(path, map_location="cpu")


FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (Onnx, TorchExport, TorchScript)}


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep to themselves what the exporters say about their own insides."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
