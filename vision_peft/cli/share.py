"""Upload an adapter to the Hugging Face hub, with a model card made from its run.

    vision-peft share RUN owner/flowers --dry-run flowers   writes the files to a folder and uploads nothing
    vision-peft share RUN owner/flowers --private

The repository gets adapter.safetensors, adapter.json and README.md: method, counts, protocol, accuracy with its budget,
digest of the data, licence of the backbone's weights, the command. vp.load("hf-hub:owner/flowers") reads it back. The
token is the hub's own: hf auth login, or the variable HF_TOKEN.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.printable import LONGEST_LINE, printable, show


def main(argv: Sequence[str]) -> int:
    """Write the files, upload them, say how they are read."""
    parser = make_parser("share", __doc__)
    parser.add_argument("adapter", metavar="ADAPTER", help="run folder or adapter folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="hub repository, created if it does not exist")
    parser.add_argument("--dry-run", metavar="FOLDER", type=Path, help="write the files there, upload nothing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing adapter")
    options = parser.parse_args(argv)
    if not Path(options.adapter).is_dir():
        raise FileNotFoundError(f"{options.adapter} is not a folder: wanted a run folder or an adapter folder")
    _check_name(options.repository)
    announce_loading()
    from vision_peft.inference.share import upload, write_folder

    if options.dry_run:
        names = write_folder(options.adapter, options.repository, options.dry_run, overwrite=options.overwrite)
        folder = printable(options.dry_run, LONGEST_LINE)
        show(f"wrote {', '.join(names)} in {folder}; nothing was uploaded. Read {folder}/README.md before you share it")
        return 0
    with tempfile.TemporaryDirectory() as place:
        names = write_folder(options.adapter, options.repository, Path(place))
        address = upload(Path(place), options.repository, private=options.private, overwrite=options.overwrite)
    show(f"uploaded {', '.join(names)} to {printable(address, LONGEST_LINE)}")
    show(f'\nin Python:\n  predict = vp.Predictor("hf-hub:{options.repository}")')
    return 0


def _check_name(repository: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", repository, re.ASCII):
        raise ValueError(f"{printable(repository)} is not a name of the hub: wanted OWNER/NAME")
