"""Fold an adapter into its backbone: a plain timm checkpoint that needs only timm.

    vision-peft merge RUN -o flowers                 flowers/model.safetensors and flowers/config.json
    vision-peft merge ADAPTER -o flowers.safetensors   a file of that name, config.json beside it

The folder has timm's own hub layout: timm.create_model("local-dir:flowers", pretrained=True) loads it, and timm's
resolve_data_config gives the preprocessing. Methods that are not a constant update of the weights cannot be merged;
vision-peft export writes them. Numbers of a regression come out in the units of the labels; grades (ordinal) cannot be
merged, as timm has no such answers. config.json says what else the outputs need: thresholds, unit, temperature.
"""

from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._adapter import add_adapter, check_adapter, load_on_cpu
from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.inference.make_files import check_absent
from vision_peft.printable import LONGEST_LINE, printable, show


def main(argv: Sequence[str]) -> int:
    """Load, merge, write, and say how it is loaded."""
    parser = make_parser("merge", __doc__)
    add_adapter(parser)
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help="folder, or .safetensors file")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_args(argv)
    check_adapter(options.adapter)
    folder, name = _name_outputs(options.out)
    check_absent(folder, ("config.json", name), options.overwrite)
    announce_loading()
    from vision_peft.inference.merged import CONFIG, WEIGHTS, write_merged

    done = write_merged(load_on_cpu(options), folder, name, overwrite=options.overwrite)
    for note in done.notes:
        show(f"note: {note}")
    shown = printable(done.weights, LONGEST_LINE)
    show(f"wrote {shown} and {CONFIG} beside it; logits differ by at most {done.difference:.1e} from the adapter's")
    show("\nin Python, without this package:")
    if done.weights.name == WEIGHTS:
        show(f"  model = timm.create_model({f'local-dir:{done.weights.parent}'!r}, pretrained=True)")
    arguments = "".join(f", {key}={value!r}" for key, value in done.arguments.items())
    show(f"  model = timm.create_model({done.architecture!r}{arguments}, checkpoint_path={str(done.weights)!r})")
    return 0


def _name_outputs(output: Path) -> tuple[Path, str]:
    """Return the folder and the name of the weights."""
    if output.suffix == ".safetensors" and not output.is_dir():
        return output.parent, output.name
    if output.suffix and not output.is_dir():
        raise ValueError(f"-o {output} ends in {output.suffix}: wanted a folder, or a file that ends in .safetensors")
    return output, "model.safetensors"
