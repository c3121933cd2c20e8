"""Make upright RGB pictures of the frames that PyAV decodes, the same as those of ffmpeg's own command."""

import struct
from typing import Any, NamedTuple

import numpy as np


class Turn(NamedTuple):
    """How a frame becomes upright: rows and columns change places, then the rows are reversed, then the columns."""

    across: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def mirrors(self) -> bool:
        """Whether it is more than a turn by a multiple of 90 degrees."""
        return (self.across != self.flip_rows) != self.flip_columns


class PictureMaker:
    """Makes upright pictures of the frames of one video.

    Colours are converted as `ffmpeg -pix_fmt rgb24` does, chroma scaled bicubically; alpha is dropped.
    """

    def __init__(self, turn: Turn) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self.turn = turn
        self._reformatter, self._scaling = VideoReformatter(), Interpolation.BICUBIC

    def make(self, frame: Any) -> np.ndarray:
        """Return a frame as uint8 `H W 3`; raises ValueError where its colours cannot be converted."""
        try:
            plain = self._reformatter.reformat(frame, format="rgb24", interpolation=self._scaling, threads=1)
        except OSError:
            kind = f"{frame.format.name}, matrix {frame.colorspace}"
            raise ValueError(f"there is no conversion of its colours to RGB ({kind})") from None
        picture, turn = plain.to_ndarray(), self.turn
        upright = picture.transpose(1, 0, 2) if turn.across else picture
        return upright[:: -1 if turn.flip_rows else 1, :: -1 if turn.flip_columns else 1]


def read_turn(frame: Any) -> Turn:
    """Read how a frame becomes upright from its display matrix.

    PyAV then keeps the frame until Python collects garbage, and damaged frames may show what is in memory that is used
    again: take a frame of which none that is wanted depends.

    Raises:
        ValueError: it is to be shown at another angle than a multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Turn()
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if a and d and not b and not c:
        return Turn(False, d < 0, a < 0)
    if b and c and not a and not d:
        return Turn(True, b < 0, c < 0)
    raise ValueError(f"it is to be shown turned by {frame.rotation} degrees: wanted a multiple of 90")
