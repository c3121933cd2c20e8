"""Check this machine, and say how to fix what is wrong.

    vision-peft doctor
    vision-peft doctor --network   also contacts the package index and the Hugging Face hub
    vision-peft doctor --json      the same as JSON

It checks Python, package versions, torch and the GPU, cores, memory, disks, the cached weights, video decoders and
extras. Each finding is one line: ok, a note, or a problem and its fix. Exit code 1 if there are problems.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._verb import make_parser
from vision_peft.printable import LONGEST_LINE, printable, show

STYLES = {"ok": "green", "note": "yellow", "problem": "red"}


def main(argv: Sequence[str]) -> int:
    """Gather the facts, show what follows from them; 1 if there are problems."""
    parser = make_parser("doctor", __doc__)
    parser.add_argument("--network", action="store_true", help="also contact the package index and the hub")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output-dir", metavar="FOLDER", type=Path, default=Path("runs"), help="folder of runs (runs)")
    options = parser.parse_args(argv)
    from vision_peft.doctor.diagnose import PROBLEM, diagnose
    from vision_peft.doctor.gather import gather
    from vision_peft.runs.texts import break_lines

    findings = diagnose(gather(options.output_dir, options.network))
    problems = sum(finding.level == PROBLEM for finding in findings)
    if options.json:
        show(json.dumps({"problems": problems, "findings": [finding._asdict() for finding in findings]}, indent=2))
        return 1 if problems else 0
    for level, topic, text, fix in findings:
        line = printable(f"{level:9}{topic:10}{text}" + (f" -> {fix}" if fix else ""), LONGEST_LINE)
        width = shutil.get_terminal_size().columns
        show(break_lines(line, width) if sys.stdout.isatty() else line, style=STYLES[level] if level != "ok" else None)
    notes = sum(finding.level == "note" for finding in findings)
    show(f"\n{problems} problems, {notes} notes", style=STYLES["problem" if problems else "ok"])
    return 1 if problems else 0
