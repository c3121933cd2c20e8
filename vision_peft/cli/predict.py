"""Predict the labels of images or videos with a run or an adapter.

vision-peft predict RUN photo.jpg photos                                     files and folders; folders at any depth
vision-peft predict ADAPTER "photos/**/*.jpg" --csv answers.csv              patterns; a table with one row per file
vision-peft predict hf-hub:OWNER/NAME test.txt --montage wrong.png           a list; with labels in it, accuracy too
vision-peft predict RUN photos --masks out                                   segmentation, depth: masks and overlays
find . -name "*.png" | vision-peft predict RUN - --jsonl answers.jsonl --resume   paths on stdin; continues after a stop

INPUT is a file, a folder, a quoted pattern, a list (.txt, .csv, .tsv, .lst) or - for paths on stdin. Each line of a
list is a path, or a path and a label; paths are relative to the list or to the current folder. If a list has labels, or
files are in folders named like the classes, the accuracy is printed. Photographs are rotated as their EXIF data say;
evaluate, like the published benchmarks, does not do so (--no-exif). Probabilities are calibrated if training had a val
split; --raw turns this off. Files that cannot be read are listed at the end, and the exit code is then 1. A file of
official code can take the place of the run, with the keys of convert: FILE photos source=ssf num_heads=12.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_peft.cli._foreign import check_source, convert_first, list_checkpoint, split_given
from vision_peft.cli._masks import check_masks, write_masks
from vision_peft.cli._progress import Countdown
from vision_peft.cli._unread import list_unread
from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.home_paths import expand_home
from vision_peft.printable import LONGEST_LINE, name_some, printable, show

if TYPE_CHECKING:
    from vision_peft.inference.answer_inputs import Score
    from vision_peft.inference.find_inputs import Inputs
    from vision_peft.inference.predictor import Predictor
    from vision_peft.inference.write_answers import Answer

UNREAD = 1  # exit code where some inputs could not be read
STOPPED = 130  # exit code after Ctrl-C
STREAM = "-"  # a file of this name is stdout, an input stdin
_FILES = {"csv": ".csv", "jsonl": ".jsonl", "features": ".npz", "montage": ".png"}


def main(argv: Sequence[str]) -> int:
    """Parse, predict, write, print."""
    options = _parse(argv)
    words, of_file = split_given(options.inputs)
    options.inputs = [word for word in words if not (of_file and word.startswith("backbone."))]
    _check(options, of_file)
    announce_loading()
    from vision_peft.data.annotations.list_files import read_class_names
    from vision_peft.data.problems import raise_problems
    from vision_peft.inference.find_inputs import find_inputs
    from vision_peft.inference.predictor import Predictor

    problems = list[str]()
    classes = read_class_names(Path(options.classes), problems) if options.classes else None
    raise_problems("--classes", problems)
    given = {key: value for key in ("backbone", "checkpoint") if (value := getattr(options, key)) is not None}
    given |= list_checkpoint(of_file)
    with convert_first(options.source, of_file) as source:
        predictor = Predictor(
            source,
            options.device,
            options.batch_size,
            raw=options.raw,
            precision=options.precision,
            classes=classes,
            exif_rotation=not options.no_exif,
            **given,
        )
    if not predictor.names_classes:
        raise ValueError("this adapter has no head for classes: use vision-peft embed for its features")
    if not predictor.classes_are_named:
        show("the adapter records no class names, so labels are numbers; give them with --classes FILE", sys.stderr)
    masks = check_masks(options, predictor, [*_FILES, "resume", "probabilities"])
    if options.probabilities and not predictor.task.names_classes:
        raise ValueError(f"--probabilities is for classes, and this adapter is for {predictor.task.kind}: leave it out")
    prepare = predictor.prepare
    known = predictor.classes if predictor.task.ranks_names else ()  # else truths are left to evaluate
    inputs = find_inputs(options.inputs, prepare.gives_clips, known, sys.stdin, prepare.form)
    what = "videos" if predictor.prepare.gives_clips else "images"
    if inputs.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in inputs.left_out.most_common(10))
        show(f"left out in folders: {printable(kinds)}", sys.stderr)
    if not inputs.paths:
        list_unread(inputs.absent)
        raise ValueError(f"nothing to predict: no {what} among {name_some(options.inputs, 5)}")
    try:
        if masks is None:
            failures = _predict(options, predictor, inputs, what)
        else:
            failures = write_masks(masks, predictor, inputs)
    except MemoryError as error:
        raise ValueError(str(error)) from None
    except KeyboardInterrupt:
        more = "; the same command with --resume goes on" if options.jsonl not in (None, STREAM) else ""
        show(f"stopped{more}", sys.stderr)
        raise SystemExit(STOPPED) from None
    list_unread({**inputs.absent, **failures})
    return UNREAD if inputs.absent or failures else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("predict", __doc__)
    parser.add_argument("source", metavar="RUN_OR_ADAPTER", help="run folder, adapter folder or hf-hub:OWNER/NAME")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="files, folders, patterns, lists; - for stdin")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="labels per input (default: 5)")
    parser.add_argument("--csv", metavar="FILE", help="write a table with one row per file")
    parser.add_argument("--jsonl", metavar="FILE", help="append one JSON object per line, at once; - for stdout")
    parser.add_argument("--resume", action="store_true", help="skip inputs that are already in the --jsonl file")
    parser.add_argument("--probabilities", action="store_true", help="write those of all classes to --csv and --jsonl")
    parser.add_argument("--features", metavar="FILE", help="write the features that enter the head (.npz)")
    parser.add_argument("--montage", metavar="FILE", help="draw up to 60 inputs with their answers (.png)")
    parser.add_argument("--masks", metavar="FOLDER", help="segmentation and depth: write masks and overlays")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--raw", action="store_true", help="do not calibrate probabilities")
    parser.add_argument("--no-exif", action="store_true", help="ignore the EXIF orientation of photographs")
    parser.add_argument("--classes", metavar="FILE", help="class names, one per line, in label order")
    parser.add_argument("--batch-size", type=int, metavar="N", help="halved if memory is short (64; 16 clips)")
    parser.add_argument("--workers", default="auto", help="decoding processes (default: one per core, at most 8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--backbone", metavar="NAME", help="another name of the backbone, with the same weights")
    parser.add_argument("--checkpoint", metavar="FILE", help="weight file of a backbone that came from a file")
    return parser.parse_args(argv)


def _check(options: argparse.Namespace, of_file: Sequence[str]) -> None:
    """Raise what can be said before torch is imported."""
    if options.top < 1:
        raise ValueError(f"--top must be at least 1, got {options.top}")
    if options.resume and not options.jsonl:
        raise ValueError("--resume continues a --jsonl file: give --jsonl FILE as well")
    others = [f"--{name}" for name in ("csv", "features", "montage") if getattr(options, name)]
    if options.resume and others:
        raise ValueError(f"--resume works with --jsonl only: {', '.join(others)} would hold only what is left to do")
    if options.probabilities and not (options.csv or options.jsonl):
        raise ValueError("--probabilities needs --csv FILE or --jsonl FILE")
    if options.classes and not Path(options.classes).is_file():
        raise FileNotFoundError(f"--classes {options.classes}: there is no such file")
    targets = {name: Path(path) for name in _FILES if (path := getattr(options, name)) and path != STREAM}
    for name, path in targets.items():
        _check_output(name, path, keep=options.resume or options.overwrite)
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise ValueError(f"{', '.join(f'--{name}' for name in targets)} must be different files")
    if wrong := [f"--{name} -" for name in ("csv", "features", "montage") if getattr(options, name) == STREAM]:
        raise ValueError(f"{wrong[0]}: only --jsonl writes to stdout")
    check_source(options.source, of_file)
    if not options.inputs:
        raise ValueError("nothing to predict: give files, folders, patterns or lists as well")
    if not any(_may_be_there(word) for word in options.inputs):
        raise FileNotFoundError(f"there is no such file or folder: {name_some(options.inputs, 5)}")


def _check_output(name: str, path: Path, keep: bool) -> None:
    if path.suffix.lower() != _FILES[name] and name in ("features", "montage"):
        raise ValueError(f"--{name} must end in {_FILES[name]}, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--{name} {path}: there is no folder {path.parent}")
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"--{name} {path} is not a file" + (", - is stdout" if name == "jsonl" else ""))
    if path.exists() and not keep:
        resume = "--resume goes on with it, " if name == "jsonl" else ""
        raise FileExistsError(f"--{name} {path} is there already: {resume}--overwrite replaces it")


def _may_be_there(word: str) -> bool:
    import glob

    return word == STREAM or glob.has_magic(word) or os.path.lexists(expand_home(word))


def _predict(options: argparse.Namespace, predictor: "Predictor", inputs: "Inputs", what: str) -> dict[str, str]:
    """Predict and write; why files could not be read, by their paths."""
    from vision_peft.inference.answer_inputs import Score, Wanted, answer_inputs
    from vision_peft.inference.montage import choose_places, draw_montage
    from vision_peft.inference.predict_files import make_dataset
    from vision_peft.inference.write_answers import FeatureFile, JsonLines, open_csv, resume_lines

    score, skipped = Score(), 0
    if options.jsonl not in (None, STREAM) and Path(options.jsonl).exists():
        if options.resume:
            written = resume_lines(Path(options.jsonl))
            for done in written:
                if done.truth is not None:
                    score.count_again(done.label, done.truth, done.surest)
            skipped = inputs.leave_out(done.path for done in written)
            show(f"{skipped:,} of {len(inputs.paths) + skipped:,} {what} are in {options.jsonl} already", sys.stderr)
        else:
            Path(options.jsonl).unlink()
    if not inputs.paths:
        show(f"nothing left to do: {options.jsonl} has all {skipped:,} {what}{_describe(score)}")
        return {}
    dataset = make_dataset(predictor.prepare, inputs.paths)
    shown = choose_places(len(inputs.paths)) if options.montage else []
    wanted = Wanted(options.top, options.probabilities, bool(options.features), frozenset(shown))
    top, task = min(options.top, len(predictor.classes)), predictor.task
    quiet = options.csv or options.jsonl
    countdown = Countdown(len(inputs.paths), what, silent=not quiet and sys.stdout.isatty())
    with contextlib.ExitStack() as stack:
        writers: list[Any] = []
        features = None
        if options.jsonl:
            path = None if options.jsonl == STREAM else Path(options.jsonl)
            writers.append(stack.enter_context(contextlib.closing(JsonLines(path, sys.stdout, task))))
        if options.csv:
            writers.append(stack.enter_context(open_csv(Path(options.csv), top, task, options.probabilities)))
        if options.features:
            opened = FeatureFile(Path(options.features), predictor.classes)
            features = stack.enter_context(contextlib.closing(opened))
            writers.append(features)
        writes = [writer.write for writer in writers] + ([] if quiet else [_Table(inputs.paths, predictor).write])
        tiles, failures = answer_inputs(
            predictor,
            dataset,
            inputs.labels,
            wanted,
            writes,
            score,
            workers=options.workers,
            report=countdown.show,
        )
        countdown.clear()
        if features is not None:
            features.save()
    read = len(inputs.paths) - len(failures)
    summary = f"{read:,} {what}{_describe(score)}"
    if options.montage:
        more = "" if len(shown) == len(inputs.paths) else f"; {len(tiles)} of them, evenly spread"
        draw_montage(dataset, tiles, str(options.source), f"{summary}{more}", Path(options.montage))
    for name in _FILES:
        if getattr(options, name) not in (None, STREAM):
            show(f"wrote {printable(getattr(options, name), LONGEST_LINE)}", sys.stderr)
    show(summary, sys.stderr if options.jsonl == STREAM else sys.stdout)
    return failures


class _Table:
    """Answers as lines of a table, as wide as the terminal."""

    def __init__(self, paths: Sequence[str], predictor: "Predictor") -> None:
        columns = shutil.get_terminal_size((160, 24)).columns
        self.task = predictor.task
        self.label = min(max(map(len, predictor.classes)), 24)
        self.path = min(max(map(len, paths)), max(20, columns // 2))
        self.columns = columns if sys.stdout.isatty() else 10_000

    def write(self, answers: Sequence["Answer"]) -> None:
        lines = []
        for answer in answers:
            parts = answer.guesses
            cells = [self.task.format_guess(f"{printable(name, self.label):<{self.label}}", own) for name, own in parts]
            cells = cells or [answer.label]
            wrong = answer.truth is not None and answer.truth != answer.label
            cells[0] += f"  (true: {printable(answer.truth, self.label)})" if wrong else ""
            line = f"{printable(answer.path, self.path):<{self.path}}  "
            for number, cell in enumerate(cells):  # the first answer stands there however narrow it is
                if number and len(line) + len(cell) > self.columns:
                    break
                line += f"{cell}   "
            lines.append(line.rstrip())
        if lines:
            show("\n".join(lines))


def _describe(score: "Score") -> str:
    """Say how good the answers are, where something is known."""
    if not score.known:
        return ""
    error = score.calibration_error
    sure = "" if error is None else f", expected calibration error {error:.2f} %"
    return (
        f"; {score.right.total():,} right of {score.known:,} whose class is known: top-1 {score.top1:.2f} %, "
        f"mean per class {score.mean_per_class:.2f} %{sure}"
    )
