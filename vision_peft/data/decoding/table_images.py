"""Images in rows of tables of Hugging Face `datasets`, read from arrow's buffers without its decoding."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision_peft.data.decoding.encoded_images import EncodedImages
from vision_peft.data.flat_arrays import TextArray
from vision_peft.safe_files import open_regular


class TableImages(EncodedImages):
    """Images of rows of tables, which hold them encoded or name a file below one of `folders`.

    The rows of the tables `in_files` are files of their own, after which they are named.
    """

    def __init__(
        self,
        tables: Mapping[str, Any],
        column: str,
        places: Sequence[tuple[str, int]],
        names: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        folders: Sequence[Path],
        in_files: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(labels, classes, **options)
        self.tables, self.column, self.folders = [*tables.values()], column, folders
        number = {part: place for place, part in enumerate(tables)}
        self.places = np.array([(number[part], row) for part, row in places], np.int64).reshape(-1, 2)
        self.names, self.in_files = TextArray.of(names), [part in in_files for part in tables]

    def path(self, index: int) -> str:
        return self.names[index]

    def file(self, index: int) -> str | None:
        return self.names[index] if self.in_files[self.places[index, 0]] else None

    def stored_size(self, index: int) -> int | None:
        try:
            content, path = self._find(index)
            return Path(path).stat().st_size if content is None else content.size
        except (ValueError, OSError):
            return None  # said where the image is read

    def read(self, index: int, most: int | None = None) -> bytes:
        content, path = self._find(index)
        if content is not None:
            return content.slice(0, min(content.size, most or content.size)).to_pybytes()
        with open_regular(Path(path)) as file:
            return file.read(-1 if most is None else most)

    def _find(self, index: int) -> tuple[Any, str]:
        """Return the bytes of an image as a buffer of arrow's, or None and the file that holds them."""
        table, row = self.places[index].tolist()
        value = self.tables[table].data.column(self.column)[row]
        content, path = (value["bytes"], value["path"].as_py()) if hasattr(value, "keys") else (value, None)
        if content.is_valid:
            return content.as_buffer(), ""
        if not path:
            raise ValueError("the row holds no image")
        file = Path(path).resolve()
        if not any(file.is_relative_to(folder) for folder in self.folders):
            raise ValueError(f"the row names a file outside the dataset, {path}")
        return None, str(file)
