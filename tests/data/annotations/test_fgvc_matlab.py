"""FGVC: what is wrong with MATLAB files is said with file and entry, all at once."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from support.fgvc_miniatures import BOX, cars, cell, dogs, flowers, joint_cars, structs
from support.fgvc_problems import load, problems, rewrite

pytestmark = pytest.mark.usefixtures("small_fgvc")


def test_bad_entries_of_the_flower_files_are_reported_at_once(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    labels = np.array([[2.0, 3, 1, 1, 2, 3, 3, 2, 1, 4, 0, np.nan]])
    rewrite(folder / "imagelabels.mat", labels=labels)
    rewrite(folder / "setid.mat", trnid=np.array([[2, 3, 5, 5, 13]]), tstid=np.array([[0.5, 0, 2, 10, 11, 12]]))
    assert problems(folder) == [
        "imagelabels.mat: labels(12): nan is not an integer from 0",
        "setid.mat: trnid(5): no image 13: imagelabels.mat has labels for 1 to 12",
        "setid.mat: tstid(1): 0.5 is not an integer from 0",
        "setid.mat: tstid(2): no image 0: imagelabels.mat has labels for 1 to 12",
        "setid.mat: tstid(4): class id 4 is out of range: wanted 1 to 3",
        "setid.mat: tstid(5): class id 0 is out of range: wanted 1 to 3",
        "setid.mat: trnid(4): image 'jpg/image_00005.jpg' is also in setid.mat: trnid(3)",
        "setid.mat: tstid(3): image 'jpg/image_00002.jpg' is also in setid.mat: trnid(1): train and test overlap",
    ]


def test_a_variable_that_is_missing_names_those_there_are(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    rewrite(folder / "setid.mat", valid=None, tstid=None)
    with pytest.raises(ValueError, match=r"setid\.mat needs the variable valid, tstid; its variables: trnid$"):
        load(folder)
    (folder / "imagelabels.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*imagelabels\.mat"):
        load(folder)


def test_a_file_of_matlab_7_3_says_how_to_save_it(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (folder / "setid.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(400))
    with pytest.raises(ValueError, match=r"setid\.mat has MATLAB's format 7\.3 \(HDF5\), .* '-v7'"):
        load(folder)


def test_damaged_matlab_files_are_value_errors_that_name_the_file(tmp_path: Path) -> None:
    folder = dogs(tmp_path / "dogs").folder
    file = folder / "train_list.mat"
    whole = file.read_bytes()
    compressed = tmp_path / "compressed.mat"
    savemat(compressed, {"file_list": loadmat(file)["file_list"]}, do_compression=True)
    packed = compressed.read_bytes()
    damaged = [b"", b"<html>not found</html>" * 20, whole[:100], whole[: len(whole) // 2], packed[: len(packed) // 2]]
    damaged += [whole[:128] + bytes(len(whole) - 128), packed[:150] + b"\xff" * 40 + packed[190:], zlib.compress(whole)]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"train_list\.mat (cannot be read as a MATLAB file|needs the variable)"):
            load(folder)


def test_bad_entries_of_the_dog_lists_are_reported_at_once(tmp_path: Path) -> None:
    made = dogs(tmp_path / "dogs")
    file = made.folder / "train_list.mat"
    names = [path.removeprefix("Images/") for path in made.splits["train"]]
    wrong: list[Any] = [*names[:9], 7.0, np.array(["two", "texts"]), "../../x.jpg"]
    labels = np.array([[1.0] * 4 + [2] * 4 + [3] * 3 + [121]]).T
    rewrite(file, file_list=cell(wrong, column=True), labels=labels)
    found = problems(made.folder)
    assert found[0] == "train_list.mat: file_list(10): wanted a path, got 7.0"
    assert found[1] == "train_list.mat: file_list(11): wanted a path, got ['two  ', 'texts']"
    assert found[2:] == [
        "train_list.mat: file_list(12): class id 121 is out of range: wanted 1 to 3",
        "FOLDER: 4 classes have images in train, wanted 3",
        "train_list.mat: file_list(12): path 'Images/../../x.jpg' leads out of FOLDER",
    ]
    rewrite(file, file_list=cell(names, column=True), labels=labels[:-2])
    assert problems(made.folder) == ["train_list.mat: file_list has 12 entries, labels has 10"]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file train_list\.mat \(nor lists/train_list\.mat\)"):
        load(made.folder)


def test_bad_entries_of_the_car_annotations_are_reported_at_once(tmp_path: Path) -> None:
    folder = cars(tmp_path / "cars").folder
    file = folder / "devkit/cars_train_annos.mat"
    classes: list[Any] = [1, 2, 3, 197, "four", np.zeros((0, 0))]
    paths: list[Any] = ["00001.jpg", "00002.jpg", 3, "00004.jpg", "00005.jpg", np.array([])]
    rows = [{**BOX, "class": k, "fname": path} for k, path in zip(classes, paths, strict=True)]
    savemat(file, {"annotations": structs(rows)})
    assert problems(folder, "test") == [
        "devkit/cars_train_annos.mat: annotations(3).fname: wanted a path, got 3",
        "devkit/cars_train_annos.mat: annotations(5).class: 'four' is not an integer from 0",
        "devkit/cars_train_annos.mat: annotations(6).fname: wanted a path, got []",
        "devkit/cars_train_annos.mat: annotations(6).class: [] is not an integer from 0",
        "devkit/cars_train_annos.mat: annotations(4): class id 197 is out of range: wanted 1 to 3",
        "cars_test_annos_withlabels.mat: annotations(3): class id 3 of test has no image in train",
    ]
    rewrite(folder / "devkit/cars_meta.mat", class_names=cell(["Audi", 5.0, "smart"]))
    assert "devkit/cars_meta.mat: class_names(2): wanted a name, got 5.0" in problems(folder, "test")


def test_car_annotations_without_labels_say_which_file_has_them(tmp_path: Path) -> None:
    folder = cars(tmp_path / "cars", test="devkit/cars_test_annos.mat").folder
    assert len(load(folder, "test")) == 3
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": structs([{**BOX, "fname": "00001.jpg"}])})
    with pytest.raises(ValueError, match=r"needs the field class, it has .*fname; .*_withlabels\.mat"):
        load(folder)
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": np.zeros((1, 3))})
    with pytest.raises(ValueError, match="needs the field fname, class, it has no fields"):
        load(folder)
    (folder / "devkit/cars_test_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file devkit/cars_test_annos_withlabels\.mat"):
        load(folder)


def test_a_test_flag_of_the_cars_that_is_neither_is_an_error(tmp_path: Path) -> None:
    folder = joint_cars(tmp_path / "cars").folder
    rows = [{"relative_im_path": f"car_ims/{k:06d}.jpg", "class": k, "test": (0, 0, 0, 2)[k - 1]} for k in (1, 2, 3, 4)]
    rewrite(folder / "cars_annos.mat", annotations=structs(rows))
    assert problems(folder) == [
        "cars_annos.mat: annotations(4).test: wanted 1 (test) or 0 (train), got 2",
        "FOLDER: no image of test",
    ]
