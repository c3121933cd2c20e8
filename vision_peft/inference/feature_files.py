"""Features of files as npz or parquet: collected on disk, so that a million of them take no memory, written, read."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vision_peft.safe_files import check_regular, replacing

NPZ, PARQUET = ".npz", ".parquet"
_ROWS = 4096  # of one group of a parquet file
_NO_PYARROW = "a .parquet file needs pyarrow: pip install 'vision_peft[parquet]', or name a .npz file"


class Features(NamedTuple):
    """Features of files and what is known of them."""

    rows: np.ndarray  # N D, float32
    paths: list[str]
    labels: np.ndarray  # N, int64: places in `classes`, -1 where the class is not known
    classes: list[str]


class RowFile:
    """Rows of numbers that wait in a temporary file in `folder` (None: where the system keeps such files)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._shape = (0, 0)

    def append(self, rows: np.ndarray) -> None:
        """Append rows, N D."""
        if len(rows):
            self._shape = self._shape[0] + len(rows), rows.shape[1]
            self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def read(self) -> np.ndarray:
        """Return all rows (N D, float32), which stay in the file."""
        self._file.flush()
        if not all(self._shape):
            return np.empty(self._shape, np.float32)
        return np.memmap(self._file, np.float32, "r", shape=self._shape)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def close(self) -> None:
        """Let go of the rows."""
        self._file.close()


def check_feature_file(path: Path) -> None:
    """Raise ValueError where features cannot be written by that name, ImportError where pyarrow is missing for it."""
    if path.suffix.lower() not in (NPZ, PARQUET):
        raise ValueError(f"a feature file must end in {NPZ} or {PARQUET}, got {path}")
    if path.suffix.lower() == PARQUET:
        _import_pyarrow()


def write_features(path: Path, found: Features) -> None:
    """Write features in the form that the name of the file asks for; the file is there whole or not at all.

    An npz has `features` (N D), `paths`, `labels` (-1: not known) and `classes`, which `numpy.load` reads without
    pickle; a parquet file a table of `path`, `label` (the name, null where it is not known) and `features` (a list of D
    floats).
    """
    check_feature_file(path)
    write = _write_npz if path.suffix.lower() == NPZ else _write_parquet
    with replacing(path) as opened:
        write(opened, found)


def _write_npz(file: Any, found: Features) -> None:
    np.savez(
        file,
        features=found.rows,
        paths=np.array([_as_text(each) for each in found.paths], dtype=np.str_),
        labels=found.labels,
        classes=np.array(found.classes, dtype=np.str_),
    )


def _write_parquet(file: Any, found: Features) -> None:
    arrow, parquet = _import_pyarrow()
    vector = arrow.list_(arrow.float32(), found.rows.shape[1])
    schema = arrow.schema([("path", arrow.string()), ("label", arrow.string()), ("features", vector)])
    names = [*found.classes, None]  # the last: not known
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(found.paths), _ROWS):
            part = slice(start, start + _ROWS)
            values = arrow.array(np.ascontiguousarray(found.rows[part]).ravel())
            columns = [
                arrow.array([_as_text(path) for path in found.paths[part]], arrow.string()),
                arrow.array([names[label] for label in found.labels[part].tolist()], arrow.string()),
                arrow.FixedSizeListArray.from_arrays(values, type=vector),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _as_text(path: str) -> str:
    """Write out the bytes of a name that is not UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_features(path: Path) -> Features:
    """Read a file that `write_features` or `predict --features` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another kind of file, or one without features, paths and labels that fit each other.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    check_regular(path)
    try:
        return _check(_read_npz(path) if path.suffix.lower() == NPZ else _read_parquet(path))
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of features (features, paths, labels, classes): {error}") from None


def _read_npz(path: Path) -> Features:
    with np.load(path, allow_pickle=False) as found:
        rows, paths, labels, classes = (found[key] for key in ("features", "paths", "labels", "classes"))
    return Features(rows, paths.tolist(), labels, classes.tolist())


def _read_parquet(path: Path) -> Features:
    _, parquet = _import_pyarrow()
    table = parquet.read_table(path, columns=["path", "label", "features"])
    names = table["label"].to_pylist()
    classes = list(dict.fromkeys(name for name in names if name is not None))
    number = {name: place for place, name in enumerate(classes)}
    width = getattr(table.schema.field("features").type, "list_size", -1)
    values = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = values.reshape(len(table), width)
    labels = np.array([-1 if name is None else number[name] for name in names], np.int64)
    return Features(rows, table["path"].to_pylist(), labels, classes)


def _check(found: Features) -> Features:
    rows, labels = found.rows, found.labels
    fits = rows.ndim == 2 and rows.dtype.kind == "f" and labels.dtype.kind == "i" and labels.ndim == 1
    if not fits or not len(rows) == len(labels) == len(found.paths):
        shapes = f"features {rows.dtype} {rows.shape}, labels {labels.dtype} {labels.shape}, {len(found.paths)} paths"
        raise ValueError(f"they do not fit each other: {shapes}")
    if len(labels) and not -1 <= labels.min() <= labels.max() < len(found.classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, there are {len(found.classes)} classes")
    return found


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(_NO_PYARROW) from None
    return pyarrow, parquet
