"""Check a data set before training on it: python tools/check_data.py data=<config> [data.root=... data.task=...].

    python tools/check_data.py data=vtab1k data.root=vtab-1k data.task=dtd
    python tools/check_data.py data=vtab1k data.root=vtab-1k data.task=all --out checked --workers 8
    python tools/check_data.py data=folder data.root=photos --json photos.json

Finds what cannot be read, labels out of range, images in two splits or with two labels (by content), and says what
sizes, formats and counts there are. Exit code 0: no problem (warnings may be), 1: problems, 2: cannot check.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from vision_peft.config.command_line import one_line_errors
from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.contact_sheet import draw_sheet
from vision_peft.data.check.contents import ProgressLine
from vision_peft.data.check.report import summary, to_json
from vision_peft.training.evaluate_saved import data_config


def main() -> int:
    """Parse, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data=<config> data.<key>=...")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write report.json and a sheet of samples there")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report to this file")
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 8), help="threads (default: %(default)s)"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.workers < 1:
        parser.error(f"argument --workers: wanted a number of threads from 1 on, got {arguments.workers}")
    files = [file for file in (arguments.json, arguments.out and arguments.out / "report.json") if file]
    reports = []
    with one_line_errors():
        data = data_config(arguments.overrides)
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        for report in check_tasks(data, arguments.workers, ProgressLine()):
            print(summary(report), flush=True)
            if arguments.out and report.datasets:
                name = report.title.replace(" ", "-").replace("/", "_")
                print(f"samples: {draw_sheet(report.datasets, report.title, arguments.out / f'{name}.png')}")
            reports.append(report)
        result = to_json(reports)
        for file in files:
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"report: {file}")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names and class names
    sys.exit(main())
