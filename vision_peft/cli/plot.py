"""Draw accuracy against parameters of finished runs.

    vision-peft plot runs
    vision-peft plot runs/digits --metric mean_per_class --x stored --out figures/digits

RUNS are folders of runs (searched), single runs, or result.json files. Writes OUT.png, OUT.svg and OUT.csv.
"""

from collections.abc import Sequence

from vision_peft.cli._verb import make_parser, suggest_next
from vision_peft.printable import LONGEST_LINE, printable, show


def main(argv: Sequence[str]) -> int:
    """Read, draw, print the table."""
    parser = make_parser("plot", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument("--out", default="accuracy", help="path of the files without their ending (default: accuracy)")
    parser.add_argument("--metric", help="figure on the y axis: mean_per_class, ... (default: what val chose by)")
    parser.add_argument(
        "--x",
        default="trained",
        choices=("trained", "stored"),
        help="parameters that train, or that the adapter stores; both without the head (default: trained)",
    )
    options = parser.parse_args(argv)
    from vision_peft.results.figures import choose_metric, select_rows
    from vision_peft.results.find_rows import find_runs
    from vision_peft.results.plot import plot_accuracy
    from vision_peft.results.table import format_rows

    found = find_runs(options.runs)
    metric, *others = choose_metric(found.rows, options.metric)
    if others:
        names = ", ".join((metric, *others))
        raise ValueError(f"the runs are of several kinds of task: choose what to draw, --metric one of {names}")
    files = plot_accuracy(select_rows(found.rows, metric), options.out, metric, options.x, len(found.without_row))
    show(format_rows(found.rows, mean_over_seeds=True))
    show("\nwrote " + ", ".join(printable(file, LONGEST_LINE) for file in files))
    suggest_next(["report", *options.runs])
    return 0
