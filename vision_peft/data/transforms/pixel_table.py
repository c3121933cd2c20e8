"""From 8-bit pixels to normalised floats by a table of the 256 values that each channel can have.

The table is made by torchvision's own steps, so that the numbers are theirs, bit for bit, in half the time. The tensor
is contiguous: putting images together to a batch then copies them as they lie.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2


class NormalisePixels:
    """PIL image or uint8 tensor to the float tensor `3 H W` of `(pixel / 255 - mean) / std`."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.steps = v2.Compose(
            [
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
                v2.ToPureTensor(),
            ]
        )
        values = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256).contiguous()
        self.table: np.ndarray = self.steps(values)[:, 0].numpy()

    def __call__(self, image: Any) -> torch.Tensor:
        if not isinstance(image, Image.Image) or image.mode != "RGB":
            return self.steps(image)
        pixels = np.asarray(image)
        normalised = np.empty((3, *pixels.shape[:2]), np.float32)
        for channel, values in enumerate(self.table):
            # "clip" of numbers that cannot be out of bounds spares the buffer that numpy's own check writes through
            np.take(values, pixels[..., channel], out=normalised[channel], mode="clip")
        return torch.from_numpy(normalised)
