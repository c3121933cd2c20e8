"""The function that an exported file computes: the tuned model, perhaps in fp16, or from pixels to probabilities."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 1e-30  # probabilities below are as good as none


class ExportGraph(nn.Module):
    """A model of images or clips as one function of one input, whose first axis is the batch.

    Without preprocessing it maps the normalised float32 input of the model, B 3 H W or B 3 T H W, to logits (B
    classes; of a head for maps B classes H W); with it uint8 pixels as image files hold them, B H W 3 or B T H W 3, of
    the model's size (scaling is left to whoever opens the image: that of Pillow is no operation of ONNX), to the
    softmax of logits / `temperature`. Of images with bands it takes float32 B C H W, or B H W C in the units of their
    files.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        settings: Mapping[str, Any],
        *,
        preprocessing: bool = False,
        fp16: bool = False,
        temperature: float = 1.0,
        output: str = "logits",
    ) -> None:
        super().__init__()
        self.output = output  # what the model gives: logits, or features where nothing is named
        self.preprocessing, self.fp16, self.temperature = preprocessing, fp16, temperature
        self.white = 1.0 if "channels" in settings else 255.0  # bands are in the units of their files
        self.model = copy.deepcopy(model).half() if fp16 else model
        self.size = tuple(settings["size"])
        channels = (-1, *(1,) * (3 if settings.get("num_frames") else 2))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(settings[name], dtype=torch.float32).view(channels))
        self.eval()

    @property
    def input_name(self) -> str:
        """Name of the input in files that name it."""
        return "pixels" if self.preprocessing else "input"

    @property
    def output_name(self) -> str:
        """Name of the output in files that name it."""
        return "probabilities" if self.preprocessing else self.output

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels, channels first, as the model takes them in float32."""
        return (pixels.float() / self.white - self.mean) / self.std

    def prepare(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels, channels first, as this function takes them."""
        return pixels.movedim(1, -1).contiguous() if self.preprocessing else self.normalise(pixels)

    def to_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits of outputs, of probabilities up to a constant for each image."""
        return outputs.clamp_min(_LEAST).log() * self.temperature if self.preprocessing else outputs

    def to_outputs(self, logits: Tensor) -> Tensor:
        """Return what this function gives where the model gives `logits`."""
        return (logits / self.temperature).softmax(1) if self.preprocessing else logits

    def scale(self, outputs: Tensor) -> Tensor:
        """Return what the model answers, for places of a map scaled to the pixels of the input (B C H W)."""
        return F.interpolate(outputs, size=self.size, mode="bilinear") if outputs.ndim == 4 else outputs

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocessing:
            images = self.normalise(images.movedim(-1, 1))
        return self.to_outputs(self.scale(self.model(images.half() if self.fp16 else images).float()))
