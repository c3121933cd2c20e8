"""MATLAB files: what SciPy writes comes back, and no damage does more than raise ValueError."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from support.fgvc_miniatures import cell, joint_cars, structs

from vision_peft.data.annotations import mat_file
from vision_peft.data.annotations.mat_file import read_mat

NUMBERS = ["float64", "float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_of_every_type_come_back_in_matlabs_order(tmp_path: Path, compressed: bool) -> None:
    arrays: dict[str, Any] = {kind: np.array([[1, 2, 3], [4, 5, 100]], kind) for kind in NUMBERS}
    savemat(tmp_path / "a.mat", arrays | {"flags": np.array([[True, False]])}, do_compression=compressed)
    found = read_mat(tmp_path / "a.mat", [*NUMBERS, "flags"])
    assert found == {kind: [1, 4, 2, 5, 3, 100] for kind in NUMBERS} | {"flags": [1, 0]}


@pytest.mark.parametrize("compressed", [False, True])
def test_texts_cells_and_structs_come_back(tmp_path: Path, compressed: bool) -> None:
    rows = [{"class": 3, "fname": "a.jpg", "box": [1, 2]}, {"class": 196, "fname": "Zürich ☃.jpg", "box": []}]
    content = {
        "text": "one row",
        "rows": np.array(["ab", "cd"]),
        "empty": "",
        "names": cell(["Audi", 7.5, cell(["in", "side"])], column=True),
        "annotations": structs(rows),
    }
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    assert read_mat(tmp_path / "a.mat", content) == {
        "text": "one row",
        "rows": ["ab", "cd"],
        "empty": "",
        "names": ["Audi", [7.5], ["in", "side"]],
        "annotations": [
            {"class": [3], "fname": "a.jpg", "box": [1, 2]},
            {"class": [196], "fname": "Zürich ☃.jpg", "box": []},
        ],
    }
    found = read_mat(tmp_path / "a.mat", ["annotations"], fields=["class"])
    assert found["annotations"] == [{"class": [k], "fname": None, "box": None} for k in (3, 196)]
    assert found["text"] is None


def test_a_file_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    array = element(6, struct.pack(">II", 11, 0)) + element(5, struct.pack(">ii", 1, 3)) + element(1, b"labels")
    array += element(4, struct.pack(">HHH", 1, 2, 8189))
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, array))
    assert read_mat(tmp_path / "a.mat", ["labels"]) == {"labels": [1, 2, 8189]}
    assert loadmat(tmp_path / "a.mat")["labels"].tolist() == [[1, 2, 8189]]


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [(1, "ascii"), (2, "ascii"), (4, "utf-16-le"), (16, "utf-8"), (17, "utf-16-le"), (18, "utf-32-le")],
)
def test_texts_are_read_however_matlab_stored_them(tmp_path: Path, kind: int, encoding: str) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    array = element(6, struct.pack("<II", 4, 0)) + element(5, struct.pack("<ii", 1, 9)) + element(1, b"fname")
    array += element(kind, "00001.jpg".encode(encoding))
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + element(14, array))
    assert read_mat(tmp_path / "a.mat", ["fname"]) == {"fname": "00001.jpg"}


def test_kinds_that_are_not_read_are_none(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"complex": np.array([1 + 2j]), "labels": np.array([1, 2])})
    assert read_mat(tmp_path / "a.mat", ["complex", "labels"]) == {"complex": None, "labels": [1, 2]}


@pytest.mark.parametrize("compressed", [False, True])
def test_one_changed_byte_ends_in_values_or_in_a_value_error(tmp_path: Path, compressed: bool) -> None:
    file = joint_cars(tmp_path / "cars").folder / "cars_annos.mat"
    content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    savemat(file, content, do_compression=compressed)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    state, refused = np.random.RandomState(0), 0
    for _ in range(400):
        damaged = whole.copy()
        damaged[state.randint(128, len(whole))] = state.randint(256)
        file.write_bytes(damaged.tobytes())
        try:
            read_mat(file, ["annotations", "class_names"])
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 40


def test_every_cut_of_a_file_is_a_value_error_or_lacks_variables(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"names": cell(["one", "two"]), "labels": np.array([[1, 2]])})
    whole = file.read_bytes()
    complete = read_mat(file, ["names", "labels"])
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        try:
            found = read_mat(file, ["names", "labels"])
        except ValueError:
            continue
        assert found == {name: value for name, value in complete.items() if name in found}
        assert len(found) < 2


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat_file, "MAX_BYTES", 2**20)
    file = tmp_path / "bomb.mat"
    packed = zlib.compress(struct.pack("<II", 14, 2**21) + bytes(2**21))
    file.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match=r"bomb\.mat .*unpacks to more than 1,048,576 bytes"):
        read_mat(file, ["labels"])
    file.write_bytes(bytes(2**20 + 1))
    with pytest.raises(ValueError, match=r"bomb\.mat has more than 1,048,576 bytes"):
        read_mat(file, ["labels"])


def test_cells_in_cells_without_end_are_refused(tmp_path: Path) -> None:
    nested: Any = "in"
    for _ in range(20):
        nested = cell([nested])
    savemat(tmp_path / "deep.mat", {"names": nested})
    with pytest.raises(ValueError, match="its cells are nested more than 16 deep"):
        read_mat(tmp_path / "deep.mat", ["names"])


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00" * 200, b"MATLAB 5.0".ljust(126) + b"XX"])
def test_a_file_of_another_kind_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB file: it has no header of format 5"):
        read_mat(tmp_path / "a.mat", ["labels"])
