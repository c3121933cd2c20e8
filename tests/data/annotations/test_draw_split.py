"""Splits drawn from a seed: the reference is written out, so a published number keeps its images for ever."""

from collections import Counter

import numpy as np
import pytest

from vision_peft.data.annotations.draw_split import choose, draw

LABELS = [0, 1, 0, 2, 0, 1, 0, 1, 0, 1, 0, 3, 3] * 4 + [4]


def test_every_class_gives_its_fraction_and_keeps_one() -> None:
    rest, val, test = draw(LABELS, (0.25, 0.5), seed=3)
    assert Counter(LABELS[i] for i in val) == {0: 6, 1: 4, 2: 1, 3: 2}
    assert Counter(LABELS[i] for i in test) == {0: 12, 1: 8, 2: 2, 3: 4}
    assert Counter(LABELS[i] for i in rest) == {0: 6, 1: 4, 2: 1, 3: 2, 4: 1}
    assert sorted(rest + val + test) == list(range(len(LABELS)))
    assert [rest, val, test] == [sorted(rest), sorted(val), sorted(test)]


def test_the_draw_is_the_one_of_numpys_frozen_generator() -> None:
    state = np.random.RandomState(7)
    places = np.flatnonzero(np.array([1, 0, 1, 1, 0, 1]) == 0), np.flatnonzero(np.array([1, 0, 1, 1, 0, 1]) == 1)
    expected = sorted([int(state.permutation(places[0])[0]), *state.permutation(places[1])[:2].tolist()])
    assert draw([1, 0, 1, 1, 0, 1], (0.5,), seed=7)[1] == expected


def test_whole_halves_keep_the_order_of_the_file_and_train_and_val_divide_train() -> None:
    assert choose("trainval", LABELS, 0.25, 0) == choose("test", LABELS, 0.25, 0) == list(range(len(LABELS)))
    train, val = choose("train", LABELS, 0.25, 0), choose("val", LABELS, 0.25, 0)
    assert sorted(train + val) == list(range(len(LABELS)))
    assert choose("val", LABELS, 0.25, 1) != val


def test_a_split_that_would_be_empty_is_an_error() -> None:
    with pytest.raises(ValueError, match="split val is empty"):
        choose("val", [0, 1, 2], 0.1, 0)
