"""Compare methods on your data within a time budget: which is best, and at what cost.

    vision-peft compare data=digits backbone.img_size=28 --budget 15m
    vision-peft compare data=folder data.root=photos --budget 2h --memory 8GB
    vision-peft compare data=digits methods=LoRA,VPT-deep,ssf output_dir=compared

It takes the overrides of train except method, learning rate, epochs and protocol, which it chooses itself, on val.
Every method gets the same small search by successive halving, the cheapest method first. Test is read once per method,
for the setting that val chose. compare=NAME names a file of configs/compare/ (or of --config-dir) with other methods;
for videos it is clips, with a head for maps (recipe.head=seg_linear) masks. After a stop the same command
continues. The table is also written to compare.md and compare.csv in OUTPUT_DIR.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import (
    add_config_dir,
    announce_loading,
    make_parser,
    overrides_of,
    suggest_next,
    write_output,
)
from vision_peft.config.command_line import read_command_line
from vision_peft.config.errors import ConfigError
from vision_peft.config.memory_size import check_memory_size
from vision_peft.printable import show

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
INPUTS = {"default": ["photo.jpg"], "clips": ["video.mp4"], "masks": ["photo.jpg", "--masks", "masks"]}  # of predict
OWN = ("method", "method_", "recipe.lr", "recipe.epochs", "protocol", "read_test", "grid", "memory", "experiment")


def main(argv: Sequence[str]) -> int:
    """Parse, compare, print the table and the advice."""
    parser = make_parser("compare", __doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for train; also methods=A,B, compare=NAME"
    )
    parser.add_argument("--budget", default="10m", metavar="TIME", help="time in all: 90s, 15m, 2h (default: 10m)")
    parser.add_argument("--memory", metavar="SIZE", help="memory limit of a training: 8GB, 50%% (default: none)")
    add_config_dir(parser)
    options = parser.parse_intermixed_args(argv)
    budget = read_budget(options.budget)
    if options.memory is not None and (problem := check_memory_size(options.memory)):
        raise ValueError(f"--{problem}")
    asked = {
        key: [word.partition("=")[2] for word in options.overrides if word.startswith(f"{key}=")]
        for key in ("methods", "compare")
    }
    options.overrides = [word for word in options.overrides if not word.startswith(("methods=", "compare="))]
    _check_overrides(options.overrides)
    from vision_peft.search.candidates import choose_candidates, find_kind, read_comparison

    words = overrides_of(options)
    name = asked["compare"][-1] if asked["compare"] else find_kind(read_command_line(words).runs[0])
    comparison = read_comparison(name, options.config_dir)
    candidates = choose_candidates(comparison.candidates, (asked["methods"] or [None])[-1], options.config_dir)
    runs = [read_command_line([*words, *candidate.words]).runs[0] for candidate in candidates]
    check_roots(runs[:1])
    announce_loading()
    from vision_peft.results.advice import advise
    from vision_peft.results.comparison import format_comparison, to_csv, to_markdown, wrap_sentences
    from vision_peft.search.compare import Contest
    from vision_peft.search.compare_entries import list_entries, list_notes

    out = sys.stdout
    contest = Contest(words, candidates, comparison.levels, budget, options.memory, lambda text: show(text, out))
    try:
        contest.measure()
        contest.plan()
        contest.run()
        contest.measure_inference()
    finally:
        contest.save()
    entries = list_entries(contest)
    notes, advice = list_notes(contest, entries), advise(entries)
    folder = Path(contest.folder)
    write_output(folder / "compare.md", to_markdown(entries, advice.sentences, notes))
    write_output(folder / "compare.csv", to_csv(entries))
    show("\n".join(["", format_comparison(entries, notes), "", *wrap_sentences(advice.sentences)]))
    if advice.suggested is not None:
        show(f"\nthe command that trains {advice.suggested.name}:\n  {advice.suggested.command}")
        suggest_next(["predict", advice.suggested.folder, *INPUTS[find_kind(runs[0])]], ["report", str(folder)])
    return 0


def read_budget(text: str) -> float:
    """Return the seconds of a time as it is typed: 90s, 15m, 1.5h.

    Raises:
        ValueError: it cannot be read.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h)", text.strip())
    if found is None or not float(found[1]):
        hint = f": give {text}m for minutes" if re.fullmatch(r"\d+(\.\d+)?", text.strip()) else ""
        raise ValueError(f"--budget must be a time such as 90s, 15m or 2h; got {text}{hint}")
    return float(found[1]) * UNITS[found[2]]


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError where the user gives what the comparison chooses."""
    problems = []
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key in OWN or key.startswith(("method.", "method_", "grid.")):
            way = {"method": "methods=A,B names the methods", "memory": "--memory SIZE is the limit"}.get(
                key.split(".")[0], "leave it out"
            )
            problems.append(f"{word}: compare chooses {key} itself; {way}")
    if problems:
        raise ConfigError(problems)
