"""Read frames by number with decord, torchcodec or PyAV, each of which gets only files that it reads rightly.

decord cannot open a gif or turn every width of a rotated video, and takes wrong frames in silence where those around a
key frame are stored in another order than shown (HEVC, MPEG-4 with B-frames such as XviD, H.264 with open groups).
torchcodec needs the times of such frames, which AVI does not hold. PyAV reads everything, from the start.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from vision_peft.data.decoding.video_file import FrameOrder, read_frame_order


class TooFewFrames(Exception):
    """Fewer frames come out of a file than it announces."""

    def __init__(self, frames: int, announced: int) -> None:
        super().__init__(f"only {frames} of {announced} frames can be decoded")
        self.frames = frames


class VideoReader(Protocol):
    """An open video of `count` frames; it decodes with one thread."""

    count: int

    def __init__(self, path: str) -> None: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames `indices`, at least one, as uint8 `T H W 3`, turned as the file's rotation says."""
        ...


class DecordReader:
    """decord's: seeks."""

    def __init__(self, path: str) -> None:
        import decord

        if read_frame_order(path) is not FrameOrder.SHOWN:
            raise ValueError("frames are stored in another order than shown: decord would take wrong ones")
        self._reader = decord.VideoReader(path, num_threads=1)
        self.count = len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(list(indices)).asnumpy()


class TorchCodecReader:
    """torchcodec's: seeks."""

    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        if read_frame_order(path) is FrameOrder.UNTIMED:
            raise ValueError("the file does not say when its frames are shown: torchcodec would take wrong ones")
        self._decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        self.count = len(self._decoder)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._decoder.get_frames_at(list(indices)).data.numpy()


class PyAVReader:
    """PyAV's: reads from the start to the last frame wanted."""

    def __init__(self, path: str) -> None:
        self._path = path
        # the header's own count is a guess in many files, and 0 in webm; packets are counted without decoding
        self.count = sum(1 for packet in self._read(decode=False) if packet.size and not packet.is_discard)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted, last, found = set(indices), max(indices), {}
        number = -1
        for number, frame in enumerate(self._read(decode=True)):
            if number in wanted:
                # PyAV gives the angle that turns the stored picture upright, counter-clockwise
                found[number] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            if number == last:
                break
        if number < last:
            raise TooFewFrames(number + 1, self.count)
        return np.stack([found[index] for index in indices])

    def _read(self, decode: bool) -> Iterator[Any]:
        import av

        with av.open(self._path) as container:
            if not container.streams.video:
                raise ValueError("the file holds no video stream")
            stream = container.streams.video[0]
            stream.thread_count = 1
            yield from container.decode(stream) if decode else container.demux(stream)


READERS: dict[str, type[VideoReader]] = {"decord": DecordReader, "torchcodec": TorchCodecReader, "pyav": PyAVReader}
