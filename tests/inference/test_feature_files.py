"""Files of features: what is written is read back, and what is no such file is answered."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vision_peft.inference import feature_files
from vision_peft.inference.feature_files import Features, RowFile, check_feature_file, read_features, write_features

CLASSES = ["cat", "dog", "Ærø"]


def draw(number: int) -> Features:
    rows = np.random.default_rng(0).normal(size=(number, 3)).astype(np.float32)
    labels = np.arange(number, dtype=np.int64) % 4 - 1
    return Features(rows, [f"photos/{place}.jpg" for place in range(number)], labels, CLASSES)


def name(found: Features) -> list[str | None]:
    return [None if label < 0 else found.classes[label] for label in found.labels.tolist()]


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
@pytest.mark.parametrize("number", [0, 1, 11])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'vision_peft[parquet]'")
    monkeypatch.setattr(feature_files, "_ROWS", 4)
    given = draw(number)
    write_features(tmp_path / f"a{kind}", given)
    found = read_features(tmp_path / f"a{kind}")
    np.testing.assert_array_equal(found.rows, given.rows)
    assert (found.paths, name(found)) == (given.paths, name(given))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{kind}"]


def test_a_table_has_plain_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'vision_peft[parquet]'")
    given = draw(5)
    write_features(tmp_path / "a.parquet", given._replace(paths=[*given.paths[:4], "no\udcffutf8"]))
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert table["label"] == [None, "cat", "dog", "Ærø", None]
    assert table["path"][3:] == ["photos/3.jpg", "no\\xffutf8"]
    np.testing.assert_array_equal(np.array(table["features"], np.float32), given.rows)


def test_rows_wait_on_the_disk(tmp_path: Path) -> None:
    rows, given = RowFile(tmp_path), draw(9).rows
    for start in range(0, 9, 4):
        rows.append(given[start : start + 4])
    rows.append(given[:0])
    found = rows.read()
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, given)
    rows.close()
    assert RowFile().read().shape == (0, 0)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'vision_peft\[parquet\]', or name a .npz file"):
        check_feature_file(tmp_path / "a.parquet")
    check_feature_file(tmp_path / "a.npz")


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a feature file must end in .npz or .parquet, got a.csv"):
        write_features(Path("a.csv"), draw(1))


def test_what_is_no_file_of_features_is_answered(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_features(tmp_path / "a.npz")
    for content in (b"", b"x" * 100):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.npz is not a file of features"):
            read_features(tmp_path / "a.npz")
    with (tmp_path / "a.npz").open("wb") as opened:
        np.save(opened, np.ones(3))
    with pytest.raises(ValueError, match=r"a.npz is not a file of features"):
        read_features(tmp_path / "a.npz")
    rows, labels = np.ones((2, 3), np.float32), np.zeros(2, np.int64)
    for given in ({"features": rows, "labels": labels}, {"features": rows, "labels": labels, "paths": ["a", "b"]}):
        np.savez(tmp_path / "b.npz", **given)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="is not a file of features"):
            read_features(tmp_path / "b.npz")
    whole = {"features": rows, "labels": labels, "paths": ["a", "b"], "classes": ["x"]}
    for wrong, words in (
        ({"labels": labels[:1]}, "they do not fit each other"),
        ({"labels": labels + 1}, "labels run from 1 to 1, there are 1 classes"),
        ({"labels": labels - 2}, "labels run from -2"),
        ({"features": rows[0]}, "they do not fit each other"),
    ):
        np.savez(tmp_path / "b.npz", **{**whole, **wrong})
        with pytest.raises(ValueError, match=words):
            read_features(tmp_path / "b.npz")
