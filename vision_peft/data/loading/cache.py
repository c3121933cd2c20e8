"""Decide whether decoded images or videos are kept in memory, and have them kept.

Worker processes that are forked read what the main process keeps; processes that are started anew decode for
themselves.
"""

import math
import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading.cached_images import Cached, count_cores
from vision_peft.data.loading.memory import measure_free_memory

LARGEST_AUTO_MB = 4096
HEADERS_READ = 2000  # whole images of more files than this are estimated from SAMPLED headers
SAMPLED = 64
_MB = 10**6


def keep_decoded(
    splits: Mapping[str, ImageDataset],
    read_often: Iterable[str],
    cache_mb: int | str,
    workers: int | str,
    processes: int = 1,
) -> tuple[dict[str, ImageDataset], str]:
    """Keep the splits `read_often` decoded if they fit, and say in one line for the user what was decided.

    Images are kept by `Cached`, which takes the place of their split; a dataset that can keeps its own. All or none are
    kept. `cache_mb` (10^6 bytes) is the most they may take together; "auto" is a quarter of the free memory, at most
    `LARGEST_AUTO_MB`; 0 keeps none. The `processes` that train on one machine share it, and each keeps images of its
    own. The transforms must be set. The line is empty where there is nothing to decode.
    """
    names = [name for name in dict.fromkeys(read_often) if not splits[name].in_memory]
    if not names:
        return dict(splits), ""
    store, what = Store(limit_bytes(cache_mb) // processes), f"{splits[names[0]].what}s"
    if not store.limit:
        return dict(splits), f"{what} are decoded in every epoch: cache_mb={cache_mb}"
    sizes = [size for name in names if (size := splits[name].decoded_size()) is not None]
    cached = {} if sizes else {name: Cached(splits[name], store) for name in names}
    in_main_process = cached and all(each.in_memory for each in cached.values())
    if not in_main_process and not _can_share_memory(workers):
        return dict(splits), f"{what} are decoded in every epoch: here worker processes cannot share the decoded ones"
    if sizes:
        count, size, exact = sum(splits[name].count_sources() for name in names), sum(sizes), False
    else:
        count, size, exact = _estimate(cached.values())
    about = f"{'' if exact else 'about '}{math.ceil(size / _MB):,} MB"
    sources = f"{count:,} of {' and '.join(names)}"
    if size > store.limit:
        would = f"{sources} would take {about} decoded, more than the {store.limit // _MB:,} MB of cache_mb={cache_mb}"
        return dict(splits), f"{what} are decoded in every epoch: {would}"
    if sizes:
        for name in names:
            splits[name].keep_in(store)
    return {**splits, **cached}, f"{what} are kept decoded: {sources}, {about}"


def limit_bytes(cache_mb: int | str) -> int:
    """Return the bytes that `cache_mb` comes to on this machine."""
    return min(measure_free_memory() // 4, LARGEST_AUTO_MB * _MB) if cache_mb == "auto" else int(cache_mb) * _MB


def _estimate(datasets: Iterable[Cached]) -> tuple[int, int, bool]:
    """Return images, their bytes, whether these were counted; of many whole images some headers stand for all."""
    size, exact, seen = 0, True, set()
    for dataset in datasets:
        new = [index for index in range(len(dataset)) if dataset.key(index) not in seen]
        seen |= {dataset.key(index) for index in new}
        if dataset.geometry is not None:
            size += dataset.bytes_per_pixel * math.prod(dataset.geometry.size) * len(new)
            continue
        asked = new if len(new) <= HEADERS_READ else new[:: len(new) // SAMPLED]
        exact &= len(asked) == len(new)
        with ThreadPoolExecutor(count_cores()) as pool:
            size += (
                dataset.bytes_per_pixel * sum(pool.map(dataset.count_pixels, asked)) * len(new) // max(len(asked), 1)
            )
    return len(seen), size, exact


def _can_share_memory(workers: int | str) -> bool:
    started = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return started == "fork" or workers in (0, "0")
