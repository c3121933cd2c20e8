"""Export an adapter with its backbone to ONNX, torch.export or TorchScript.

    vision-peft export RUN -o flowers.onnx                      and run_flowers.py, which labels images with it
    vision-peft export RUN -o flowers.onnx --with-preprocessing   uint8 pixels in, probabilities out
    vision-peft export ADAPTER --format torch_export -o flowers.pt2 --fp16
    vision-peft export ADAPTER --format torchscript -o flowers.pt --images PHOTOS

Every method can be exported, for images or clips, with any batch size. The file is kept only if its logits match those
of the adapter to within 1e-4 (0.05 with --fp16). The input is a normalised tensor B 3 H W (clips B 3 T H W), the output
logits, or features after metric learning. With --with-preprocessing the input is uint8 B H W 3 (clips B T H W 3),
already resized to the size of the model; normalisation and softmax are part of the file. ONNX needs
pip install 'vision_peft[export]'.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_peft.cli._adapter import add_adapter, check_adapter, load_on_cpu
from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.inference.make_files import check_absent
from vision_peft.printable import LONGEST_LINE, printable, show
from vision_peft.suggest import did_you_mean

FORMATS = {"onnx": (".onnx",), "torch_export": (".pt2",), "torchscript": (".pt", ".ts", ".pth")}  # and their endings
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_MOST = 64  # images that are compared


def main(argv: Sequence[str]) -> int:
    """Load, export, compare, write."""
    parser = make_parser("export", __doc__)
    add_adapter(parser)
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help="file to write")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)} (default: by the extension of FILE)")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (default: torch's)")
    parser.add_argument("--fp16", action="store_true", help="weights and computation in fp16")
    parser.add_argument("--with-preprocessing", action="store_true", help="uint8 pixels in, probabilities out")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        type=Path,
        help="images, folders or videos to compare on (default: 8 of the run's test split, or noise)",
    )
    parser.add_argument("--tolerance", type=float, metavar="X", help="largest accepted difference between logits")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_args(argv)
    name = _choose_format(options.format, options.out)
    if options.opset is not None and name != "onnx":
        raise ValueError(f"--opset is for --format onnx, got {name}")
    check_adapter(options.adapter)
    files = _list_files(options.images) if options.images else []
    names = [options.out.name, *([f"run_{options.out.stem}.py"] if name == "onnx" else [])]
    check_absent(options.out.parent, names, options.overwrite)
    announce_loading()
    from vision_peft.inference.export import check_packages, export_model

    check_packages(name)
    model = load_on_cpu(options)
    images = _take_images(model, options.adapter, files)
    done = export_model(
        model,
        options.out,
        name,
        images=images,
        opset=options.opset,
        fp16=options.fp16,
        preprocessing=options.with_preprocessing,
        tolerance=options.tolerance,
        overwrite=options.overwrite,
    )
    what = "features" if done.metadata["output"] == "features" else "logits"
    show(f"compared on {images[1]}: {what} differ by at most {done.difference:.1e} from the adapter's")
    for path in done.files:
        show(f"wrote {printable(path, LONGEST_LINE)} ({path.stat().st_size:,} bytes)")
    return 0


def _choose_format(given: str | None, path: Path) -> str:
    if given is not None and given not in FORMATS:
        raise ValueError(f"--format {printable(given)}{did_you_mean(given, FORMATS)}: there are {', '.join(FORMATS)}")
    name = given or next((name for name, endings in FORMATS.items() if path.suffix in endings), None)
    if name is None or path.suffix not in FORMATS[name]:
        kinds = {name: FORMATS[name]} if name else FORMATS
        wanted = "; ".join(f"{name}: {' or '.join(endings)}" for name, endings in kinds.items())
        raise ValueError(f"-o {printable(path)} ends in {path.suffix or 'nothing'}, wanted {wanted}")
    return name


def _list_files(given: Sequence[Path]) -> list[Path]:
    """List the files that were named, and those in folders that were, links followed, up to _MOST."""
    from vision_peft.data.annotations.walk_folders import is_hidden, walk_folder

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            tree = walk_folder(path)
            files = [path / name for name in sorted((*tree.files, *tree.linked)) if not is_hidden(name)]
            found += [file for file in files if file.suffix.lower() in _IMAGES and file.is_file()]
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"--images {path}: there is no such file or folder")
    if not found:
        raise FileNotFoundError(f"--images {', '.join(map(str, given))}: no images there ({', '.join(_IMAGES)})")
    return found[:_MOST]


def _take_images(model: Any, source: str, files: Sequence[Path]) -> tuple[Any, str]:
    from vision_peft.inference.pixels import read_own, read_pixels

    if files:
        return read_pixels(model, files), f"{len(files)} given files"
    return read_own(model, source, 8)
