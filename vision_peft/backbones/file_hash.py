"""What identifies weights that lie in files: their content, whatever the files are called and wherever they are."""

import functools
import hashlib
from pathlib import Path

from vision_peft.backbones.hub import WEIGHTS
from vision_peft.backbones.names import local_folder
from vision_peft.backbones.outside import CONFIG
from vision_peft.home_paths import expand_home
from vision_peft.safe_files import open_regular


def hash_weights(name: str, checkpoint: str | Path | None = None) -> str | None:
    """Return the sha256 (hex) of the files that a backbone's weights come from; None where the name says it all.

    Args:
        name: of the backbone; of ``local-dir:FOLDER`` the config and the weights in the folder count.
        checkpoint: a file of weights that is loaded instead.
    """
    folder = local_folder(name)
    if checkpoint is not None:
        files = [expand_home(checkpoint)]
    elif folder is not None:
        files = [folder / file for file in (CONFIG, *WEIGHTS) if (folder / file).is_file()]
    else:
        return None
    digests = [_hash_file(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@functools.cache
def _hash_file(path: Path, size: int, modified_ns: int) -> str:
    """Return the sha256 of a file, read once as long as its size and its time stay what they are."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # BinaryIO lacks readinto
