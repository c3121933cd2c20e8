"""Splits and labels of the three fine-grained datasets whose official archives keep them in MATLAB files.

* Oxford Flowers-102: `imagelabels.mat` (`labels`), `setid.mat` (`trnid`, `valid`, `tstid`), `jpg/image_00001.jpg`.
* Stanford Dogs: `train_list.mat`, `test_list.mat` (`file_list`, `labels`), `Images/<class>/*.jpg`.
* Stanford Cars: `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat` (`annotations`, a struct array with
  `fname` and `class`) and `devkit/cars_meta.mat`, or `cars_annos.mat` (`relative_im_path`, `class`, `test`).

Every problem is appended to a list with file and sample (MATLAB's numbering, from 1); a missing file raises
FileNotFoundError, one that cannot be read at all ValueError.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vision_peft.data.annotations.fgvc_lists import Archive, Sample, place_below, quote, whole
from vision_peft.data.annotations.mat_file import read_mat

DOG_FOLDERS = ("", "lists/")
CAR_FOLDERS = ("devkit/", "car_devkit/devkit/", "car_devkit/", "")


def read_flowers(folder: Path, problems: list[str]) -> Archive:
    """Read Oxford Flowers-102, the one of the five with a public validation split."""
    label_file, set_file = folder / "imagelabels.mat", folder / "setid.mat"
    class_ids = _whole_numbers(label_file, "labels", _variables(label_file, "labels")[0], problems)
    variables = {"train": "trnid", "val": "valid", "test": "tstid"}
    parts: dict[str, list[Sample]] = {}
    for (part, name), array in zip(variables.items(), _variables(set_file, *variables.values()), strict=True):
        samples = []
        for number, image in enumerate(_whole_numbers(set_file, name, array, problems), start=1):
            where = f"{set_file}: {name}({number})"
            if image is not None and not 1 <= image <= len(class_ids):
                problems.append(f"{where}: no image {image}: {label_file.name} has labels for 1 to {len(class_ids)}")
            elif image is not None and (class_id := class_ids[image - 1]) is not None:
                samples.append(Sample(f"image_{image:05d}.jpg", class_id, where))
        parts[part] = place_below(folder, samples, ("jpg", "102flowers/jpg", "images"))
    return Archive(parts, {}, from_one=True)


def read_dogs(folder: Path, problems: list[str]) -> Archive:
    """Read Stanford Dogs; class names are those of the class folders."""
    parts: dict[str, list[Sample]] = {}
    for part in ("train", "test"):
        file = _first_of(folder, [f"{sub}{part}_list.mat" for sub in DOG_FOLDERS])
        names, labels = _variables(file, "file_list", "labels")
        paths, class_ids = _values(names), _whole_numbers(file, "labels", labels, problems)
        if len(paths) != len(class_ids):
            problems.append(f"{file}: file_list has {len(paths)} entries, labels has {len(class_ids)}")
        samples = []
        for number, (path, class_id) in enumerate(zip(paths, class_ids, strict=False), start=1):
            where = f"{file}: file_list({number})"
            if not isinstance(path, str):
                problems.append(f"{where}: wanted a path, got {quote(path)}")
            elif class_id is not None:
                samples.append(Sample(path.strip(), class_id, where))
        parts[part] = place_below(folder, samples, ("Images", "images", "Images/Images", "images/Images"))
    return Archive(parts, {}, from_one=True)


def read_cars(folder: Path, problems: list[str]) -> Archive:
    """Read Stanford Cars, in the form with a folder for each split or the later one with all images in `car_ims/`."""
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    joint = folder / "cars_annos.mat"
    if joint.is_file():
        for path, class_id, where, flag in _annotations(joint, ("relative_im_path", "class", "test"), problems):
            parts["test" if flag else "train"].append(Sample(path, class_id, where))
        parts = {part: place_below(folder, samples, ("", "car_ims")) for part, samples in parts.items()}
        return Archive(parts, _class_names(joint, problems), from_one=True)
    tests = ("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels (1).mat", "cars_test_annos.mat")
    files = {
        "train": _first_of(folder, [f"{sub}cars_train_annos.mat" for sub in CAR_FOLDERS]),
        "test": _first_of(folder, [f"{sub}{test}" for test in tests for sub in CAR_FOLDERS]),
    }
    for part, file in files.items():
        samples = [Sample(*item[:3]) for item in _annotations(file, ("fname", "class"), problems)]
        parts[part] = place_below(folder, samples, (f"cars_{part}", f"cars_{part}/cars_{part}"))
    metas = [folder / f"{sub}cars_meta.mat" for sub in CAR_FOLDERS]
    meta = next((file for file in metas if file.is_file()), None)
    return Archive(parts, _class_names(meta, problems) if meta else {}, from_one=True)


def _annotations(file: Path, fields: Sequence[str], problems: list[str]) -> Iterator[tuple[str, int, str, int]]:
    """Yield path, class id, where it is, and the third of `fields` (0 without one) of each struct of `annotations`."""
    structs = _variables(file, "annotations", fields=fields)[0]
    held = list(structs[0]) if structs and isinstance(structs[0], dict) else []
    if absent := [field for field in fields if field not in held]:
        hint = "; cars_test_annos_withlabels.mat has the test labels" if "class" in absent else ""
        got = f"the fields {', '.join(held)}" if held else "no fields"
        raise ValueError(f"{file}: annotations needs the field {', '.join(absent)}, it has {got}{hint}")
    for number, struct in enumerate(structs, start=1):
        path, class_id, flag = (_single(struct[field]) for field in (*fields, fields[-1])[:3])
        place = f"{file}: annotations({number})"
        found = []
        if not isinstance(path, str):
            found.append(f"{place}.{fields[0]}: wanted a path, got {quote(path)}")
        if whole(class_id) is None:
            found.append(f"{place}.class: {quote(class_id)} is not an integer from 0")
        if len(fields) > 2 and whole(flag) not in (0, 1):
            found.append(f"{place}.{fields[2]}: wanted 1 (test) or 0 (train), got {quote(flag)}")
        if not found:
            yield path.strip(), int(class_id), place, int(flag) if len(fields) > 2 else 0
        problems.extend(found)


def _class_names(file: Path, problems: list[str]) -> dict[int, str]:
    names = dict(enumerate(_values(_variables(file, "class_names")[0]), start=1))
    wrong = [number for number, name in names.items() if not isinstance(name, str)]
    problems.extend(f"{file}: class_names({k}): wanted a name, got {quote(names[k])}" for k in wrong)
    return {} if wrong else {number: name.strip() for number, name in names.items()}


def _variables(file: Path, *names: str, fields: Sequence[str] = ()) -> list[list[Any]]:
    """Read variables of a MATLAB file, each as the list of its elements."""
    content = read_mat(file, names, fields)
    if absent := [name for name in names if name not in content]:
        raise ValueError(
            f"{file} needs the variable {', '.join(absent)}; its variables: {', '.join(content) or 'none'}"
        )
    return [content[name] if isinstance(content[name], list) else [content[name]] for name in names]


def _values(array: list[Any]) -> list[Any]:
    return [_single(value) for value in array]


def _single(value: Any) -> Any:
    """Unwrap a MATLAB value of one element: numbers and cells come as arrays, cells as nested ones."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _whole_numbers(file: Path, variable: str, array: list[Any], problems: list[str]) -> list[int | None]:
    values = _values(array)
    numbers = [whole(value) for value in values]
    wrong = [place for place, number in enumerate(numbers) if number is None]
    problems.extend(f"{file}: {variable}({k + 1}): {quote(values[k])} is not an integer from 0" for k in wrong)
    return numbers


def _first_of(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no file {names[0]} (nor {', '.join(names[1:])})")
