"""Say what is wrong with this machine, and how to fix it.

    vision-peft doctor
    vision-peft doctor --network   asks the package index and the Hugging Face hub, too
    vision-peft doctor --json      the same for programs

Looks at Python, torch and the GPU, versions, cores, memory, disks, the weights that need no network, video decoders and
extras. One line each: ok, a note, or a problem with the way to fix it. Exit code 1 if there are problems.
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
    parser.add_argument("--network", action="store_true", help="ask the package index and the hub for an answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output-dir", metavar="FOLDER", type=Path, default=Path("runs"), help="where runs would go")
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
