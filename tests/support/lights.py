"""Images whose brightness makes their labels: sets of labels, grades, numbers."""

from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {  # what is typed, and how the brightness of an image (0 to 23) makes its label
    "multilabel": (["data.target=tags"], lambda light: ";".join(["dark"] * (light < 9) + ["odd"] * (light % 2))),
    "ordinal": (["data.target=grade", "data.task_kind=ordinal"], lambda light: 1 + light // 6),
    "regression": (["data.target=[dose,age]", "data.unit=mg"], lambda light: None),
}


def write_lights(root: Path) -> Path:
    """Write 24 images to train on, 11 of val and 11 of test, as bright as they are labelled, and a list of each."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 11), ("test", 11)):
        lines = ["path,tags,grade,dose,age"]
        for number in range(count):
            light = (7 * number + len(split)) % 24
            pixels = generator.integers(0, 20, (12, 10, 3), dtype=np.uint8) + np.uint8(9 * light)
            Image.fromarray(pixels).save(root / f"{split}{number}.png")
            cells = KINDS["multilabel"][1](light), KINDS["ordinal"][1](light), light / 4, 20 + light
            lines.append(f"{split}{number}.png,{','.join(map(str, cells))}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def words_of(kind: str, lights: Path) -> list[str]:
    """What is typed for a task of `kind` on what `write_lights` wrote."""
    lists = [f"data.{split}={split}.csv" for split in ("train", "val", "test")]
    return ["data=list", f"data.root={lights}", *lists, *KINDS[kind][0]]
