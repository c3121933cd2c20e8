"""Turn finished runs into one table with mean and spread over seeds, and the commands.

    vision-peft report runs
    vision-peft report runs/vtab1k-* --metric mean_per_class --out results/vtab.md

A row a setting, a column a task. RUNS are folders of runs (searched), single runs, or result.json files. --out FILE.md
writes the same Markdown, --out FILE.csv the numbers.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._verb import announce_loading, make_parser, suggest_next, write_output
from vision_peft.printable import LONGEST_LINE, printable, show
from vision_peft.results.find_rows import find_runs


def main(argv: Sequence[str]) -> int:
    """Read, print, write the file that was asked for."""
    parser = make_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write, .md or .csv")
    parser.add_argument(
        "--metric",
        help="figure in the table: mean_per_class, ... (default: what val chose by, a table for each kind of task)",
    )
    options = parser.parse_args(argv)
    if options.out and options.out.suffix not in (".md", ".csv"):
        raise ValueError(f"--out must end in .md or .csv, got {options.out}")
    found = find_runs(options.runs)
    announce_loading()  # the groups of tasks are those of the data sets
    from vision_peft.data import DATASETS
    from vision_peft.results.figures import choose_metric, select_rows
    from vision_peft.results.report import join_csv, make_report

    suites = {name: family.suite for name, family in DATASETS.items()}
    reports = [
        make_report(select_rows(found.rows, metric), metric, suites, len(found.without_row))
        for metric in choose_metric(found.rows, options.metric)
    ]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        markdown = "\n".join(report.markdown() for report in reports)
        write_output(options.out, join_csv(reports) if options.out.suffix == ".csv" else markdown)
    width = shutil.get_terminal_size().columns
    show("\n".join(report.markdown(width=width) for report in reports).removesuffix("\n"))
    if options.out:  # else the output is the report itself, which may go into a file
        show(f"\nwrote {printable(options.out, LONGEST_LINE)}")
        suggest_next(["plot", *options.runs])
    return 0
