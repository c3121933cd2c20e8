"""Oxford-IIIT Pet: 3,680 images to train on and 3,669 test images of 37 breeds of cats and dogs.

Parkhi et al., "Cats and Dogs", CVPR 2012, https://www.robots.ox.ac.uk/~vgg/data/pets. torchvision unpacks the official
archives below `oxford-iiit-pet/`: `images/<Breed>_<number>.jpg` (cats with a capital letter) and the lists
`annotations/{trainval,test}.txt`, `<Breed>_<number> <class, 1 to 37> <species, 1 or 2> <breed of the species>` a line.

The official trainval is what val is drawn from. The lists are read here and not by torchvision, which checks neither
them nor that the images are there; labels and names of classes are torchvision's (label 0 for class 1, "Maine Coon").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from torchvision.datasets import OxfordIIITPet

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import choose
from vision_peft.data.annotations.list_files import is_integer, read_lines
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.train_test import OfficialHalves
from vision_peft.data.config import check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.problems import quote, raise_problems
from vision_peft.printable import warn

BASE = "oxford-iiit-pet"
NUM_CLASSES = 37
NUM_IMAGES = {"trainval": 3_680, "test": 3_669}


class _Entry(NamedTuple):
    where: str  # for messages
    image: str  # <Breed>_<number>
    breed: str
    label: int  # from 0


@dataclass(frozen=True, kw_only=True)
class OxfordPets(OfficialHalves):
    """Oxford-IIIT Pet decoded from its files; the label is the breed, in the order of the lists."""

    name: ClassVar[str] = "oxford_pets"
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def load(self, split: str) -> ImageDataset:
        """Return the images of `split`.

        Raises:
            FileNotFoundError: missing folders or lists, with how to get them.
            ValueError: an unknown split, no `data.root`, or every problem of both lists, or every missing image.
            ConnectionError: `data.download=true`, and the download fails.
        """
        check_split(split)
        base = _find(find_root(self.root, self.name), self.download)
        files = {half: base / "annotations" / f"{half}.txt" for half in NUM_IMAGES}
        problems: list[str] = []
        halves = {half: list(_read_entries(file, problems)) for half, file in files.items()}
        breeds = _name_classes([*halves["trainval"], *halves["test"]], problems)
        absent = [str(label + 1) for label in range(NUM_CLASSES) if label not in breeds]
        if absent and not problems:
            problems.append(
                f"{base / 'annotations'}: wanted {NUM_CLASSES} classes, no image has class {', '.join(absent)}; "
                "read another set of images with data=folder or data=list"
            )
        raise_problems(f"data.root={self.root}", problems)

        half = "test" if split == "test" else "trainval"
        labels = [entry.label for entry in halves[half]]
        numbers = choose(split, labels, self.val_fraction, self.seed)
        chosen = [halves[half][number] for number in numbers]
        check = PathCheck(base / "images")
        found = ((entry.where, check.find_problem(f"{entry.image}.jpg")) for entry in chosen)
        raise_problems(f"{base / 'images'}, split {split}", [f"{where}: {text}" for where, text in found if text])
        if len(labels) != NUM_IMAGES[half]:
            warn(f"{files[half]}: {len(labels):,} images, Oxford-IIIT Pet has {NUM_IMAGES[half]:,}", stacklevel=2)
        return ImageFiles(
            [base / "images" / f"{entry.image}.jpg" for entry in chosen],
            [entry.label for entry in chosen],
            [" ".join(word.title() for word in breeds[label].split("_")) for label in sorted(breeds)],
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
        )


def _find(root: Path, download: bool) -> Path:
    """Find the folder oxford-iiit-pet; download it if that is wanted and it is not there."""
    needed = [f"{BASE}/images", f"{BASE}/annotations"]

    def read(folder: Path, download: bool) -> Path:
        if download:
            OxfordIIITPet(folder, download=True)
        if not all((folder / path).is_dir() for path in needed):
            raise RuntimeError("Oxford-IIIT Pet is not there")
        return folder / BASE

    archives = " and ".join(url for url, _ in OxfordIIITPet._RESOURCES)
    return Official(family="oxford_pets", files=dict.fromkeys(needed), archive=archives).read(root, read, download)


def _read_entries(file: Path, problems: list[str]) -> Iterator[_Entry]:
    """Read the lines of a list; malformed ones are appended to `problems`."""
    for number, line in enumerate(read_lines(file, problems), start=1):
        where, fields = f"{file}:{number}", line.split()
        if not fields:
            continue
        breed, _, id_ = fields[0].rpartition("_")
        if len(fields) != 4 or not breed or not id_.isdecimal():
            wanted = f"'<Breed>_<number> <1 to {NUM_CLASSES}> <species> <breed>'"
            problems.append(f"{where}: wanted {wanted}, got {quote(line.strip())}")
        elif problem := _find_class_problem(fields[1]):
            problems.append(f"{where}: {problem}")
        else:
            yield _Entry(where, fields[0], breed, int(fields[1]) - 1)


def _find_class_problem(text: str) -> str | None:
    if not is_integer(text):
        return f"class {quote(text)} is not an integer"
    return None if 1 <= int(text) <= NUM_CLASSES else f"class {int(text)} is out of range: wanted 1 to {NUM_CLASSES}"


def _name_classes(entries: list[_Entry], problems: list[str]) -> dict[int, str]:
    """Return the breed of every label; entries that contradict an earlier one are appended to `problems`."""
    breeds: dict[int, _Entry] = {}
    labels: dict[str, _Entry] = {}
    images: dict[str, _Entry] = {}
    for entry in entries:
        if (first := breeds.setdefault(entry.label, entry)).breed != entry.breed:
            clash = f"is {quote(entry.breed)}, but {quote(first.breed)} in {first.where}"
            problems.append(f"{entry.where}: class {entry.label + 1} {clash}")
        elif (first := labels.setdefault(entry.breed, entry)).label != entry.label:
            clash = f"is class {entry.label + 1}, but {first.label + 1} in {first.where}"
            problems.append(f"{entry.where}: {quote(entry.breed)} {clash}")
        elif (first := images.setdefault(entry.image, entry)) is not entry:
            problems.append(f"{entry.where}: image {quote(entry.image)} is listed already: {first.where}")
    return {label: entry.breed for label, entry in breeds.items()}
