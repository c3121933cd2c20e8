"""Compute features of images or videos, and score image search with them.

vision-peft embed RUN photos --out features.npz                              files, folders, patterns, lists
vision-peft embed RUN data=folder data.root=photos split=val --out val.parquet   a split of a dataset
vision-peft embed backbone=dinov2_small_pypi backbone.img_size=112 photos --out frozen.npz   a frozen backbone
vision-peft embed RUN query.csv --against gallery.csv --picture nearest.png  searches the gallery for every query
vision-peft embed RUN photos --leave-one-out --json score.json               each image against all others
vision-peft embed RUN photos --shot 1 --way 5                                few-shot episodes
vision-peft embed query.npz --against gallery.npz                            features written earlier

INPUT is as for predict: a file, a folder, a quoted pattern, a list (.txt, .csv, .tsv, .lst) or - for paths on stdin. It
can also be data=... as for train, with split=train|val|trainval|test. Scores need classes: the labels of a list, or the
names of the folders directly in a folder; images without a class are not scored. --out writes features (N D), paths,
labels (-1: unknown) and classes; a .parquet file has path, label and features. recall@k is the share of queries with an
image of their class among the k nearest. mAP@R and R-precision look at the R nearest, where R is the number of images
of that class in the gallery. Files that cannot be read are listed at the end, and the exit code is then 1.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._adapter import check_adapter
from vision_peft.cli._numbers import parse_number
from vision_peft.cli._verb import announce_loading, check_output, make_parser, write_output
from vision_peft.printable import LONGEST_LINE, name_some, printable, show

FEATURE_FILES = (".npz", ".parquet")
PICTURE = ".png"
_OVERRIDE = re.compile(r"(data|backbone)(\.\w+)*=|split=", re.ASCII)
_OF_MODEL = {  # options that features from files have no use for, and what they are where they are not given
    **dict.fromkeys(("features", "batch_size", "backbone", "checkpoint")),
    **dict.fromkeys(("device", "precision", "workers"), "auto"),
    **dict.fromkeys(("normalise", "no_exif"), False),
}
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
    words = "run folder, adapter folder or hf-hub:OWNER/NAME (not with backbone=), then files, folders, lists"
    parser.add_argument("words", metavar="RUN_OR_ADAPTER INPUT", nargs="+", help=words)
    parser.add_argument("--out", metavar="FILE", type=Path, help="file of features: .npz, or .parquet (needs pyarrow)")
    parser.add_argument("--features", choices=("head", "class", "patches", "output"), help=_FEATURES)
    parser.add_argument("--normalise", action="store_true", help="write features of length 1; does not change scores")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--batch-size", type=int, metavar="N", help="halved if memory is short (64; 16 clips)")
    parser.add_argument("--workers", default="auto", help="decoding processes (default: one per core, at most 8)")
    parser.add_argument("--no-exif", action="store_true", help="ignore the EXIF orientation of photographs")
    parser.add_argument("--backbone", metavar="NAME", help="another name of the backbone, with the same weights")
    parser.add_argument("--checkpoint", metavar="FILE", help="weight file of a backbone that came from a file")
    score = parser.add_argument_group("scores")
    score.add_argument("--against", metavar="INPUT", nargs="+", help="the gallery; or split=NAME of the same data")
    score.add_argument("--leave-one-out", action="store_true", help="search for each image among all others")
    score.add_argument("--at", default="1,5,10", metavar="K,K", help="values of k for recall@k (default: %(default)s)")
    score.add_argument("--k", type=int, default=20, help="neighbours in the k-NN vote (default: %(default)s)")
    score.add_argument("--picture", metavar="FILE", type=Path, help="draw 12 queries and their 5 nearest images (.png)")
    score.add_argument("--json", metavar="FILE", type=Path, help="write the scores to this file")
    score.add_argument("--shot", type=int, metavar="N", help="run few-shot episodes with N labelled images per class")
    score.add_argument("--way", type=_read_way, help="classes per episode, or all (default: 5)")
    score.add_argument("--queries", type=int, help="queries per class, at most (default: 15; 0: all)")
    score.add_argument("--episodes", type=int, help="number of episodes (default: 600)")
    score.add_argument("--seed", type=int, help="seed of the episodes (default: 0)")
    options = parser.parse_intermixed_args(argv)
    _check(options)
    return options


_FEATURES = (
    "input of the head (default), class token, mean of the patch tokens (default of segmentation and depth), or output "
    "of the model (default after metric learning)"
)


def _read_way(text: str) -> int:
    return 0 if text == "all" else parse_number(text)


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
        raise ValueError("give a model first: a run folder, an adapter folder, hf-hub:OWNER/NAME, or backbone=<config>")
    if options.source is not None:
        check_adapter(options.source)
    if bool(options.inputs) == options.data:
        raise ValueError("give either files, folders or lists, or data=<config> (and split=...): one of the two")
    options.gallery, options.gallery_split = _divide_split(options.against or ())
    if options.gallery and options.gallery_split:
        raise ValueError("--against takes either files, folders or lists, or split=NAME: one of the two")
    if not options.data and (options.split or options.gallery_split):
        raise ValueError("split=... selects from a dataset: give data=<config> as well")
    given = next((name for name in ("backbone", "checkpoint") if getattr(options, name) is not None), None)
    if given and options.frozen:
        raise ValueError(f"--{given} is for an adapter: with a frozen backbone give backbone.<key>=...")
    if options.stored and (options.out or options.picture or options.overrides):
        raise ValueError("features from files can only be scored: leave out --out, --picture and data=...")
    if options.stored and (given := [name for name, unset in _OF_MODEL.items() if getattr(options, name) != unset]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"features from files are scored as they are, without a model: leave out {flags}")
    _check_scores(options)
    _check_outputs(options)


def _check_scores(options: argparse.Namespace) -> None:
    options.searches = bool(options.against) or options.leave_one_out
    if options.against and options.leave_one_out:
        raise ValueError("--against searches a gallery, --leave-one-out the images themselves: give only one of them")
    if not (options.out or options.searches or options.shot):
        raise ValueError("nothing to do: give --out FILE, --against INPUT, --leave-one-out or --shot N")
    if options.picture and not options.searches:
        raise ValueError("--picture shows a search: give --against INPUT or --leave-one-out")
    if options.json and not (options.searches or options.shot):
        raise ValueError("--json holds scores: give --against INPUT, --leave-one-out or --shot N")
    given = [name for name in _EPISODES if getattr(options, name) is not None]
    if given and not options.shot:
        raise ValueError(f"--{given[0]} is for few-shot episodes: give --shot N as well")
    for name, value in _EPISODES.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    numbers = options.at.split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,8}", number.strip(), re.ASCII) for number in numbers):
        raise ValueError(f"--at must be whole numbers above 0, such as 1,5,10; got {options.at}")
    options.at = sorted({int(number) for number in numbers})
    if options.k < 1:
        raise ValueError(f"--k must be at least 1, got {options.k}")
    if options.against and options.stored and (wrong := [w for w in options.against if not w.endswith(FEATURE_FILES)]):
        raise ValueError(f"{wrong[0]} is not a feature file: with feature files, every input must be .npz or .parquet")


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
    if options.json:
        check_output("--json", options.json, options.overwrite)
    words = [word for word in (*options.inputs, *(options.against or ())) if not _OVERRIDE.match(word)]
    if options.out and str(options.out) in words:
        raise ValueError(f"--out {options.out} is also among {name_some(words, 5)}")


def _divide_split(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words but `split=NAME`, and NAME, None where there is none."""
    splits = [word.partition("=")[2] for word in words if word.startswith("split=")]
    if len(splits) > 1:
        raise ValueError(f"give one split, got {', '.join(splits)}")
    return [word for word in words if not word.startswith("split=")], splits[0] if splits else None
