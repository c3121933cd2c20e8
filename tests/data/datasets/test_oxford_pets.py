"""Oxford-IIIT Pet in its official layout, and out of archives like the official ones."""

import hashlib
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import OxfordIIITPet

from vision_peft.data.datasets import oxford_pets
from vision_peft.data.datasets.oxford_pets import OxfordPets
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]
# Breed -> class, species (1 cat, 2 dog), breed of the species. As in the official lists ids are in no order.
BREEDS = {"Abyssinian": (1, 1, 1), "american_bulldog": (2, 2, 1), "Maine_Coon": (3, 1, 2)}
TRAINVAL = {"Abyssinian": [100, 3, *range(60, 68)], "american_bulldog": [7, *range(20, 29)], "Maine_Coon": range(10)}
TEST = {"Abyssinian": [1], "american_bulldog": [204, 13], "Maine_Coon": [99]}


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(oxford_pets, "NUM_CLASSES", 3)
    monkeypatch.setattr(oxford_pets, "NUM_IMAGES", {"trainval": 30, "test": 4})
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for half, groups in {"trainval": TRAINVAL, "test": TEST}.items():
        lines = []
        for breed, numbers in groups.items():
            for number in numbers:
                make_image(base / "images" / f"{breed}_{number}.jpg", value=number)
                lines.append(" ".join(map(str, (f"{breed}_{number}", *BREEDS[breed]))))
        write(tmp_path, half, lines)
    return tmp_path


def write(root: Path, half: str, lines: list[str]) -> None:
    (root / "oxford-iiit-pet" / "annotations" / f"{half}.txt").write_text("".join(f"{line}\n" for line in lines))


def read(root: Path, half: str) -> list[str]:
    return (root / "oxford-iiit-pet" / "annotations" / f"{half}.txt").read_text().splitlines()


def load(root: Path, split: str, **fields: Any) -> ImageFiles:
    dataset = OxfordPets(root=str(root), **fields).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


def names(dataset: ImageFiles) -> list[str]:
    return [Path(path).stem for path in dataset.paths]


def test_trainval_and_test_are_the_official_halves_in_their_order(root: Path) -> None:
    trainval, test = load(root, "trainval"), load(root, "test")
    assert trainval.classes == test.classes == ["Abyssinian", "American Bulldog", "Maine Coon"]
    assert trainval.labels == [0] * 10 + [1] * 10 + [2] * 10
    assert names(trainval)[:2] == ["Abyssinian_100", "Abyssinian_3"]
    assert names(test) == ["Abyssinian_1", "american_bulldog_204", "american_bulldog_13", "Maine_Coon_99"]
    assert test.labels == [0, 1, 1, 2]
    image, label = test[1]
    assert (image.mode, image.size, image.getpixel((0, 0)), label) == ("RGB", (12, 10), (204, 204, 204), 1)


@pytest.mark.parametrize("half", ["trainval", "test"])
def test_images_labels_and_classes_are_those_of_torchvision(root: Path, half: str) -> None:
    ours, theirs = load(root, half), OxfordIIITPet(root, split=half)
    assert ours.classes == theirs.classes
    assert list(zip(map(Path, ours.paths), ours.labels, strict=True)) == list(
        zip(theirs._images, theirs._labels, strict=True)
    )


def test_val_is_a_share_of_every_class_of_trainval(root: Path) -> None:
    train, val, trainval = (load(root, split) for split in ("train", "val", "trainval"))
    assert Counter(val.labels) == {0: 1, 1: 1, 2: 1}
    assert Counter(load(root, "val", val_fraction=0.4).labels) == {0: 4, 1: 4, 2: 4}
    assert not set(train.paths) & set(val.paths)
    assert set(train.paths) | set(val.paths) == set(trainval.paths)
    assert not set(trainval.paths) & set(load(root, "test").paths)
    assert load(root, "val").paths == val.paths
    assert load(root, "val", seed=1).paths != val.paths


def test_val_does_not_depend_on_test(root: Path) -> None:
    before = load(root, "val").paths
    write(root, "test", read(root, "test")[::-1])
    assert load(root, "val").paths == before


def test_a_folder_of_its_own_name_is_found_from_its_top(root: Path) -> None:
    (root / "oxford_pets").mkdir()
    (root / "oxford-iiit-pet").rename(root / "oxford_pets" / "oxford-iiit-pet")
    assert load(root, "test").labels == load(root / "oxford_pets", "test").labels == [0, 1, 1, 2]


def pack(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the dataset into the two archives and make them, with their MD5, the official ones."""
    folder.mkdir()
    resources = []
    for name in ("images", "annotations"):
        archive = folder / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(root / "oxford-iiit-pet" / name, name)
        resources.append((archive.as_uri(), hashlib.md5(archive.read_bytes()).hexdigest()))
    (root / "oxford-iiit-pet").rename(folder / "unpacked")
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))

    def retrieve(url: str, file: str | Path) -> None:
        shutil.copy(folder / url.rpartition("/")[2], file)

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)


def test_the_archives_are_downloaded_where_that_is_asked_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {split: (names(load(root, split)), load(root, split).labels) for split in ("train", "val", "test")}
    pack(root, tmp_path / "official", monkeypatch)
    for split, (images, labels) in expected.items():
        dataset = load(root, split, download=True)
        assert (names(dataset), dataset.labels) == (images, labels)
    assert load(root, "test").path(0) == str(root / "oxford-iiit-pet" / "images" / "Abyssinian_1.jpg")


def test_an_archive_with_another_md5_is_not_unpacked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(root, tmp_path / "official", monkeypatch)
    with (tmp_path / "official" / "images.tar.gz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ConnectionError, match=r"cannot download .*images\.tar\.gz and .*not found or corrupted"):
        load(root, "train", download=True)
    assert not (root / "oxford-iiit-pet" / "images").exists()


def test_missing_folders_are_named_with_both_ways_out(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{root}: give data\.root={root}\)"):
        load(root / "oxford-iiit-pet", "train")
    (root / "oxford-iiit-pet" / "images").rename(root / "elsewhere")
    with pytest.raises(
        FileNotFoundError,
        match=r"missing: oxford-iiit-pet/images\. .*images\.tar\.gz.*annotations\.tar\.gz.*download=true",
    ):
        load(root, "train")


def test_a_missing_list_is_named(root: Path) -> None:
    (root / "oxford-iiit-pet" / "annotations" / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations/test\.txt"):
        load(root, "train")


def test_missing_images_are_reported_all_at_once(root: Path) -> None:
    for image in ("Abyssinian_100", "Maine_Coon_0", "american_bulldog_13"):
        (root / "oxford-iiit-pet" / "images" / f"{image}.jpg").unlink()
    with pytest.raises(ValueError, match="split trainval: 2 problems") as caught:
        load(root, "trainval")
    assert "trainval.txt:1: image 'Abyssinian_100.jpg' is missing" in str(caught.value)
    assert "trainval.txt:21: image 'Maine_Coon_0.jpg' is missing" in str(caught.value)
    with pytest.raises(ValueError, match=r"test\.txt:3: image 'american_bulldog_13\.jpg' is missing"):
        load(root, "test")


def test_bad_lines_are_reported_all_at_once(root: Path) -> None:
    bad = ["Abyssinian_5 1 1", "Abyssinian 1 1 1", "Abyssinian_x 1 1 1", "_5 1 1 1"]
    wrong = ["Maine_Coon_50 x 1 2", "Maine_Coon_51 4 1 2", "Maine_Coon_52 0 1 2", "Maine_Coon_53 1 1 2"]
    write(root, "trainval", [*read(root, "trainval"), *bad, *wrong])
    write(root, "test", [*read(root, "test"), "", "Abyssinian_3 1 1 1", "Sphynx_1 3 1 3"])
    with pytest.raises(ValueError, match="10 problems") as caught:
        load(root, "val")
    annotations = root / "oxford-iiit-pet" / "annotations"
    for text in (
        *(
            f"trainval.txt:{31 + i}: wanted '<Breed>_<number> <1 to 3> <species> <breed>', got {line!r}"
            for i, line in enumerate(bad)
        ),
        "trainval.txt:35: class 'x' is not an integer",
        "trainval.txt:36: class 4 is out of range: wanted 1 to 3",
        "trainval.txt:37: class 0 is out of range: wanted 1 to 3",
        f"trainval.txt:38: class 1 is 'Maine_Coon', but 'Abyssinian' in {annotations / 'trainval.txt'}:1",
        f"test.txt:6: image 'Abyssinian_3' is listed already: {annotations / 'trainval.txt'}:2",
        f"test.txt:7: class 3 is 'Sphynx', but 'Maine_Coon' in {annotations / 'trainval.txt'}:21",
    ):
        assert text in str(caught.value), text


def test_a_breed_of_two_classes_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oxford_pets, "NUM_CLASSES", 4)
    write(root, "test", [*read(root, "test"), "Abyssinian_8 4 1 1"])
    with pytest.raises(ValueError, match=r"test\.txt:5: 'Abyssinian' is class 4, but 1 in .*trainval\.txt:1"):
        load(root, "test")


def test_an_empty_list_is_an_error(root: Path) -> None:
    write(root, "test", [])
    with pytest.raises(ValueError, match=r"test\.txt: the file is empty"):
        load(root, "train")


def test_links_out_of_the_images_are_refused(root: Path, tmp_path: Path, make_image: MakeImage) -> None:
    path = root / "oxford-iiit-pet" / "images" / "Abyssinian_1.jpg"
    path.unlink()
    path.symlink_to(make_image(tmp_path / "secret.jpg"))
    with pytest.raises(ValueError, match=r"'Abyssinian_1\.jpg' leads out of"):
        load(root, "test")


def test_another_number_of_classes_is_an_error_and_of_images_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oxford_pets, "NUM_IMAGES", {"trainval": 3_680, "test": 4})
    load(root, "test")
    with pytest.warns(UserWarning, match=r"trainval\.txt: 30 images, Oxford-IIIT Pet has 3,680"):
        load(root, "train")
    monkeypatch.setattr(oxford_pets, "NUM_CLASSES", 5)
    with pytest.raises(ValueError, match=r"wanted 5 classes, no image has class 4, 5; .*data=folder or data=list"):
        load(root, "test")


def test_the_official_figures_are_those_of_the_paper() -> None:
    assert (oxford_pets.NUM_CLASSES, oxford_pets.NUM_IMAGES) == (37, {"trainval": 3_680, "test": 3_669})


def test_the_fraction_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1"):
        OxfordPets(val_fraction=1.0)
