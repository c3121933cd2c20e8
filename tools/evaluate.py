"""Evaluate a run or an adapter: python tools/evaluate.py FOLDER [data=... data.root=... split=test device=auto ...]."""

import argparse
import json
from pathlib import Path

from vision_peft.config.command_line import one_line_errors
from vision_peft.distributed.processes import on_rank0, print_rank0
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.evaluation import format_metrics, to_json

EPILOG = """
examples:
  python tools/evaluate.py runs/digits/dinov2_small_pypi-56px/adaptformer/...      the figures that training reported
  python tools/evaluate.py RUN split=val                                           another split
  python tools/evaluate.py ADAPTER data=folder data.root=photos device=cuda        an adapter folder, on other data
  torchrun --nproc_per_node=4 tools/evaluate.py RUN                                four processes share the data
"""


def main() -> None:
    """Parse, evaluate, print."""
    parser = argparse.ArgumentParser(
        description="Evaluate what training left behind.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="a run folder, or an adapter folder (then data=... is needed)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data, backbone, split, device, precision, workers, bad_eval"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    arguments = parser.parse_intermixed_args()
    with one_line_errors():
        done = evaluate_saved(arguments.folder, arguments.overrides)
        print_rank0(f"{done.data.name} {done.split}: {format_metrics(done.metrics)}")
        if arguments.json:
            text = json.dumps(to_json(done.metrics), indent=2) + "\n"
            on_rank0(lambda: arguments.json.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
