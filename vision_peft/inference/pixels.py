"""Pixels to show a model: of its own run, of files, or seeded noise. uint8, as they are before they are normalised."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_peft.backbones import input_config
from vision_peft.config.parse import parse_data
from vision_peft.formats.input_record import complete_input
from vision_peft.home_paths import expand_home
from vision_peft.inference.prepare import Item, Preparation
from vision_peft.printable import printable
from vision_peft.runs.run_config import CONFIG, read_config
from vision_peft.runs.run_files import check_read_folder
from vision_peft.tuning.backbone import input_channels

SEED = 0


def complete_settings(model: Any) -> dict[str, Any]:
    """Return how an image becomes the input of a model of `vp.load`: size, mean, std, interpolation, resize, ..."""
    info = getattr(model, "adapter_info", None)
    return complete_input(None if info is None else info.input, input_config(model))


def draw_noise(model: Any, number: int) -> Tensor:
    """Draw `number` images of noise, the same every time: N 3 H W, of clips N 3 T H W.

    Of bands it is float32 N C H W in the units of their files, spread as the training's values are.
    """
    settings = complete_settings(model)
    frames = [settings["num_frames"]] if settings.get("num_frames") else []
    generator = torch.Generator().manual_seed(SEED)
    if "channels" in settings:
        mean, std = (torch.tensor(settings[key], dtype=torch.float32).view(-1, 1, 1) for key in ("mean", "std"))
        return torch.randn(number, settings["channels"], *settings["size"], generator=generator) * std + mean
    return torch.randint(
        0, 256, (number, input_channels(model), *frames, *settings["size"]), dtype=torch.uint8, generator=generator
    )


def read_pixels(model: Any, items: Sequence[Item]) -> Tensor:
    """Return files of images (of clips: of videos) as `draw_noise` returns its images, scaled and cropped.

    Raises:
        ImageDecodeError: one cannot be read.
    """
    settings = complete_settings(model)
    prepare = Preparation({**settings, **_as_they_are(settings)})
    return _to_pixels([prepare(item) for item in items], settings)


def read_own(model: Any, source: str | Path, number: int) -> tuple[Tensor, str]:
    """Return pixels of the test split of the run that `source` is, or is the adapter of, and words for them.

    Where there is no such run, or its data is not there any more, the pixels are noise and the words say so.
    """
    what = "clips" if complete_settings(model).get("num_frames") else "images"
    folder = expand_home(source)
    run = next((place for place in (folder, folder.absolute().parent) if (place / CONFIG).is_file()), None)
    if run is None:
        return draw_noise(model, number), f"{number} {what} of noise (seed {SEED}; there is no run to take {what} of)"
    try:
        check_read_folder(run)
        section = read_config(run)["data"]
        if section.get("hub"):
            raise ValueError("it is on the hub, and nothing is fetched for this")
        data = parse_data({key: value for key, value in section.items() if key != "download"})
        dataset = data.load("test")
        settings = complete_settings(model)
        dataset.set_evaluation({**settings, **_as_they_are(settings)})
        step = max(1, len(dataset) // number)
        found = [dataset[index][0] for index in range(0, len(dataset), step)][:number]
        return _to_pixels(found, settings), f"{len(found)} {what} of the run's test split (data={data.name})"
    except (ValueError, OSError, ImportError, KeyError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        return draw_noise(model, number), f"{number} {what} of noise (seed {SEED}; the run's data: {reason})"


def _as_they_are(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which an image is scaled and cropped, and its values are left alone."""
    channels = settings.get("channels", 3)
    return {"mean": [0.0] * channels, "std": [1.0] * channels, "views": 1, "crops": 1}


def _to_pixels(images: Sequence[Tensor], settings: Mapping[str, Any]) -> Tensor:
    pixels = torch.stack([*images])
    return pixels if "channels" in settings else (pixels * 255).round().to(torch.uint8)
