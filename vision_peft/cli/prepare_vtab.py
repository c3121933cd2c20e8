"""Write VTAB-1k from TensorFlow Datasets in the layout that data=vtab1k reads.

Images become lossless PNG.

    pip install tensorflow tensorflow-datasets pillow scipy opencv-python-headless
    vision-peft prepare-vtab vtab-1k                                 all 19 tasks
    vision-peft prepare-vtab vtab-1k --tfds ~/tensorflow_datasets    from what TFDS has prepared there
    vision-peft prepare-vtab vtab-1k --tasks cifar,natural           single tasks and groups
    vision-peft prepare-vtab vtab-1k --verify                        hash every file again; needs no TensorFlow

Made for an environment of its own: `python tools/prepare_vtab.py` of a clone needs nothing of vision_peft. A task that
is complete is left as it is, an interrupted one goes on, a failing one is reported at the end. TASK/manifest.json holds
the source with its version, the number of images, a sha256 of every file, and one of the decoded pixels and labels of
each split, which does not depend on the PNG encoder.

TFDS downloads what it lacks, except resisc45 (the archive of NWPU-RESISC45, unpacked) and diabetic_retinopathy (the
files of Kaggle's competition): put these where the error of TFDS says.

Sources: builders, splits and label rules are those of https://github.com/google-research/task_adaptation (commit
ed9b417) with the versions of https://github.com/KMnP/vpt/blob/main/VTAB_SETUP.md (kitti 3.2.0, dmlab 2.0.1). Where a
dataset has no validation split, val200 are the first 200 of the part of train that VTAB holds out, not train[800:1000].
Not tried here: the download of any real dataset; the names of TFDS features are as in that code; the packages that
single builders want (scipy, OpenCV) are from memory. The tests run against a stand-in for TFDS.
"""

import argparse
import difflib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

INSTALL = "pip install tensorflow tensorflow-datasets pillow scipy opencv-python-headless"
MANIFEST = "manifest.json"
Label = Callable[[Mapping[str, Any], Any], int]  # from one example and the features of its dataset


def _plain(example: Mapping[str, Any], features: Any) -> int:
    return int(example["label"])


def _attribute(name: str, classes: int | None = None) -> Label:
    """Join the neighbouring values of an attribute to `classes` classes."""

    def label(example: Mapping[str, Any], features: Any) -> int:
        width = np.float32(features[name].num_classes / classes) if classes else 1
        return int(np.float32(example[name]) // width)

    return label


def _bin(value: float, thresholds: list[float]) -> int:
    """Find the last threshold below `value`."""
    return int(max(np.flatnonzero(np.array(thresholds) < value)))


def _clevr_count(example: Mapping[str, Any], features: Any) -> int:
    return len(example["objects"]["size"]) - 3


def _clevr_dist(example: Mapping[str, Any], features: Any) -> int:
    depth = np.min(example["objects"]["pixel_coords"][:, 2])
    return _bin(depth, [0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0])


def _kitti(example: Mapping[str, Any], features: Any) -> int:
    """Distance of the nearest car, van or truck in three bins, or that there is none."""
    vehicles = np.asarray(example["objects"]["type"]) < 3
    depths = np.asarray(example["objects"]["location"])[:, 2][vehicles]
    return _bin(min([*depths, 1000.0]), [-100.0, 8.0, 20.0, 999.0])


@dataclass(frozen=True)
class Task:
    """Where a task comes from: a builder of TFDS, which may divide its split train, and a rule for the label."""

    builder: str
    classes: int
    train: int | None = None  # % of train behind which val200 starts; None: it is the start of `val_split`
    val_split: str = "validation"
    test: str = "test"
    val: int | None = None  # % of train between its training part and test; None: `test` is a split
    label: Label = _plain

    def slices(self, train_images: int) -> dict[str, str]:
        """Name the official splits in TFDS's language."""
        val, test = f"{self.val_split}[:200]", self.test
        if self.train is not None:
            start = self.train * train_images // 100
            val = f"train[{start}:{start + 200}]"
            if self.val is not None:
                test = f"train[{start + self.val * train_images // 100}:]"
        return {"train800": "train[:800]", "val200": val, "test": test}


DSPRITES, NORB, CLEVR = "dsprites:2.*.*", "smallnorb:2.*.*", "clevr:3.*.*"
NORB_SPLITS: dict[str, Any] = {"val_split": "test", "test": "test[50%:]"}
TASKS = {
    "cifar": Task("cifar100:3.*.*", 100, train=90),
    "caltech101": Task("caltech101:3.*.*", 102, train=90),
    "dtd": Task("dtd:3.*.*", 47),
    "oxford_flowers102": Task("oxford_flowers102:2.*.*", 102),
    "oxford_iiit_pet": Task("oxford_iiit_pet:3.*.*", 37, train=80),
    "svhn": Task("svhn_cropped:3.*.*", 10, train=90),
    "sun397": Task("sun397/tfds:4.*.*", 397),
    "patch_camelyon": Task("patch_camelyon:2.*.*", 2),
    "eurosat": Task("eurosat/rgb:2.*.*", 10, train=60, val=20),
    "resisc45": Task("resisc45:3.*.*", 45, train=60, val=20),
    "diabetic_retinopathy": Task("diabetic_retinopathy_detection/btgraham-300:3.*.*", 5),
    "clevr_count": Task(CLEVR, 8, train=90, test="validation", label=_clevr_count),
    "clevr_dist": Task(CLEVR, 6, train=90, test="validation", label=_clevr_dist),
    "dmlab": Task("dmlab:2.0.1", 6),
    "kitti": Task("kitti:3.2.0", 4, label=_kitti),
    "dsprites_loc": Task(DSPRITES, 16, train=80, val=10, label=_attribute("label_x_position", 16)),
    "dsprites_ori": Task(DSPRITES, 16, train=80, val=10, label=_attribute("label_orientation", 16)),
    "smallnorb_azi": Task(NORB, 18, **NORB_SPLITS, label=_attribute("label_azimuth")),
    "smallnorb_ele": Task(NORB, 9, **NORB_SPLITS, label=_attribute("label_elevation")),
}
NAMES = list(TASKS)
GROUPS = {"all": NAMES, "natural": NAMES[:7], "specialized": NAMES[7:11], "structured": NAMES[11:]}


def prepare(name: str, out: Path, tfds: Any, data_dir: str | None) -> str:
    """Write one task and its manifest; returns what was done in words. ValueError where the data are not VTAB's."""
    task, folder = TASKS[name], out / name
    if (folder / MANIFEST).is_file():
        if not verify(folder):
            return "complete already"
    elif others := sorted(path.name for path in folder.glob("*.txt")):
        raise ValueError(f"{folder} holds {', '.join(others)}, which another program wrote: choose another folder")
    builder = tfds.builder(task.builder, data_dir=data_dir)
    builder.download_and_prepare()
    features = builder.info.features
    slices = task.slices(builder.info.splits["train"].num_examples)
    files: dict[str, str] = {}  # sha256 by path
    lists: dict[str, list[str]] = {}
    pixels: dict[str, str] = {}
    for split, words in slices.items():
        content, lists[split] = hashlib.sha256(), []
        # In the order of the files: VTAB's 1,000 images are defined by it.
        data = tfds.as_numpy(builder.as_dataset(split=words, shuffle_files=False))
        for number, example in enumerate(data):
            label = task.label(example, features)
            if not 0 <= label < task.classes:
                raise ValueError(f"{split} image {number} has label {label}: wanted 0 to {task.classes - 1}")
            image = _as_image(example["image"], binary=task.builder == DSPRITES)
            path = f"images/{split}/{number:06d}.png"
            files[path] = _write(folder / path, _png(image))
            content.update(f"{image.size} {image.mode} {label}\n".encode() + image.tobytes())
            lists[split].append(f"{path} {label}")
        pixels[split] = content.hexdigest()
        wanted = {"train800": 800, "val200": 200}.get(split)
        if wanted not in (None, len(lists[split])) or not lists[split]:
            raise ValueError(f"{split} ({words}) has {len(lists[split])} images, wanted {wanted or 'some'}")
    lists["train800val200"] = lists["train800"] + lists["val200"]
    texts = {f"{split}.txt": "\n".join(lines) + "\n" for split, lines in lists.items()}
    class_names = _class_names(features, task)
    if class_names:
        texts["classes.txt"] = "\n".join(class_names) + "\n"
    files |= {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    manifest = {
        "task": name,
        "source": {"builder": task.builder, "version": str(builder.version), "tfds": str(tfds.__version__)},
        "splits": slices,
        "images": {split: len(lines) for split, lines in lists.items()},
        "pixels_sha256": pixels,
        "files_sha256": files,
    }
    _write(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for path, text in texts.items():  # last: a folder with lists is a finished one
        _write(folder / path, text.encode())
    for path in folder.glob("images/*/*.tmp"):
        path.unlink()
    return ", ".join(f"{split} {len(lines)}" for split, lines in lists.items())


def verify(folder: Path) -> list[str]:
    """Describe what is wrong with the files of a task, compared with its manifest; empty if nothing is."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files_sha256"]
        wanted = {str(path): str(digest) for path, digest in wanted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{folder / MANIFEST} cannot be read ({error}): prepare it again without --verify"]
    problems = []
    for path, digest in wanted.items():
        file = folder / path
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            problems.append(f"{file} is not the file that was written")
    extra = {str(file.relative_to(folder).as_posix()) for file in folder.glob("images/*/*")} - wanted.keys()
    return problems + [f"{folder / path} does not belong there" for path in sorted(extra)]


def chosen(words: str) -> list[str]:
    """Tasks from their names and those of groups; ValueError for what is neither."""
    wanted = [word.strip() for word in words.split(",")]
    known = [*GROUPS, *TASKS]
    for word in wanted:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown task {word}{hint}: there are {', '.join(known)}")
    return list(dict.fromkeys(name for word in wanted for name in GROUPS.get(word, [word])))


def _as_image(array: Any, binary: bool) -> Image.Image:
    """Convert a TFDS image (H W C, uint8; 0 and 1 in dSprites) with its own number of channels, 1 or 3."""
    values = np.asarray(array)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (1, 3):
        raise ValueError(f"an image is {values.dtype} {values.shape}: wanted uint8 (height, width, 1 or 3)")
    values = values * np.uint8(255) if binary else values
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> str:
    """Write a file whole or not at all, unless it is there already; returns its sha256."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # a link there would be followed
        temporary.write_bytes(data)
        os.replace(temporary, path)  # noqa: PTH105 - the documented atomic call
    return hashlib.sha256(data).hexdigest()


def _class_names(features: Any, task: Task) -> list[str]:
    names = [str(name) for name in getattr(features["label"], "names", None) or []] if task.label is _plain else []
    return names if len(set(names)) == task.classes else []


def _run(names: list[str], options: argparse.Namespace) -> Iterator[str]:
    """Do the work; yield the tasks that failed."""
    tfds = None
    if not options.verify:
        try:
            import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(f"{error}: in an environment of its own, {INSTALL}") from error
    for name in names:
        try:
            if options.verify:
                if problems := verify(options.out / name):
                    raise ValueError("\n  ".join([f"{len(problems)} problems", *problems[:20]]))
                print(f"{name}: every file is as it was written", flush=True)
            else:
                print(f"{name}: {prepare(name, options.out, tfds, options.tfds)}", flush=True)
        except Exception as error:  # TFDS raises what it likes; the other tasks do not depend on this one
            print(f"{name}: error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            yield name


def main(argv: Sequence[str]) -> int:
    """Parse, prepare or verify, report."""
    script = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=script if script == "prepare_vtab.py" else "vision-peft prepare-vtab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to write, with a folder for each task")
    parser.add_argument("--tasks", default="all", help="tasks and groups, separated by commas (default: all)")
    parser.add_argument("--tfds", metavar="DIR", help="data folder of TFDS (default: its own)")
    parser.add_argument("--verify", action="store_true", help="only compare the files with the manifests")
    options = parser.parse_args(argv)
    try:
        names = chosen(options.tasks)
        failed = list(_run(names, options))
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if failed:
        print(f"{len(failed)} of {len(names)} tasks failed: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
