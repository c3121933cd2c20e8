"""The protocols of a training: what it trains on, what chooses the epoch, when test is read.

`val_select` trains on train and keeps the epoch that is best on val; `val_select_retrain` then trains a new model on
train + val for that many epochs, with a schedule of that length and the same proportions (so a warm-up of a tenth of
the epochs stays a tenth); `last_epoch` trains on train + val and keeps the last
epoch; `best_test` keeps the epoch that is best on test, as the older papers did, and is marked in every table. All but
`best_test` read test once, at the end. Best: the highest top-1, at a tie the lower loss, then the earlier.
"""

from typing import NamedTuple


class Phase(NamedTuple):
    """A training from scratch, of which a protocol has one or two."""

    name: str
    trained: str  # split that is trained on
    watched: str | None = None  # split that is evaluated after every epoch


PHASES = {
    "val_select": [Phase("select", "train", "val")],
    "val_select_retrain": [Phase("select", "train", "val"), Phase("retrain", "trainval")],
    "last_epoch": [Phase("train", "trainval")],
    "best_test": [Phase("train", "trainval", "test")],
}
PROTOCOLS = tuple(PHASES)


CHOICES = {
    "val_select": "val chooses the epoch, test is read once",
    "val_select_retrain": "val chooses how long, a new model trains as long on train + val, test is read once",
    "last_epoch": "trains on train + val, the last epoch counts, test is read once",
    "best_test": "test chooses the epoch, as older papers did: its figure is too good",
}


def list_splits(protocol: str, read_test: bool = True) -> list[str]:
    """List the splits that a protocol reads, in the order in which it needs them.

    Args:
        read_test: whether test is read at the end; a search trial does not even open it.
    """
    names = [split for phase in PHASES[protocol] for split in (phase.trained, phase.watched) if split]
    return list(dict.fromkeys([*names, *(["test"] if read_test else [])]))
