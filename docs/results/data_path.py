"""Measure what each step from a file to the batch costs: docs/results/data_path.md.

    python docs/results/data_path.py        # half a minute

CPU time of one thread, all steps in turn, medians of the rounds, on photographs that come with scikit-learn. Libraries
that are not there are left out.
"""

import importlib.util
import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import io as torchvision_io
from torchvision.transforms import v2

from vision_peft.benchmarks.costs import median
from vision_peft.benchmarks.measure_costs import describe_processor
from vision_peft.benchmarks.times import Run, measure_times
from vision_peft.data.decoding.images import decode_image
from vision_peft.data.decoding.video import decode_clip
from vision_peft.data.transforms.images import Geometry
from vision_peft.data.transforms.pixel_table import NormalisePixels

PAGE = Path(__file__).with_suffix(".md")
ROUNDS = 15
SIZE, SIDE = (500, 375), 224  # of a photograph (width, height), and of the input
FRAMES, CLIP = 80, 16  # of the video (320 x 240 pixels, 25 a second), and of a clip
VIDEO_SIZE = (320, 240)
DECODERS = {"auto": "av", "decord": "decord", "torchcodec": "torchcodec", "pyav": "av"}  # backend: package
HALF = (0.5,) * 3


def create_photos() -> list[Image.Image]:
    """Cut eight photographs of the usual size out of those of scikit-learn."""
    found = []
    for pixels in load_sample_images().images:
        whole = Image.fromarray(pixels)
        found += [whole.crop((40 * number, 12 * number, 40 * number + 500, 12 * number + 375)) for number in range(4)]
    return [photo.resize(SIZE) for photo in found]


def write_video(path: Path, photos: list[Image.Image]) -> None:
    """Write a slow pan over the photographs, in H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *VIDEO_SIZE, "yuv420p"
        for number in range(FRAMES):
            photo, moved = photos[number * len(photos) // FRAMES], number % 120
            box = (moved, moved // 2, moved + VIDEO_SIZE[0], moved // 2 + VIDEO_SIZE[1])
            container.mux(stream.encode(av.VideoFrame.from_image(photo.crop(box))))
        container.mux(stream.encode())


def list_steps(folder: Path) -> dict[str, Callable[[], object]]:
    """Return each step, for all photographs, or for one clip."""
    photos, files = create_photos(), []
    for number, photo in enumerate(photos):
        files.append(folder / f"{number}.jpg")
        photo.save(files[-1], quality=90)
    stored = [file.read_bytes() for file in files]
    tensors = [torchvision_io.decode_jpeg(torch.frombuffer(bytearray(raw), dtype=torch.uint8)) for raw in stored]
    resize, normalise = Geometry((SIDE, SIDE), "bicubic"), NormalisePixels(HALF, HALF)
    of_tensors = v2.Resize([SIDE, SIDE], v2.InterpolationMode.BICUBIC, antialias=True)
    small = [resize(photo) for photo in photos]
    plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALF, HALF)])
    flip = v2.Compose([v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(1.0)])
    steps: dict[str, Callable[[], object]] = {
        "decode: PIL, with our checks (used)": lambda: [decode_image(file) for file in files],
        "decode: PIL": lambda: [Image.open(io.BytesIO(raw)).convert("RGB") for raw in stored],
        "decode: torchvision.io": lambda: [
            torchvision_io.decode_jpeg(torch.frombuffer(bytearray(raw), dtype=torch.uint8)) for raw in stored
        ],
        "resize: PIL, bicubic (used)": lambda: [resize(photo) for photo in photos],
        "resize: torchvision on uint8 tensors": lambda: [of_tensors(tensor) for tensor in tensors],
        "normalise: table (used)": lambda: [normalise(photo) for photo in small],
        "normalise: torchvision": lambda: [plain(photo) for photo in small],
        "random crop and flip: PIL (used)": lambda: [flip(photo) for photo in small],
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        steps["decode: simplejpeg"] = lambda: [simplejpeg.decode_jpeg(raw) for raw in stored]
    video = folder / "video.mp4"
    write_video(video, photos)
    spread = np.linspace(0, FRAMES - 1, CLIP).astype(int).tolist()
    wanted = {"spread over the video": spread, "in a row at its end": list(range(FRAMES - CLIP, FRAMES))}
    there = [backend for backend, package in DECODERS.items() if importlib.util.find_spec(package)]
    for backend, (name, places) in itertools.product(there, wanted.items()):
        steps[f"clip, {name}: {backend}"] = lambda places=places, backend=backend: decode_clip(video, places, backend)
    return steps


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = list_steps(Path(folder))
        for step in steps.values():
            step()
        runs = {name: Run(step) for name, step in steps.items()}
        rounds = list(measure_times(runs, range(ROUNDS), torch.device("cpu")))
        images = len(list(Path(folder).glob("*.jpg")))
    lines = []
    for name in sorted(steps, key=lambda name: name.split(":")[0]):
        seconds = median([taken[name] or 0.0 for taken in rounds]) or 0.0
        lines.append(f"| {name} | {1000 * seconds / (1 if name.startswith('clip') else images):.2f} |")
    about = f"Made by `docs/results/data_path.py` on {describe_processor()}: CPU time of one thread, {ROUNDS} rounds."
    table = ["| step | ms an image or clip |", "|---|--:|", *lines]
    text = PAGE.read_text("utf-8") if PAGE.exists() else "# From a file to the batch\n\n<!-- measured -->\n"
    ahead, _, rest = text.partition("<!-- measured -->")
    behind = rest.partition("<!-- end -->")[2]
    PAGE.write_text("\n".join([f"{ahead}<!-- measured -->", about, "", *table, f"<!-- end -->{behind}"]), "utf-8")


if __name__ == "__main__":
    main()
