"""Thumbnails of test items for a report: of the data that a run's config names, read where the user asks for it."""

import base64
import io
import logging
from pathlib import Path

from vision_peft.data import ImageDataset
from vision_peft.printable import printable
from vision_peft.results.row import Row

log = logging.getLogger(__name__)
SIDE = 96  # pixels of the longer one
QUALITY = 70  # of JPEG


class Thumbnails:
    """Call it with a row and the name of an item of test: gives a small JPEG as a data URI, None where there is none.

    The data of each run folder is opened once; what cannot be opened or decoded is said once in the log.
    """

    def __init__(self) -> None:
        self._splits: dict[Path, tuple[ImageDataset, dict[str, int]] | None] = {}
        self._made: dict[tuple[str | None, str], str | None] = {}

    def __call__(self, row: Row, item: str) -> str | None:
        key = row.data_digest, item
        if key not in self._made or row.data_digest is None:
            self._made[key] = self._make(row, item)
        return self._made[key]

    def _make(self, row: Row, item: str) -> str | None:
        if row.file is None or (opened := self._open(row.file.parent)) is None:
            return None
        test, places = opened
        if item not in places:
            return None
        try:
            picture = test.picture(test.first_item(places[item])).convert("RGB")
        except (ValueError, OSError) as error:
            log.warning("no thumbnail of %s: %s", printable(item), printable(error))
            return None
        picture.thumbnail((SIDE, SIDE))
        with io.BytesIO() as file:
            picture.save(file, "JPEG", quality=QUALITY)
            return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    def _open(self, folder: Path) -> tuple[ImageDataset, dict[str, int]] | None:
        """Open test of the run in `folder`, with the number of each image by its name."""
        if folder not in self._splits:
            from vision_peft.config.parse import parse_config
            from vision_peft.runs.data_record import name_item
            from vision_peft.runs.run_config import read_config

            try:
                data = parse_config(read_config(folder)).data
                test, base = data.load("test"), data.base()
                root = None if base is None else str(base)
                names = {name_item(test, number, root): number for number in range(test.count_sources())}
                self._splits[folder] = test, {printable(name): number for name, number in names.items()}
            except (ValueError, OSError) as error:
                log.warning("no thumbnails of %s: %s", printable(folder), printable(error))
                self._splits[folder] = None
        return self._splits[folder]
