"""What a small model computes once it is an ONNX file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


def run_as_onnx(model: nn.Module, x: Tensor, folder: Path) -> Tensor:
    """Write ``model`` as ONNX and run the file; skips where a package for that is missing."""
    pytest.importorskip("onnxscript", reason="needs onnxscript, of the extra test")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra test")
    torch.onnx.export(model.eval(), (x,), folder / "model.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)
