"""Plot the accuracy of finished runs against their cost.

    vision-peft plot runs
    vision-peft plot runs/digits --metric mean_per_class --x stored --out figures/digits
    vision-peft plot runs --x memory --pareto --width column --out figures/memory
    vision-peft plot runs --significance seeds

RUNS are folders of runs (searched), single runs, or result.json files. There is a panel for each task, or one for the
mean of all with --mean. It writes OUT.png, OUT.svg, OUT.pdf and OUT.csv, and with --significance OUT.pairs.csv.
"""

from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._verb import announce_loading, make_parser, suggest_next, write_output
from vision_peft.printable import LONGEST_LINE, printable, show


def main(argv: Sequence[str]) -> int:
    """Read, draw, print the table."""
    parser = make_parser("plot", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument(
        "--out", default="accuracy", help="path of the files without extension, or a folder (default: accuracy)"
    )
    parser.add_argument("--metric", help="figure on the y axis: mean_per_class, ... (default: the one val chose by)")
    parser.add_argument(
        "--x",
        default="trained",
        help="trained or stored (parameters without the head), step_time, memory, inference (FLOPs of a forward "
        "pass), adapter (bytes on disk) (default: trained)",
    )
    parser.add_argument(
        "--width", default="page", help="column (3.25 inches), page (6.75 inches) or inches (default: page)"
    )
    parser.add_argument("--mean", action="store_true", help="draw the mean over all tasks in place of each task")
    parser.add_argument("--pareto", action="store_true", help="draw the Pareto front of accuracy and cost")
    parser.add_argument(
        "--significance",
        choices=("seeds", "items"),
        help="test all pairs: methods over the seeds and tasks they share, or settings over test items",
    )
    options = parser.parse_args(argv)
    from vision_peft.results.figures import choose_metric, describe_metric, list_measured, select_rows
    from vision_peft.results.find_rows import find_runs

    found = find_runs(options.runs)
    wanted = choose_metric(found.rows, options.metric)
    metric, *others = list_measured(found.rows, wanted) or wanted[:1]
    if others:
        names = ", ".join((metric, *others))
        raise ValueError(f"the runs have several kinds of task: choose one figure, --metric one of {names}")
    announce_loading()  # the names of methods are those of their classes
    from vision_peft.results.plots.plot import plot_accuracy
    from vision_peft.results.significance import compare_all, write_pairs
    from vision_peft.results.table import format_rows
    from vision_peft.results.task_means import average_over_tasks

    rows = drawn = select_rows(found.rows, metric)
    remarks, tables = [], []
    if options.mean:
        drawn, remarks = average_over_tasks(rows, metric)
    if options.significance:
        tables, notes = compare_all(rows, metric, options.significance)
        remarks += [*(table.describe() for table in tables), *notes]
    look = {"width": options.width, "pareto": options.pareto, "remarks": remarks}
    files = plot_accuracy(drawn, options.out, metric, options.x, len(found.without_row), **look)
    if options.significance:
        pairs = files[-1].with_suffix(".pairs.csv")
        write_output(Path(pairs), write_pairs(tables))
        files.append(pairs)
    show(format_rows(found.rows, mean_over_seeds=True))
    if remarks:
        show("\n" + "\n".join(printable(remark, LONGEST_LINE) for remark in remarks))
    for other in wanted:
        if other != metric:
            show(f"\nnot drawn: {describe_metric(select_rows(found.rows, other), other)}, which no finished run has")
    show("\nwrote " + ", ".join(printable(file, LONGEST_LINE) for file in files))
    suggest_next(["report", *options.runs])
    return 0
