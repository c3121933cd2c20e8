"""The runner that lies beside an exported ONNX file: a few lines that need onnxruntime, numpy and Pillow.

It reads what `Preparation` reads and answers what `Predictor` answers, for every kind of task and of input. Frames of a
clip are not turned by their EXIF data and deep grey is of the full range there, as where a folder of frames is decoded.
"""

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_modes_mapping

from vision_peft.printable import printable

LONGEST = 32  # widths of an image that keeps its ends, see `data.transforms.images`

_HEAD = '''"""{verb} {what} with {shown}: python {runner} {arguments}   (needs onnxruntime, numpy, Pillow)"""
import json, pathlib, sys
import numpy as np, onnxruntime
from PIL import Image
{quiet}session = onnxruntime.InferenceSession(str(pathlib.Path(__file__).with_name({file!r})))
about = session.get_modelmeta().custom_metadata_map
names, task = (json.loads(about.get(key, "null")) for key in ("class_names", "task"))
'''
_QUIET = "onnxruntime.set_default_logger_severity(3)  # else a line for each fp16 operation without a CPU kernel\n"
_BANDS = """mean = np.float32({mean})
def read(path):
    array = np.load(path)
    array = {bands} if array.ndim == 2 else array
    if array.ndim != 3 or {ambiguous}{axis} != {channels}{type}:
        sys.exit(f"{{path}}: wanted {channels} bands{of_type}, got {{array.dtype}} {{array.shape}}")
    array = {last}
    missing = {missing}
    array = np.where(missing, mean, array).astype("float32")
    if np.all(missing) or not np.isfinite(array).all():
        sys.exit(f"{{path}}: values are NaN or infinite, or all are missing")
    array = array{clip}
    return np.stack([scale(Image.fromarray(band)) for band in np.moveaxis(array, -1, 0).copy()], -1)
"""
_LAST = "np.moveaxis(array, 0, -1)"
_LAYOUTS = {  # of arrays: one of two axes, whether it could be read in two ways, its bands, and those put last
    "auto": (
        "array[..., None]",
        "array.shape[0] == array.shape[2] == {channels} or {channels} not in (array.shape[0], array.shape[2]) or ",
        "{channels}",
        f"array if array.shape[2] == {{channels}} else {_LAST}",
    ),
    "hwc": ("array[..., None]", "", "array.shape[2]", "array"),
    "chw": ("array[None]", "", "array.shape[0]", _LAST),
}
_HUGE, _NEAR = 1e30, 1e-5  # a value for none beyond the one is met by what is as near, see `missing_values`
_READ = """def read(path):
    image = Image.open(path)
    image.load()
"""
_UPRIGHT = """    try:  # broken EXIF data turn nothing
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(image.getexif().get(274))
    except Exception:
        turn = None
    image = image if turn is None else image.transpose(Image.Transpose(turn))
"""
_COLOUR = """    if image.mode[0] in "IF":  # grey of more than 8 bits
        values = np.asarray(image).astype("float64")
        low, high = values.min(), values.max()
        if not np.isfinite(high - low):
            sys.exit(f"{{path}}: the image holds NaN or infinite values")
{limits}        values = (values.clip(low, high) - low) * (255 / (high - low) if high > low else 0)
        image = Image.fromarray(np.rint(values).astype("uint8"))
    image.info.pop("transparency", None)
    return scale(image.convert("RGB"))
"""
_FULL = """        tops = (1, 255) if image.mode == "F" else (65535,)
        low, high = next(((0, top) for top in tops if low >= 0 and high <= top), (low, high))
"""
_SQUASH = """def scale(image):
    return np.asarray(image.resize({size}, Image.Resampling.{filter}))
"""
_SHORTEST = """def crop(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
def scale(image):
    most = {longest} * min(image.size)
    image = crop(image, min(image.width, most), min(image.height, most))
    w, h = image.size; W, H = {covered}
    w, h = (max(W, int(w * H / h)), H) if h * W <= w * H else (W, max(H, int(h * W / w)))
    return np.asarray(crop(image.resize((w, h), Image.Resampling.{filter}), {width}, {height}))
"""
_IMAGES = """for path in sys.argv[1:]:
    batch = read(path)[None]
"""
_CLIP = """path, frames = "clip", sys.argv[1:]
for batch in [np.stack([read(frames[len(frames) * (2 * i + 1) // {twice}]) for i in range({frames})])[None]]:
"""
_NORMALISE = """    batch = (batch.astype("float32") / {white} - np.float32({mean})) / np.float32({std})
    {output} = session.run(None, {{"input": np.moveaxis(batch, -1, 1)}})[0][0].astype("float64"){divided}
"""
_PLAIN = """    shares = session.run(None, {"pixels": batch})[0][0]
"""
_SHARES = """    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
"""
_CLASS = """    print(path, repr(names[shares.argmax()]), f"{shares.max():.4f}", sep="\\t")
"""
_TOLD = """    print(path, answer, sep="\\t")
"""
_FEATURES = """    print(path, " ".join(f"{value:.7g}" for value in features), sep="\\t")
"""


def name_runner(file: str) -> str:
    """Return the name of the runner of an ONNX file; it can hide no module that the runner imports."""
    return f"run_{file.removesuffix('.onnx')}.py"


def write_runner(
    file: str,
    settings: Mapping[str, Any],
    temperature: float | None,
    fp16: bool = False,
    answer: str = "",
    *,
    output: str = "logits",
) -> str:
    """Return the Python text that labels images with the ONNX file `file`, scaled as `eval_transform` scales them.

    Args:
        file: name of the ONNX file, beside which the text will lie.
        settings: of the input, see `pixels.complete_settings`.
        temperature: what logits are divided by before the softmax; None: the file gives probabilities of uint8 pixels.
        fp16: whether it computes in fp16.
        answer: what the logits say, `Task.in_numpy`; "": the likeliest class.
        output: what the file gives: logits, or features, which are printed as they are.
    """
    filter_name = Image.Resampling(pil_modes_mapping[InterpolationMode(settings["interpolation"])]).name
    features = output == "features"
    divided = f" / {temperature}" if not features else ""
    compute = _PLAIN if temperature is None else _normalise(settings, output, divided)
    if features:
        tell = _FEATURES
    elif answer:
        tell = answer + _TOLD
    else:
        tell = _CLASS if temperature is None else _SHARES + _CLASS
    frames = settings.get("num_frames")
    loop = _CLIP.format(frames=frames, twice=2 * frames) if frames else _IMAGES
    head = _introduce(file, settings, "Print the features of" if features else "Label", fp16)
    return head + _read(settings) + _scale(settings, filter_name) + loop + compute + tell


def _introduce(file: str, settings: Mapping[str, Any], verb: str, fp16: bool) -> str:
    what, arguments = "images", "IMAGE..."
    if settings.get("num_frames"):
        what, arguments = "images of one clip, in order,", "FRAME..."
    elif "channels" in settings:
        what, arguments = f"arrays of {settings['channels']} bands", "FILE.npy..."
    return _HEAD.format(
        file=file,
        quiet=_QUIET if fp16 else "",
        verb=verb,
        what=what,
        shown=_in_docstring(file),
        runner=_in_docstring(name_runner(file)),
        arguments=arguments,
    )


def _read(settings: Mapping[str, Any]) -> str:
    """Write the function that makes an array of a file."""
    value_range = settings.get("value_range", "full")
    ends = None if isinstance(value_range, str) else tuple(value_range)
    if "channels" in settings:
        return _read_bands(settings, f".clip({ends[0]}, {ends[1]})" if ends else "")
    if settings.get("num_frames"):
        return _READ + _COLOUR.format(limits=_FULL)
    limits = _FULL if value_range == "full" else f"        low, high = {ends[0]}, {ends[1]}\n" if ends else ""
    return _READ + _UPRIGHT + _COLOUR.format(limits=limits)


def _read_bands(settings: Mapping[str, Any], clip: str) -> str:
    channels, nodata, dtype = (settings.get(key) for key in ("channels", "nodata", "dtype"))
    bands, ambiguous, axis, last = (text.format(channels=channels) for text in _LAYOUTS[settings.get("layout", "auto")])
    missing = ["np.isnan(array)"] if settings.get("missing", "error") == "mean" else []
    if nodata is not None and abs(nodata) >= _HUGE:
        missing.append(f"(abs(array.astype('float64') / {nodata!r} - 1) <= {_NEAR})")
    elif nodata is not None:
        missing.append(f"(array.astype('float32') == np.float32({nodata!r}))")
    return _BANDS.format(
        mean=list(settings["mean"]),
        channels=channels,
        bands=bands,
        ambiguous=ambiguous,
        axis=axis,
        last=last,
        type=f" or array.dtype.name != {dtype!r}" if dtype else "",
        of_type=f" of {dtype}" if dtype else "",
        missing=" | ".join(missing) or "False",
        clip=clip,
    )


def _scale(settings: Mapping[str, Any], filter_name: str) -> str:
    """Write the function that scales a picture to the size of the model."""
    height, width = settings["size"]
    if settings["resize"] == "squash":
        return _SQUASH.format(size=(width, height), filter=filter_name)
    covered = tuple(int(side / settings["crop_pct"]) for side in (width, height))
    return _SHORTEST.format(longest=LONGEST, covered=covered, width=width, height=height, filter=filter_name)


def _normalise(settings: Mapping[str, Any], output: str, divided: str) -> str:
    return _NORMALISE.format(
        white=1 if "channels" in settings else 255,
        output=output,
        divided=divided,
        **{key: list(settings[key]) for key in ("mean", "std")},
    )


def _in_docstring(name: str) -> str:
    return printable(name).replace("\\", "/").replace('"', "'")
