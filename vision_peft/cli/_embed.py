"""What the verb embed does once torch is there: embed both sides, search, draw episodes, describe what came out."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vision_peft.cli._progress import Countdown
from vision_peft.cli._unread import list_unread
from vision_peft.config.command_line import read_command_line
from vision_peft.config.parse import parse_backbone, parse_data
from vision_peft.data.dataset import ImageDataset
from vision_peft.inference.embed import embed_dataset
from vision_peft.inference.feature_files import Features, RowFile, check_feature_file, read_features, write_features
from vision_peft.inference.find_inputs import find_inputs
from vision_peft.inference.montage import choose_places
from vision_peft.inference.neighbour_picture import MOST, NEIGHBOURS, Shown, draw_neighbours
from vision_peft.inference.predict_files import make_dataset
from vision_peft.inference.predictor import Predictor
from vision_peft.printable import name_some, printable, show
from vision_peft.retrieval.episodes import score_episodes
from vision_peft.retrieval.nearest import iterate_nearest
from vision_peft.retrieval.score import score_retrieval

UNREAD = 1  # exit code where some images could not be read


class Done(NamedTuple):
    """What to print and to write, and the exit code."""

    lines: list[str]
    figures: dict[str, Any]
    code: int


class Source(NamedTuple):
    """Images to embed and their classes; what of them is not there, and why."""

    dataset: ImageDataset
    labels: Sequence[int | None]
    classes: list[str]
    absent: dict[str, str]


class Side(NamedTuple):
    """Queries or the gallery: features, and where each is in the dataset that was read here."""

    features: Features
    dataset: ImageDataset | None = None
    places: Sequence[int] = ()


class Known(NamedTuple):
    """The rows of a side whose class is known."""

    rows: Tensor
    labels: Tensor
    numbers: list[int]  # of the rows in the side


def embed_and_score(options: argparse.Namespace) -> Done:
    """Do what the options say."""
    if options.out:
        check_feature_file(options.out)
    with contextlib.ExitStack() as stack:
        failures = dict[str, str]()
        embedder = None if options.stored else _Embedder(options, stack, failures)
        queries = embedder.embed(options.inputs, options.split) if embedder else _read(options.inputs)
        gallery = None
        if options.against:
            inputs, split = options.gallery, options.gallery_split
            gallery = embedder.embed(inputs, split) if embedder else _read(inputs)
        if options.out:
            write_features(options.out, queries.features)
        rows = queries.features.rows
        counted = f"{len(rows):,} {embedder.what if embedder else 'rows'}, {rows.shape[1]} numbers each"
        lines = [counted + (f"; gallery {len(gallery.features.rows):,}" if gallery else "")]
        figures: dict[str, Any] = {}
        if options.searches or options.shot:
            device = embedder.predictor.compute.device.type if embedder else "cpu"
            scores = _Scores(options, queries, gallery, "cpu" if device == "mps" else device)
            figures = scores.figures
            lines += scores.lines
        list_unread(failures)
    return Done(lines, figures, UNREAD if failures else 0)


class _Embedder:
    """A model, and what it is given.

    Args:
        options: of the verb.
        stack: features are kept in files until it ends.
        failures: why images could not be read, by their paths; it grows.
    """

    def __init__(self, options: argparse.Namespace, stack: contextlib.ExitStack, failures: dict[str, str]) -> None:
        self.options, self.stack, self.failures = options, stack, failures
        self.run = read_command_line(options.overrides).runs[0] if options.overrides else None
        source: Any = options.source
        if options.frozen and self.run is not None:
            from vision_peft.training.build import create_model

            source = create_model(parse_backbone(self.run.raw["backbone"]), seed=0)
        self.predictor = Predictor(
            source,
            options.device,
            options.batch_size,
            precision=options.precision,
            exif_rotation=not options.no_exif,
            features=options.features,
            **{key: value for key in ("backbone", "checkpoint") if (value := getattr(options, key)) is not None},
        )
        self.predictor.check_features()
        self.what = "videos" if self.predictor.prepare.gives_clips else "images"

    def embed(self, inputs: list[str], split: str | None) -> Side:
        """Embed a split of the data, or what the words mean."""
        source = self._find(inputs) if inputs else self._load(split or "test")
        rows = self.stack.enter_context(contextlib.closing(RowFile(self.options.out and self.options.out.parent)))
        countdown = Countdown(source.dataset.count_sources(), self.what)
        found = embed_dataset(
            self.predictor,
            source.dataset,
            source.labels,
            rows,
            normalise=self.options.normalise,
            workers=self.options.workers,
            report=countdown.show,
        )
        countdown.clear()
        self.failures |= {**source.absent, **found.failures}
        if not found.places:
            list_unread(self.failures)
            raise ValueError(f"none of the {source.dataset.count_sources():,} {self.what} could be embedded")
        return Side(found.features._replace(classes=source.classes), source.dataset, found.places)

    def _load(self, split: str) -> Source:
        if self.run is None or not self.options.data:
            raise ValueError("split=... selects from a dataset: give data=<config> as well")
        data = parse_data({"name": self.run.choices["data"], **self.run.raw["data"]})
        dataset = data.load(split)
        if dataset.gives_clips != self.predictor.prepare.gives_clips:
            holds = "videos" if dataset.gives_clips else "images"
            raise ValueError(f"data={data.name} holds {holds}, the model takes {self.what}")
        dataset.set_evaluation(self.predictor.prepare.settings)
        # else a label is the number of what is told of an image, not of a class
        known = dataset.targets is None or dataset.targets.kind in ("ordinal", "embedding")
        labels = [
            dataset.labels[dataset.first_item(each)] if known else None for each in range(dataset.count_sources())
        ]
        return Source(dataset, labels, dataset.classes, {})

    def _find(self, inputs: list[str]) -> Source:
        found = find_inputs(inputs, self.predictor.prepare.gives_clips, None, sys.stdin, self.predictor.prepare.form)
        if found.left_out:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.left_out.most_common(10))
            show(f"left out in folders: {printable(kinds)}", sys.stderr)
        if not found.paths:
            list_unread(found.absent)
            raise ValueError(f"nothing to embed: no {self.what} among {name_some(inputs, 5)}")
        return Source(make_dataset(self.predictor.prepare, found.paths), found.labels, found.classes, found.absent)


def _read(files: Sequence[str]) -> Side:
    """Read features that were written before; of several files one behind the other."""
    parts = [read_features(Path(file)) for file in files]
    widths = {part.rows.shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"{name_some(files, 5)} hold features of {', '.join(map(str, sorted(widths)))} numbers")
    classes = list(dict.fromkeys(name for part in parts for name in part.classes))
    labels = [_renumber(part, classes) for part in parts]
    paths = [path for part in parts for path in part.paths]
    return Side(Features(np.concatenate([part.rows for part in parts]), paths, np.concatenate(labels), classes))


class _Scores:
    """What a search and few-shot episodes give, as lines and as figures."""

    def __init__(self, options: argparse.Namespace, queries: Side, gallery: Side | None, device: str) -> None:
        self.options, self.queries, self.device = options, queries, device
        self.gallery = queries if gallery is None else gallery
        self.classes = list(dict.fromkeys([*queries.features.classes, *self.gallery.features.classes]))
        self.asked = self._take_known(queries, "images" if gallery is None else "queries")
        self.given = None if gallery is None else self._take_known(gallery, "images of the gallery")
        self.lines, self.figures = list[str](), dict[str, Any]()
        if options.searches:
            self._search()
        if options.shot:
            self._draw_episodes()

    def _take_known(self, side: Side, what: str) -> Known:
        labels = _renumber(side.features, self.classes)
        numbers = np.flatnonzero(labels >= 0)
        if not len(numbers):
            raise ValueError(f"no class of the {what} is known: give folders with a folder for each class, or a list")
        if missing := len(labels) - len(numbers):
            show(f"{missing:,} {what} without a known class are left out of the scores", sys.stderr)
        rows = torch.from_numpy(np.ascontiguousarray(side.features.rows[numbers]))
        return Known(rows, torch.from_numpy(labels[numbers]), numbers.tolist())

    def _search(self) -> None:
        given = (None, None) if self.given is None else (self.given.rows, self.given.labels)
        k, at = self.options.k, self.options.at
        score = score_retrieval(self.asked.rows, self.asked.labels, *given, at=at, k=k, device=self.device)
        self.lines.append(score.describe())
        self.figures |= dataclasses.asdict(score)
        if self.options.picture:
            self._draw(score.describe())

    def _draw_episodes(self) -> None:
        asked, given, options = self.asked, self.given, self.options
        own = (asked.rows, asked.labels) if given is None else (given.rows, given.labels, asked.rows, asked.labels)
        score = score_episodes(
            *own,
            way=options.way or None,
            shot=options.shot,
            queries=options.queries or None,
            episodes=options.episodes,
            seed=options.seed,
            k=options.k,
        )
        self.lines.append(score.describe())
        self.figures["few_shot"] = dataclasses.asdict(score)

    def _draw(self, note: str) -> None:
        """Draw queries, evenly spread, with their nearest."""
        asked, given = self.asked, self.asked if self.given is None else self.given
        chosen = choose_places(len(asked.rows), MOST)
        wanted = NEIGHBOURS + (self.given is None)  # a query finds itself
        rows = []
        for found in iterate_nearest(asked.rows[chosen], given.rows, wanted):
            for number, places, cosines in zip(chosen, found.places.tolist(), found.cosines.tolist(), strict=True):
                near = [pair for pair in zip(places, cosines, strict=True) if self.given or pair[0] != number]
                shown = [self._show(self.gallery, given, place, cosine) for place, cosine in near[:NEIGHBOURS]]
                rows.append((self._show(self.queries, asked, number), shown))
        assert self.queries.dataset is not None
        assert self.gallery.dataset is not None
        title = str(self.options.source or "frozen backbone")
        draw_neighbours(self.queries.dataset, self.gallery.dataset, rows, title, note, self.options.picture)

    def _show(self, side: Side, known: Known, number: int, cosine: float | None = None) -> Shown:
        return Shown(side.places[known.numbers[number]], self.classes[int(known.labels[number])], cosine)


def _renumber(found: Features, classes: Sequence[str]) -> np.ndarray:
    """Return the labels as places in `classes`, which holds all names; -1 where a class is not known."""
    place = {name: number for number, name in enumerate(classes)}
    table = np.array([*(place[name] for name in found.classes), -1], np.int64)
    return table[found.labels]
