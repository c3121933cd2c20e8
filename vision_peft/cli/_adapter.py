"""What verbs share that take a trained adapter: the argument, and where its backbone's weights come from."""

import argparse
from pathlib import Path
from typing import Any

from vision_peft.home_paths import expand_home


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the adapter and the two ways to give its backbone."""
    parser.add_argument("adapter", metavar="ADAPTER", help="run folder, adapter folder or hf-hub:OWNER/NAME")
    parser.add_argument("--backbone", metavar="NAME", help="another name of the backbone, with the same weights")
    parser.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="weight file of a backbone that came from a file"
    )


def check_adapter(source: str) -> None:
    """Raise FileNotFoundError, before torch is loaded, where there is no folder of that name."""
    if not source.startswith(("hf-hub:", "hf_hub:")) and not expand_home(source).is_dir():
        raise FileNotFoundError(
            f"{source} is not a folder: wanted a run folder, an adapter folder or hf-hub:OWNER/NAME"
        )


def load_on_cpu(options: argparse.Namespace) -> Any:
    """Return the tuned model of the arguments of `add_adapter`, on the CPU."""
    from vision_peft.inference.load import load

    return load(options.adapter, device="cpu", backbone=options.backbone, checkpoint=options.checkpoint)
