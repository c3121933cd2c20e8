"""Put finished runs into one table: mean and spread over seeds, and the commands.

    vision-peft report runs
    vision-peft report runs -o report.html
    vision-peft report runs/vtab1k-* --metric mean_per_class --out results/vtab.md

The table has a row per setting and a column per task. RUNS are folders of runs (searched), single runs, or result.json
files. --out FILE.md writes it as Markdown, --out FILE.csv the numbers. --out FILE.html writes a self-contained page
with curves, tables that sort and filter, costs, and every setting in detail.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._verb import announce_loading, make_parser, suggest_next, write_output
from vision_peft.printable import LONGEST_LINE, printable, show
from vision_peft.results.find_rows import find_runs
from vision_peft.suggest import did_you_mean

FORMATS = (".md", ".csv", ".html")


def main(argv: Sequence[str]) -> int:
    """Read, print, write the file that was asked for."""
    parser = make_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, help="file to write, .html, .md or .csv")
    parser.add_argument(
        "--metric",
        help="figure in the table: mean_per_class, ... (default: the one val chose by, one table per kind of task); "
        "an .html page has all figures",
    )
    parser.add_argument(
        "--thumbnails",
        action="store_true",
        help="in an .html page, show the hardest test images, read from the data named in config.yaml",
    )
    options = parser.parse_args(argv)
    suffix = options.out.suffix if options.out else ""
    if options.out and suffix not in FORMATS:
        raise ValueError(f"--out must end in .html, .md or .csv, got {options.out}{did_you_mean(suffix, FORMATS)}")
    if options.thumbnails and suffix != ".html":
        raise ValueError("--thumbnails is for an .html page: give -o report.html")
    found = find_runs(options.runs)
    announce_loading()  # the groups of tasks are those of the datasets
    from vision_peft.data import DATASETS
    from vision_peft.results.figures import choose_metric
    from vision_peft.results.report import join_csv, make_reports

    suites = {name: family.suite for name, family in DATASETS.items()}
    reports = make_reports(found.rows, choose_metric(found.rows, options.metric), suites, len(found.without_row))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".html":
        from vision_peft.cli._thumbnails import Thumbnails
        from vision_peft.config.published import read_published
        from vision_peft.results.html_page import make_page

        picture = Thumbnails() if options.thumbnails else None
        write_output(options.out, make_page(found.rows, suites, read_published, len(found.without_row), picture))
    elif options.out:
        markdown = "\n".join(report.markdown() for report in reports)
        write_output(options.out, join_csv(reports) if suffix == ".csv" else markdown)
    width = shutil.get_terminal_size().columns
    show("\n".join(report.markdown(width=width) for report in reports).removesuffix("\n"))
    if options.out:  # else the output is the report itself, which may go into a file
        show(f"\nwrote {printable(options.out, LONGEST_LINE)}")
        suggest_next(["plot", *options.runs])
    return 0
