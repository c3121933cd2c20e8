"""Draw accuracy against parameters of finished runs.

    python tools/plot.py runs
    python tools/plot.py runs/digits --metric mean_per_class --x stored --out figures/digits

RUNS are folders of runs (searched), single runs, or result.json files. Writes OUT.png, OUT.svg and OUT.csv.
"""

import argparse
import sys

from vision_peft.results.plot import plot_accuracy
from vision_peft.results.row import find_rows
from vision_peft.results.settings import METRICS
from vision_peft.results.table import format_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument("--out", default="accuracy", help="path of the files without their ending (default: accuracy)")
    parser.add_argument("--metric", default="top1", choices=METRICS, help="accuracy on the y axis (default: top1)")
    parser.add_argument(
        "--x",
        default="trained",
        choices=("trained", "stored"),
        help="parameters that train, or that the adapter stores; both without the head (default: trained)",
    )
    options = parser.parse_args()
    try:
        rows = find_rows(options.runs)
        files = plot_accuracy(rows, options.out, metric=options.metric, x=options.x)
    except (ValueError, OSError) as error:
        print(f"plot.py: error: {error}", file=sys.stderr)
        return 2
    print(format_rows(rows, mean_over_seeds=True))
    print("\nwrote " + ", ".join(str(file) for file in files))
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # ± on an ASCII terminal
    sys.exit(main())
