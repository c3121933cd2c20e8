"""Lists without an object for each item behave as lists of Python do."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.flat_arrays import IntArray, TextArray, TextBuilder

TEXTS = ["a/1.jpg", "", "a/caf\u00e9.jpg", "b/\udce9.jpg", "a/1.jpg", "\U0001f600"] * 1000


def test_texts_come_back_as_they_were() -> None:
    texts = TextArray.of(TEXTS)
    assert list(texts) == TEXTS
    assert (texts[3], texts[-1], len(texts)) == ("b/\udce9.jpg", "\U0001f600", 6000)
    assert texts == TEXTS
    assert texts != TEXTS[:-1]
    assert texts[2:5] == TEXTS[2:5]
    assert texts.index("") == 1
    assert pickle.loads(pickle.dumps(texts)) == TEXTS
    assert copy.copy(texts) == TEXTS
    assert TextArray.of(texts) is texts
    assert repr(TextArray.of(["x"])) == "TextArray(['x'], 1 items)"
    with pytest.raises(IndexError):
        texts[6000]


def test_what_is_taken_shares_the_buffer() -> None:
    texts = TextArray.of(TEXTS)
    part = texts.take([5, 0, 5])
    assert part == ["\U0001f600", "a/1.jpg", "\U0001f600"]
    assert part.data is texts.data
    assert texts.take(range(2, 4)) == TEXTS[2:4]
    assert texts.take(np.array([], dtype=int)) == []
    assert (part + texts.take([1])).data is texts.data
    assert part + texts.take([1]) == [*part, ""]
    assert part + TextArray.of(["x"]) == [*part, "x"]


def test_texts_below_folders_start_alike() -> None:
    builder = TextBuilder()
    builder.add_below("cat/", ["1.jpg", "2.jpg"])
    builder.add_below("dog/", [])
    builder.add_below("caf\u00e9/", ["3.jpg", "\u00e9.jpg"])
    texts = builder.build(prefix="/data/")
    assert texts == ["/data/cat/1.jpg", "/data/cat/2.jpg", "/data/caf\u00e9/3.jpg", "/data/caf\u00e9/\u00e9.jpg"]
    assert texts.without_prefix()[0] == "cat/1.jpg"
    assert texts + TextArray.of(["x"]) == [*texts, "x"]
    assert TextBuilder().build() == []


def test_whole_numbers_are_those_of_python() -> None:
    numbers = IntArray([3, 0, 3, 1])
    assert (list(numbers), numbers[1], type(numbers[1]), numbers[-1]) == ([3, 0, 3, 1], 0, int, 1)
    assert numbers == [3, 0, 3, 1]
    assert numbers == IntArray(np.array([3, 0, 3, 1]))
    assert numbers != [3, 0, 3]
    assert numbers[1:3] == [0, 3]
    assert numbers.take([0, 0]) == [3, 3]
    assert np.asarray(numbers).tolist() == [3, 0, 3, 1]
    assert pickle.loads(pickle.dumps(numbers)) == numbers
    assert IntArray() == []


def test_a_dataset_of_many_files_is_a_few_arrays() -> None:
    """Python objects for each item would be some 110 bytes for a path and 32 for a label; gc sees no more of them."""
    number = 20_000
    paths = (f"/data/photos/n{label:08d}/n{label:08d}_{label}.JPEG" for label in range(number))
    tracemalloc.start()
    try:
        files = ImageFiles(paths, (label % 7 for label in range(number)), "abcdefg")
        part = files.subset(range(0, number, 2))
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (len(files), len(part), part.path(1)) == (number, number // 2, files.path(2))
    assert size / number < 43 + 2 * 16 + 8  # text, and of 1.5 items where it is and a label
