"""What verbs say at the end of inputs that could not be read."""

import sys
from collections.abc import Mapping

from vision_peft.printable import LONGEST_LINE, printable, show

LISTED = 20


def list_unread(causes: Mapping[str, str]) -> None:
    """List inputs with why each could not be read on stderr, the first of many; nothing where there are none."""
    if not causes:
        return
    lines = [f"{len(causes):,} input{'s' * (len(causes) > 1)} could not be read:"]
    lines += [f"  {printable(path, LONGEST_LINE)}: {cause}" for path, cause in [*causes.items()][:LISTED]]
    lines += [f"  and {len(causes) - LISTED:,} more"] if len(causes) > LISTED else []
    show("\n".join(lines), sys.stderr)
