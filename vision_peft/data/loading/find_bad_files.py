"""Look at all files of a run before it starts, so that what is wrong with them is said at once and not hours later."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError, MisfitError
from vision_peft.data.distinct_items import list_distinct
from vision_peft.data.loading.cached_images import count_cores

Progress = Callable[[int, int], None]
_AT_ONCE = 128  # files that a thread takes at a time
_THREADS_PER_CORE = 4  # a thread mostly waits for the file system


def find_bad_files(
    splits: Mapping[str, ImageDataset],
    decoded: Iterable[str],
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> dict[str, list[ImageDecodeError]]:
    """Find the files of each of `splits` that are no images or videos; one that several splits share, once.

    Headers are read; files of the splits `decoded` are decoded, of videos the first and the last frame. This process
    looks at every `world_size`-th file from number `rank` on. `progress` is called with the files done and all of them.
    """
    deep = {split for split in decoded if split in splits}
    names = sorted(splits, key=lambda split: split not in deep)  # what two splits share is decoded where one is
    numbers, items = list_distinct(list_files(splits[name]) for name in names)
    numbers, items = numbers[rank::world_size], items[rank::world_size]

    def look(start: int) -> list[tuple[str, ImageDecodeError]]:
        found = []
        part = slice(start, start + _AT_ONCE)
        for number, item in zip(numbers[part].tolist(), items[part].tolist(), strict=True):
            name = names[number]
            if error := _look(splits[name], item, name in deep):
                found.append((name, error))
        return found

    bad: dict[str, list[ImageDecodeError]] = {name: [] for name in splits}
    pool = ThreadPoolExecutor(_THREADS_PER_CORE * count_cores())
    try:
        starts = range(0, len(items), _AT_ONCE)
        for start, found in zip(starts, pool.map(look, starts), strict=True):
            for name, error in found:
                bad[name].append(error)
            if progress is not None:
                progress(min(start + _AT_ONCE, len(items)), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return bad


def list_files(dataset: ImageDataset) -> Iterator[tuple[int, str]]:
    """List one item of every image or video that is stored, with the name of its file or of its part of one."""
    for item in map(dataset.first_item, range(dataset.count_sources())):
        if (file := dataset.stored_as(item)) is not None:
            yield item, file


def _look(dataset: ImageDataset, item: int, decode: bool) -> ImageDecodeError | None:
    try:
        dataset.check(item, decode)
    except ImageDecodeError as error:
        kind = MisfitError if isinstance(error, MisfitError) else ImageDecodeError
        return kind(error.path, error.cause)  # a new one: the old keeps the frames that raised it
    except OSError as error:
        return ImageDecodeError(dataset.path(item), f"{type(error).__name__}: {error}")
    return None
