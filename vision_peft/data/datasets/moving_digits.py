"""Moving digits: scikit-learn's handwritten digits moving in eight directions, which are the classes.

The clips are real files, encoded by PyAV on first use and kept in a cache, and are decoded like any other video. A
digit starts anywhere, and where it leaves at one side it comes back at the opposite one: its place in a single frame is
uniform whatever the class, so that only the order of the frames shows the direction. The digits of train, val and test
are those of `data=digits`: no image of a digit is in two of them.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from filelock import FileLock
from PIL import Image

from vision_peft.data.annotations.list_files import read_list
from vision_peft.data.annotations.video_paths import VideoCheck
from vision_peft.data.config import DataConfig, check_split
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.problems import raise_problems
from vision_peft.home_paths import expand_home
from vision_peft.safe_files import write_file

VERSION = 1  # of the recipe below: another one makes other files
DIRECTIONS = {
    "right": (1, 0),
    "down_right": (1, 1),
    "down": (0, 1),
    "down_left": (-1, 1),
    "left": (-1, 0),
    "up_left": (-1, -1),
    "up": (0, -1),
    "up_right": (1, -1),
}
RATE = 12  # frames a second, which is Something-Something's
DIGIT = 20 / 56  # of the side of a frame
STEP = 4 / 56  # of the side of a frame, from one frame to the next, along each axis that moves


@dataclass(frozen=True, kw_only=True)
class MovingDigits(DataConfig):
    """Clips of `frames` frames of `size` pixels, 2,000 train / 200 val / 400 test; `seed` draws digits and places."""

    name: ClassVar[str] = "moving_digits"
    train_clips: int = 2000
    val_clips: int = 200
    test_clips: int = 400
    frames: int = 8
    size: int = 56
    seed: int = 0
    cache: str | None = None
    decoder: str = "auto"

    def __post_init__(self) -> None:
        problems = [
            f"data.{field} must be at least {least}, got {value!r}"
            for field, least in {"train_clips": 8, "val_clips": 8, "test_clips": 8, "frames": 2, "size": 28}.items()
            if (value := getattr(self, field)) < least
        ]
        if self.size % 2:
            problems.append(f"data.size must be even (a requirement of the codec), got {self.size}")
        if problems:
            raise ValueError("\n".join(problems))

    def load(self, split: str) -> ImageDataset:
        """Load the clips of `split`; the first call writes every split, which takes seconds."""
        check_split(split)
        folder = self._folder()
        if not folder.is_dir():
            self._write(folder)
        problems: list[str] = []
        parts = ("train", "val") if split == "trainval" else (split,)
        lists = [folder / f"{part}.txt" for part in parts]
        check = VideoCheck(folder)
        items = [item for file in lists for item in read_list(file, folder, problems, len(DIRECTIONS), check=check)]
        raise_problems(f"{folder}: delete this folder, and the clips are made again", problems)
        paths, labels = [path for path, _ in items], [label for _, label in items]
        return VideoFiles(paths, labels, list(DIRECTIONS), decoder=self.decoder)

    def base(self) -> Path:
        return self._folder()

    def _folder(self) -> Path:
        """Name the folder of the clips after what they are made of."""
        made_of = (VERSION, self.train_clips, self.val_clips, self.test_clips, self.frames, self.size, self.seed)
        name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
        cache = expand_home(self.cache or os.environ.get("VISION_PEFT_CACHE") or "~/.cache/vision_peft")
        return cache.absolute() / f"moving_digits-v{VERSION}-{name}"

    def _write(self, folder: Path) -> None:
        """Write all clips, whole or not at all; of several processes one does."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                return
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                for number, part in enumerate(("train", "val", "test")):
                    self._write_part(partial, part, np.random.RandomState([self.seed % 2**32, number]))
                partial.chmod(0o755)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _write_part(self, folder: Path, part: str, state: np.random.RandomState) -> None:
        """Write clips `<part>/00000.mp4`, ... and the list `<part>.txt`."""
        digits = Digits(seed=self.seed).load(part)
        (folder / part).mkdir()
        lines = []
        for number in range(getattr(self, f"{part}_clips")):
            label = number % len(DIRECTIONS)
            digit = digits.image(state.randint(len(digits)))
            across, down = state.randint(self.size, size=2)
            clip = moving(digit, list(DIRECTIONS.values())[label], (across, down), self.frames, self.size)
            write_clip(folder / part / f"{number:05d}.mp4", clip)
            lines.append(f"{part}/{number:05d}.mp4 {label}\n")
        write_file(folder / f"{part}.txt", "".join(lines))


def moving(
    digit: Image.Image, direction: tuple[int, int], start: tuple[int, int], frames: int, size: int
) -> np.ndarray:
    """Draw a clip, uint8 `T H W 3`, of a digit that starts at pixel `start` (across, down) and wraps around."""
    side, step = round(DIGIT * size), max(1, round(STEP * size))
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:side, :side] = np.asarray(digit.resize((side, side), Image.Resampling.BILINEAR))
    places = [
        tuple(at + number * step * way for at, way in zip(start, direction, strict=True)) for number in range(frames)
    ]
    return np.stack([np.roll(canvas, (down, across), axis=(0, 1)) for across, down in places])


def write_clip(path: Path, clip: np.ndarray) -> None:
    """Write uint8 `T H W 3` as mp4: H.264 where PyAV has its encoder, else MPEG-4."""
    import av

    # the slower presets of x264 do not give the same file every time
    codec, options = (
        ("libx264", {"crf": "18", "preset": "ultrafast"})
        if "libx264" in av.codecs_available
        else ("mpeg4", {"q:v": "3"})
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same file on every machine
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
