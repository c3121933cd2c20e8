"""The runner that lies beside an exported ONNX file: a few lines that need onnxruntime, numpy and Pillow."""

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_modes_mapping

from vision_peft.printable import printable

_HEAD = '''"""Label images{of_clips} with {shown}: python {runner} {arguments}   (needs onnxruntime, numpy, Pillow)"""
import json, pathlib, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps
{quiet}session = onnxruntime.InferenceSession(str(pathlib.Path(__file__).with_name({file!r})))
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
{task}def read(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
'''
_TASK = 'task = json.loads(session.get_modelmeta().custom_metadata_map["task"])\n'
_QUIET = "onnxruntime.set_default_logger_severity(3)  # else a line for each fp16 operation without a CPU kernel\n"
_BANDS = '''"""Label arrays of {channels} bands with {shown}: python {runner} FILE.npy   (onnxruntime, numpy, Pillow)"""
import json, pathlib, sys
import numpy as np, onnxruntime
from PIL import Image
{quiet}session = onnxruntime.InferenceSession(str(pathlib.Path(__file__).with_name({file!r})))
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
mean = np.float32({mean})
def read(path):
    array = np.load(path).astype("float32")
    array = array.reshape(*array.shape[:2], -1)
    array = array if array.shape[-1] == {channels} else np.moveaxis(array, 0, -1)
    array = np.where(np.isnan(array){nodata}, mean, array){clip}
    return np.stack([scale(Image.fromarray(band)) for band in np.moveaxis(array, -1, 0).copy()], -1)
def scale(image):
'''
_SQUASH = """    return np.asarray(image.resize({size}, Image.Resampling.{filter}))
"""
_SHORTEST = """    w, h = image.size; W, H = {covered}
    w, h = (max(W, int(w * H / h)), H) if h * W <= w * H else (W, max(H, int(h * W / w)))
    left, top = round((w - {width}) / 2), round((h - {height}) / 2)
    return np.asarray(image.resize((w, h), Image.Resampling.{filter}).crop((left, top, left + {width}, top + {height})))
"""
_IMAGES = """for path in sys.argv[1:]:
    batch = read(path)[None]
"""
_CLIP = """path, frames = "clip", sys.argv[1:]
for batch in [np.stack([read(frames[len(frames) * (2 * i + 1) // {twice}]) for i in range({frames})])[None]]:
"""
_NORMALISE = """    batch = (batch.astype("float32") / {white} - np.float32({mean})) / np.float32({std})
    logits = session.run(None, {{"input": np.moveaxis(batch, -1, 1)}})[0][0] / {temperature}
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
"""
_PLAIN = """    shares = session.run(None, {"pixels": batch})[0][0]
"""
_TAIL = """    print(path, repr(names[shares.argmax()]), f"{shares.max():.4f}", sep="\\t")
"""


_TOLD = """    print(path, answer, sep="\\t")
"""


def name_runner(file: str) -> str:
    """Return the name of the runner of an ONNX file; it can hide no module that the runner imports."""
    return f"run_{file.removesuffix('.onnx')}.py"


def write_runner(
    file: str, settings: Mapping[str, Any], temperature: float | None, fp16: bool = False, answer: str = ""
) -> str:
    """Return the Python text that labels images with the ONNX file `file`, scaled as `eval_transform` scales them.

    Args:
        file: name of the ONNX file, beside which the text will lie.
        settings: of the input, see `pixels.complete_settings`.
        temperature: what logits are divided by before the softmax; None: the file gives probabilities of uint8 pixels.
        fp16: whether it computes in fp16.
        answer: what the logits say, `Task.in_numpy`; "": the likeliest class.
    """
    height, width = settings["size"]
    frames = settings.get("num_frames")
    taken = Image.Resampling(pil_modes_mapping[InterpolationMode(settings["interpolation"])]).name
    arguments, of_clips = ("FRAME...", " of one clip, in order,") if frames else ("IMAGE...", "")
    head = _HEAD.format(
        file=file,
        quiet=_QUIET if fp16 else "",
        shown=_in_docstring(file),
        runner=_in_docstring(name_runner(file)),
        arguments=arguments,
        of_clips=of_clips,
        task=_TASK if answer else "",
    )
    if settings["resize"] == "squash":
        scale = _SQUASH.format(size=(width, height), filter=taken)
    else:
        covered = tuple(int(side / settings["crop_pct"]) for side in (width, height))
        scale = _SHORTEST.format(covered=covered, width=width, height=height, filter=taken)
    if "channels" in settings:
        head = _BANDS.format(
            file=file,
            quiet=_QUIET if fp16 else "",
            shown=_in_docstring(file),
            runner=_in_docstring(name_runner(file)),
            channels=settings["channels"],
            mean=list(settings["mean"]),
            nodata=f" | (array == {settings['nodata']!r})" if settings.get("nodata") is not None else "",
            clip=".clip({}, {})".format(*settings["value_range"]) if "value_range" in settings else "",
        )
    items = _CLIP.format(frames=frames, twice=2 * frames) if frames else _IMAGES
    values = {
        "white": 1 if "channels" in settings else 255,
        "temperature": temperature,
        **{key: list(settings[key]) for key in ("mean", "std")},
    }
    logits = _PLAIN if temperature is None else _NORMALISE.format(**values)
    return head + scale + items + logits + (answer + _TOLD if answer else _TAIL)


def _in_docstring(name: str) -> str:
    return printable(name).replace("\\", "/").replace('"', "'")
