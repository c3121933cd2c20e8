"""Decode the images that stdin names, each on its own and through the loader, and print a line of JSON for each.

Run as a script, so that a crash, a hang or too much memory is that of another process.
"""

import hashlib
import json
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

SECONDS, BYTES = 20, 6 * 2**30


def decode(path: str) -> dict[str, Any]:
    """Say what an image is, or why it is none, and what that took."""
    from vision_peft.data.decoding.images import ImageDecodeError, decode_image

    started = time.monotonic()
    try:
        image = decode_image(path)
    except ImageDecodeError as error:
        found: dict[str, Any] = {"error": str(error)}
    else:
        found = {"pixels": hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()}
        found["size"] = image.size
    status = Path("/proc/self/status").read_text()  # ru_maxrss also counts the process that started this one
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"path": path, **found, "seconds": time.monotonic() - started, "peak_mb": peak}


def load_all(paths: list[str]) -> dict[str, Any]:
    """Send all of them through the loader of an evaluation: which came, which are called unreadable."""
    from vision_peft.data.decoding.image_dataset import ImageFiles
    from vision_peft.data.loading.loader import eval_loader
    from vision_peft.data.transforms.images import eval_transform

    dataset = ImageFiles(paths, [0] * len(paths), ["photo"])
    dataset.transform = eval_transform(size=16, mean=(0, 0, 0), std=(1, 1, 1), resize="squash")
    loader = eval_loader(dataset, 16, 0, bad="wrong")
    seen = [index for _, _, indices in loader for index in indices.tolist()]
    return {"seen": seen, "unreadable": sorted(loader.unreadable)}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is in
    warnings.simplefilter("ignore")
    paths = [line.rstrip("\n") for line in sys.stdin]
    for path in paths:
        for _ in range(2):
            signal.alarm(SECONDS)
            print(json.dumps(decode(path)), flush=True)
    signal.alarm(SECONDS * 30)
    print(json.dumps(load_all(paths)), flush=True)


if __name__ == "__main__":
    main()
