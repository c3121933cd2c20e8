"""Turn finished runs into one table: a row a setting, a column a task, mean and spread over seeds, and the commands.

    python tools/report.py runs
    python tools/report.py runs/vtab1k-* --metric mean_per_class --out results/vtab.md

RUNS are folders of runs (searched), single runs, or result.json files. --out FILE.md writes the same Markdown,
--out FILE.csv the numbers.
"""

import argparse
import shutil
import sys
from pathlib import Path

from vision_peft.data import DATASETS
from vision_peft.results.report import make_report
from vision_peft.results.row import find_rows
from vision_peft.results.settings import METRICS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder of runs, run folder or result.json")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write, .md or .csv")
    parser.add_argument("--metric", default="top1", choices=METRICS, help="accuracy in the table (default: top1)")
    options = parser.parse_args()
    try:
        if options.out and options.out.suffix not in (".md", ".csv"):
            raise ValueError(f"--out must end in .md or .csv, got {options.out}")
        suites = {name: family.suite for name, family in DATASETS.items()}
        report = make_report(find_rows(options.runs), options.metric, suites)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            if options.out.suffix == ".csv":
                report.write_csv(options.out)
            else:
                options.out.write_text(report.markdown(), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    print(report.markdown(width=shutil.get_terminal_size().columns), end="")
    if options.out:
        print(f"\nwrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # ± on an ASCII terminal
    sys.exit(main())
