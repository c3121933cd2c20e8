"""Epochs that have every class equally often: exact, drawn from seed and epoch, the same however they are shared."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from support.counting import Counting, assert_same, flat, indices

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.loading.order import Draw, balance_groups, list_groups, shuffle
from vision_peft.data.targets import Targets

RARE = [0] * 17 + [1] * 2 + [3] * 4  # class 2 has no images


class Labelled(Counting):
    """`Counting` with other labels."""

    def __init__(self, labels: Sequence[int]) -> None:
        super().__init__(len(labels))
        self.classes, self.labels = [str(label) for label in range(max(labels) + 1)], list(labels)


def balance_classes(labels: Sequence[int]) -> Draw:
    return balance_groups(list_groups(Labelled(labels)), len(labels))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(draw_places: Draw, seed: int = 0) -> list[tuple[int, int]]:
    return [(index, times) for index, times in draw_places(generator(seed)).tolist()]


def test_every_class_that_occurs_comes_equally_often() -> None:
    for seed in range(5):
        counts = Counter(RARE[index] for index, _ in draw(balance_classes(RARE), seed))
        assert sum(counts.values()) == len(RARE)
        assert sorted(counts.values()) == [7, 8, 8]
    left_over = {min(counts, key=counts.__getitem__) for counts in (
        Counter(RARE[index] for index, _ in draw(balance_classes(RARE), seed)) for seed in range(20)
    )}  # fmt: skip
    assert left_over == {0, 1, 3}


def test_rare_samples_come_in_turn_and_each_time_with_another_number() -> None:
    places = draw(balance_classes(RARE))
    assert len(set(places)) == len(places)
    times = Counter(index for index, _ in places)
    for label in (0, 1, 3):
        of_class = [times[index] for index in range(len(RARE)) if RARE[index] == label]
        assert max(of_class) - min(of_class) <= 1
    for index, count in times.items():
        assert sorted(again for place, again in places if place == index) == list(range(count))


def test_a_common_class_is_seen_whole_over_several_epochs() -> None:
    seen = {index for seed in range(12) for index, _ in draw(balance_classes(RARE), seed)}
    assert seen == set(range(len(RARE)))


def test_balanced_classes_of_one_size_are_a_permutation_as_without() -> None:
    labels = [0, 1, 2] * 5
    once = [(index, 0) for index in range(15)]
    assert sorted(draw(balance_classes(labels))) == sorted(draw(shuffle(15))) == once


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_that_one_sees(world_size: int) -> None:
    dataset = Labelled(RARE)
    alone = TrainLoader(dataset, 6, seed=3, workers=0, balanced=True)
    shared = [
        TrainLoader(dataset, 6, 3, 0, rank=rank, world_size=world_size, balanced=True) for rank in range(world_size)
    ]
    for epoch in (0, 4):
        parts = zip(*(indices(loader.epoch(epoch)) for loader in shared), strict=True)
        assert [flat(list(part)) for part in parts] == indices(alone.epoch(epoch))


def test_workers_and_where_an_epoch_starts_change_nothing() -> None:
    dataset = Labelled(RARE)
    alone, helped = (TrainLoader(dataset, 4, 7, workers, balanced=True) for workers in (0, 2))
    assert_same(list(alone.epoch(2)), list(helped.epoch(2)))
    assert_same(list(alone.epoch(2))[3:], list(helped.epoch(2, start_batch=3)))
    assert indices(alone.epoch(0)) != indices(alone.epoch(1))


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_sample_that_comes_again_is_augmented_anew(repeats: int) -> None:
    loader = TrainLoader(Labelled(RARE), 2 * repeats, seed=0, workers=0, repeated_augmentation=repeats, balanced=True)
    images = torch.cat([batch[0] for batch in loader.epoch(0)])
    assert len(images) == 22 * repeats
    assert len(images.unique(dim=0)) == len(images)
    assert len(images[:, 0].unique()) < 22


def test_without_it_the_order_is_the_plain_permutation() -> None:
    expected = torch.randperm(23, generator=generator(5)).tolist()
    assert draw(shuffle(23), 5) == [(index, 0) for index in expected]


class OneColour(ImageDataset):
    """An image is its label."""

    def image(self, index: int) -> Image.Image:
        return Image.new("L", (2, 2), self.labels[index])

    def path(self, index: int) -> str:
        return str(index)


def test_the_labels_that_come_are_balanced_over_batches() -> None:
    dataset = OneColour(["a", "b"], [0] * 30 + [1] * 3)
    dataset.transform = lambda image: torch.tensor([float(image.getpixel((0, 0)))])
    loader = TrainLoader(dataset, 33, seed=0, workers=0, balanced=True)
    ((images, labels, _),) = loader.epoch(0)
    assert sorted(labels.bincount().tolist()) == [16, 17]
    assert images[:, 0].tolist() == labels.tolist()


SETS = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=np.uint8)


def test_every_label_of_sets_is_drawn_equally_often_and_so_is_no_label() -> None:
    dataset = Labelled([0] * 2 + [1] * 30 + [2] * 3 + [3] * 5)
    dataset.targets = Targets("multilabel", SETS)
    groups = [{0, 1, *range(2, 32)}, {0, 1}, {35, 36, 37, 38, 39}, {32, 33, 34}]
    assert [{*group.tolist()} for group in list_groups(dataset)] == groups
    for seed in range(3):
        places = draw(balance_groups(list_groups(dataset), 40), seed)
        assert len(set(places)) == len(places) == 40
        times = Counter(index for index, _ in places)
        for index, count in times.items():
            assert sorted(again for place, again in places if place == index) == list(range(count))
        assert sum(times[index] for index in (0, 1)) >= 10
        assert sum(times[index] for index in groups[2]) == sum(times[index] for index in groups[3]) == 10
        assert sum(times[index] for index in groups[0]) == 20  # its own ten, and those drawn for the second label


def test_grades_are_balanced_as_classes_are_and_numbers_are_refused() -> None:
    dataset = Labelled(RARE)
    dataset.targets = Targets("ordinal")
    assert draw(balance_groups(list_groups(dataset), len(RARE))) == draw(balance_classes(RARE))
    dataset.targets = Targets("regression", np.zeros((4, 1)))
    with pytest.raises(ValueError, match="is for classes, grades and sets of labels: regression has none"):
        TrainLoader(dataset, 4, seed=0, workers=0, balanced=True)


def test_the_draw_of_classes_is_that_of_earlier_versions() -> None:
    assert draw(balance_classes([0, 0, 0, 1]), 1) == [(2, 0), (3, 0), (3, 1), (1, 0)]
