"""The names of classification heads. Nothing here imports torch, so that a wrong name is answered at once."""

import re

KINDS = ("linear", "batchnorm_linear", "vpt_linear")  # and mlp-2 to mlp-9


def check_head(kind: str) -> None:
    """Raise ValueError where ``kind`` is not a kind of head (see ``replace_head``)."""
    if kind not in KINDS and not count_mlp_layers(kind):
        raise ValueError(f"head must be one of {', '.join(map(repr, KINDS))} or 'mlp-2' to 'mlp-9'; got {kind!r}")


def count_mlp_layers(kind: str) -> int:
    """Return the k of ``mlp-k``, 0 for any other kind."""
    match = re.fullmatch(r"mlp-([2-9])", kind)
    return int(match[1]) if match else 0
