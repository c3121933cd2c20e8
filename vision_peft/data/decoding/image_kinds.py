"""The kinds of image files that can be read here: formats of PIL, and of its plugins where they are installed."""

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from PIL import Image

START = 16  # bytes that PIL tells formats by


class Plugin(NamedTuple):
    """A package that teaches PIL another format; it does so when it is imported, or by its function `register`."""

    package: str
    format: str
    extensions: tuple[str, ...]
    register: str | None = None


PLUGINS = {
    "pillow_heif": Plugin("pillow-heif", "HEIF", (".heic", ".heif", ".hif"), "register_heif_opener"),
    "pillow_avif": Plugin("pillow-avif-plugin", "AVIF", (".avif", ".avifs")),  # of a PIL before 11.3
    "pillow_jxl": Plugin("pillow-jxl-plugin", "JXL", (".jxl",)),
}


def _register_plugins() -> None:
    for module, plugin in PLUGINS.items():
        if plugin.format not in Image.OPEN and find_spec(module) is not None:
            imported = import_module(module)
            if plugin.register:
                getattr(imported, plugin.register)()


Image.init()
_register_plugins()
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF", "HEIF", "JXL")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)  # a build of PIL may lack AVIF
_NAMED_BY = {*FORMATS, "MPO"}  # several JPEG in one file, which the reader of JPEG opens
EXTENSIONS = frozenset(extension for extension, name in Image.EXTENSION.items() if name in _NAMED_BY)
MISSING_PLUGINS = {
    extension: plugin.package
    for plugin in PLUGINS.values()
    for extension in plugin.extensions
    if extension not in EXTENSIONS
}  # extensions of images that cannot be read here, and what would read them

_ACCEPTS = tuple(accepts for name in FORMATS if (accepts := Image.OPEN[name][1]) is not None)


def accepts_start(start: bytes) -> bool:
    """Whether a file that starts with these bytes, `START` of them, is an image of one of `FORMATS`."""
    return len(start) == START and any(accepts(start) is True for accepts in _ACCEPTS)


def starts_as_image(path: str) -> bool:
    """Whether a regular file starts as an image does; False where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a Path takes as long as the rest
            return accepts_start(file.read(START))
    except OSError:
        return False
