"""Embed images or videos as features, and say how good a search with them is.

vision-peft embed RUN photos --out features.npz                              files, folders, patterns, lists
vision-peft embed RUN data=folder data.root=photos split=val --out val.parquet   a split of a data set
vision-peft embed backbone=dinov2_small_pypi backbone.img_size=112 photos --out frozen.npz   a frozen backbone
vision-peft embed RUN query.csv --against gallery.csv --picture nearest.png  searches the gallery for every query
vision-peft embed RUN photos --leave-one-out --json score.json               each among all others
vision-peft embed RUN photos --shot 1 --way 5                                few-shot episodes
vision-peft embed query.npz --against gallery.npz                            features that were written before

INPUT is what predict takes: a file, a folder, a pattern in quotes, a list (.txt, .csv, .tsv, .lst) or - for paths on
stdin; or data=... of train, with split=train|val|trainval|test. Classes, which a score needs, are the labels of a list
or the names of the folders right below a folder; images without one are left out of it. --out writes features (N D),
paths, labels (-1: not known) and classes, or as .parquet path, label and features. recall@k: an image of the class is
among the k nearest; mAP@R and R-precision are about the R nearest, with R images of the class in the gallery. Files
that cannot be read are listed at the end, and the exit code is then 1.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._adapter import check_adapter
from vision_peft.cli._verb import announce_loading, make_parser, write_output
from vision_peft.printable import LONGEST_LINE, name_some, printable, show

FEATURE_FILES = (".npz", ".parquet")
PICTURE = ".png"
_OVERRIDE = re.compile(r"(data|backbone)(\.\w+)*=|split=", re.ASCII)
_EPISODES = {"way": 5, "queries": 15, "episodes": 600, "seed": 0}


def main(argv: Sequence[str]) -> int:
    """Parse, embed, score, write, print."""
    options = _parse(argv)
    announce_loading()
    from vision_peft.cli._embed import embed_and_score

    done = embed_and_score(options)
    for line in done.lines:
        show(line)
    if options.json:
        write_output(options.json, json.dumps(done.figures, indent=2) + "\n")
    for path in (options.out, options.picture, options.json):
        if path:
            show(f"wrote {printable(path, LONGEST_LINE)}")
    return done.code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("embed", __doc__)
    words = "a run folder, an adapter folder or hf-hub:OWNER/NAME (none with backbone=), then files, folders, lists"
    parser.add_argument("words", metavar="RUN_OR_ADAPTER INPUT", nargs="+", help=words)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write features: .npz, or .parquet (needs pyarrow)")
    parser.add_argument("--features", choices=("head", "class", "patches", "output"), help=_FEATURES)
    parser.add_argument("--normalise", action="store_true", help="write features of length 1; scores need it not")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--batch-size", type=int, metavar="N", help="halved where it does not fit (64; 16 clips)")
    parser.add_argument("--workers", default="auto", help="processes that decode (default: one a core, at most 8)")
    parser.add_argument("--no-exif", action="store_true", help="leave photographs as they are stored")
    parser.add_argument("--backbone", metavar="NAME", help="frozen weights by another name, as vp.load takes it")
    parser.add_argument("--checkpoint", metavar="FILE", help="frozen weights, where they came from a file")
    score = parser.add_argument_group("scores")
    score.add_argument("--against", metavar="INPUT", nargs="+", help="the gallery; split=NAME of the same data")
    score.add_argument("--leave-one-out", action="store_true", help="search for each image among all others")
    score.add_argument("--at", default="1,5,10", metavar="K,K", help="of recall@k (default: %(default)s)")
    score.add_argument("--k", type=int, default=20, help="neighbours that vote (default: %(default)s)")
    score.add_argument("--picture", metavar="FILE", type=Path, help="draw 12 queries with their 5 nearest, .png")
    score.add_argument("--json", metavar="FILE", type=Path, help="write the scores")
    score.add_argument("--shot", type=int, metavar="N", help="few-shot episodes with N known images of a class")
    score.add_argument("--way", type=_read_way, help="classes of an episode, or all (default: 5)")
    score.add_argument("--queries", type=int, help="of each class in an episode, at most (default: 15; 0: all)")
    score.add_argument("--episodes", type=int, help="how many (default: 600)")
    score.add_argument("--seed", type=int, help="of the episodes (default: 0)")
    options = parser.parse_intermixed_args(argv)
    _check(options)
    return options


_FEATURES = (
    "what enters the head (default), the class token, the mean of the patch tokens, or what the model answers (default "
    "where it learned to embed)"
)


def _read_way(text: str) -> int:
    return 0 if text == "all" else int(text)


def _check(options: argparse.Namespace) -> None:
    """Sort the words, and raise what can be said before torch is imported."""
    plain = [word for word in options.words if not _OVERRIDE.match(word)]
    options.overrides, options.split = _divide_split([word for word in options.words if _OVERRIDE.match(word)])
    keys = {word.partition("=")[0] for word in options.overrides}
    options.frozen = any(key.partition(".")[0] == "backbone" for key in keys)
    options.stored = bool(plain) and plain[0].lower().endswith(FEATURE_FILES)
    options.source = None if options.frozen or options.stored or not plain else plain.pop(0)
    options.inputs, options.data = plain, any(key.partition(".")[0] == "data" for key in keys)
    if not (options.frozen or options.stored or options.source):
        raise ValueError("name a model first: a run folder, an adapter folder, hf-hub:OWNER/NAME, or backbone=<config>")
    if options.source is not None:
        check_adapter(options.source)
    if bool(options.inputs) == options.data:
        raise ValueError("give either files, folders or lists, or data=<config> (and split=...): one of the two")
    options.gallery, options.gallery_split = _divide_split(options.against or ())
    if options.gallery and options.gallery_split:
        raise ValueError("--against takes either files, folders or lists, or split=NAME: one of the two")
    if not options.data and (options.split or options.gallery_split):
        raise ValueError("split=... is of a data set: give data=<config> as well")
    given = next((name for name in ("backbone", "checkpoint") if getattr(options, name) is not None), None)
    if given and options.frozen:
        raise ValueError(f"--{given} is of an adapter: a frozen backbone takes backbone.<key>=...")
    if options.stored and (options.out or options.picture or options.overrides):
        raise ValueError("features that were written before are scored only: leave out --out, --picture and data=...")
    _check_scores(options)
    _check_outputs(options)


def _check_scores(options: argparse.Namespace) -> None:
    options.searches = bool(options.against) or options.leave_one_out
    if options.against and options.leave_one_out:
        raise ValueError("--against searches a gallery, --leave-one-out the images themselves: give one of the two")
    if not (options.out or options.searches or options.shot):
        raise ValueError("what is wanted of the features? --out FILE, --against INPUT, --leave-one-out or --shot N")
    if options.picture and not options.searches:
        raise ValueError("--picture shows a search: give --against INPUT or --leave-one-out")
    if options.json and not (options.searches or options.shot):
        raise ValueError("--json holds scores: give --against INPUT, --leave-one-out or --shot N")
    given = [name for name in _EPISODES if getattr(options, name) is not None]
    if given and not options.shot:
        raise ValueError(f"--{given[0]} is of few-shot episodes: give --shot N")
    for name, value in _EPISODES.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    numbers = options.at.split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,8}", number.strip(), re.ASCII) for number in numbers):
        raise ValueError(f"--at lists whole numbers from 1 on, such as 1,5,10; got {options.at}")
    options.at = sorted({int(number) for number in numbers})
    if options.k < 1:
        raise ValueError(f"--k is a number of neighbours from 1 on, got {options.k}")
    if options.against and options.stored and (wrong := [w for w in options.against if not w.endswith(FEATURE_FILES)]):
        raise ValueError(f"features are compared with features: {wrong[0]} is not a file .npz or .parquet")


def _check_outputs(options: argparse.Namespace) -> None:
    for name, path, kinds in (("out", options.out, FEATURE_FILES), ("picture", options.picture, (PICTURE,))):
        if path is None:
            continue
        if path.suffix.lower() not in kinds:
            raise ValueError(f"--{name} must end in {' or '.join(kinds)}, got {path}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"--{name} {path}: there is no folder {path.parent}")
        if os.path.lexists(path) and not path.is_file():
            raise ValueError(f"--{name} {path} is not a file")
        if path.exists() and not options.overwrite:
            raise FileExistsError(f"--{name} {path} is there already: --overwrite replaces it")
    words = [word for word in (*options.inputs, *(options.against or ())) if not _OVERRIDE.match(word)]
    if options.out and str(options.out) in words:
        raise ValueError(f"--out {options.out} is also among {name_some(words, 5)}")


def _divide_split(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words but `split=NAME`, and NAME, None where there is none."""
    splits = [word.partition("=")[2] for word in words if word.startswith("split=")]
    if len(splits) > 1:
        raise ValueError(f"give one split, got {', '.join(splits)}")
    return [word for word in words if not word.startswith("split=")], splits[0] if splits else None
