"""The range of timm that the tests run with; setup.cfg states the same one."""

import functools
import re

from vision_peft.printable import warn

OLDEST, TOO_NEW = "1.0.31", "1.1"  # from the first, up to and without the second


@functools.cache
def warn_if_untested(version: str) -> None:
    """Warn, once a process and version, where ``version`` of timm is outside the tested range."""
    if not _numbers(OLDEST) <= _numbers(version) < _numbers(TOO_NEW):
        warn(
            f"timm {version} is not tested with vision_peft, which reaches into timm's blocks: outputs may be wrong; "
            f'install the tested range by pip install "timm>={OLDEST},<{TOO_NEW}"',
            stacklevel=4,
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return major, minor and patch number; (1, 1, 0) for "1.1.dev0"."""
    release = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (release[0] if release else "").split(".") if part]
    return tuple([*numbers, 0, 0, 0][:3])
