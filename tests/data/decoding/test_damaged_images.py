"""500 damaged images of every format: the same picture twice, or an error; no crash, no hang, none is dropped.

DAMAGED_TABLE=table.md writes how each format fared.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from support.damage import damage
from support.decode_images import BYTES, SECONDS
from support.hostile_kit import encoded
from support.hostile_text import is_clean_line

from vision_peft.data.decoding.images import FORMATS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")]

IMAGES = 500
OPTIONS: dict[str, tuple[str, str, dict[str, object]]] = {
    "PNG": ("PNG", "RGB", {}),
    "PNG, palette": ("PNG", "P", {}),
    "PNG, 16 bits": ("PNG", "I;16", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True}),
    "JPEG, four inks": ("JPEG", "CMYK", {}),
    "GIF": ("GIF", "P", {}),
    "WebP": ("WEBP", "RGB", {"lossless": True}),
    "WebP, lossy": ("WEBP", "RGBA", {}),
    "TIFF": ("TIFF", "RGB", {}),
    "TIFF, LZW": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, JPEG": ("TIFF", "RGB", {"compression": "jpeg"}),
    "TIFF, 16 bits": ("TIFF", "I;16", {}),
    "TIFF, floats": ("TIFF", "F", {}),
    "BMP": ("BMP", "RGB", {}),
    "PPM": ("PPM", "RGB", {}),
    "TGA": ("TGA", "RGB", {"compression": "tga_rle"}),
    "JPEG 2000": ("JPEG2000", "RGB", {}),
    "AVIF": ("AVIF", "RGB", {}),
}
KINDS = {name: option for name, option in OPTIONS.items() if option[0] in FORMATS}


def picture(mode: str, random: np.random.Generator) -> Image.Image:
    """Noise over a ramp, so that every kind of compression has something to do."""
    width, height = (int(side) for side in random.integers(17, 90, 2))
    ramp = np.add.outer(np.arange(height), np.arange(width)) * 2
    if mode == "I;16":
        return Image.fromarray((ramp * 200 + random.integers(0, 999, ramp.shape)).astype(np.uint16))
    if mode == "F":
        return Image.fromarray((ramp / 300 + random.random(ramp.shape)).astype(np.float32))
    channels = (ramp[..., None] + random.integers(0, 60, (*ramp.shape, 3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(channels).convert(mode)


def write_damaged(folder: Path) -> dict[str, str]:
    """Write the damaged images; the kind of each by its path."""
    random, noise, kinds = Random(0), np.random.default_rng(0), {}
    names = [*KINDS]
    for number in range(IMAGES):
        name = names[number % len(names)]
        kind, mode, options = KINDS[name]
        other_kind, other_mode, other_options = KINDS[random.choice(names)]
        whole = encoded(picture(mode, noise), kind, **options)
        other = encoded(picture(other_mode, noise), other_kind, **other_options)
        path = folder / f"{number:03}.img"
        path.write_bytes(damage(whole, other, random))
        kinds[str(path)] = name
    return kinds


def decode_all(paths: list[str], repository: Path) -> tuple[dict[str, list[dict]], dict | None, list[str]]:
    """Decode them in processes of their own: what each gave, what the loader gave, and which ended a process."""
    found: dict[str, list[dict]] = {}
    ended: list[str] = []
    places = f"{repository}{os.pathsep}{repository / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    left = paths
    while True:
        command = [sys.executable, "-m", "support.decode_images"]
        done = subprocess.run(
            command, input="\n".join(left), capture_output=True, text=True, env=environment, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        for line in lines:
            if "path" in line:
                found.setdefault(line["path"], []).append(line)
        if done.returncode == 0:
            return found, lines[-1], ended
        missing = [path for path in left if len(found.get(path, [])) < 2]
        if not missing:
            return found, None, [*ended, f"the loader: {done.returncode} {done.stderr[-300:]}"]
        ended.append(f"{missing[0]}: {done.returncode} {done.stderr[-300:]}")
        found[missing[0]] = [{"error": "ended"}] * 2
        left = missing[1:]


def test_damaged_images_are_the_same_picture_twice_or_an_error(tmp_path: Path, repository: Path) -> None:
    kinds = write_damaged(tmp_path)
    found, loaded, ended = decode_all([*kinds], repository)
    assert ended == [], f"a process of at most {BYTES:,} bytes and {SECONDS} s an image ended"
    assert found.keys() == kinds.keys()
    for path, (first, second) in found.items():
        assert (first.get("pixels"), first.get("error")) == (second.get("pixels"), second.get("error")), path
        assert is_clean_line(first.get("error", ""))
    assert max(line["seconds"] for lines in found.values() for line in lines) < SECONDS / 2
    assert max(line["peak_mb"] for lines in found.values() for line in lines) < 1000
    assert loaded is not None
    decoded = [number for number, lines in enumerate(found.values()) if "pixels" in lines[0]]
    assert sorted(loaded["seen"]) == decoded
    assert sorted(loaded["seen"] + loaded["unreadable"]) == [*range(len(kinds))]
    if table := os.environ.get("DAMAGED_TABLE"):
        counts = Counter((kinds[path], "pixels" in lines[0]) for path, lines in found.items())
        rows = [f"| {name} | {counts[name, True]} | {counts[name, False]} |" for name in KINDS]
        Path(table).write_text("\n".join(["| kind | a picture | an error |", "|---|---|---|", *rows]) + "\n")
