"""Batches of P classes with K images each: what they hold, for every shape of data, and the same after a resume."""

from collections import Counter

import numpy as np
import pytest
import torch

from vision_peft.data.decoding.arrays import ArrayImages
from vision_peft.data.loading.class_batches import group_classes
from vision_peft.data.loading.loader import TrainLoader

COUNTS = {0: 40, 2: 3, 3: 9, 5: 1, 6: 17, 8: 12}


def draw_labels(counts: dict[int, int]) -> list[int]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return np.random.default_rng(0).permutation(labels).tolist()


def draw(labels: list[int], per_class: int, part: int, seed: int = 0) -> list[list[int]]:
    return group_classes(labels, per_class, part)(torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("per_class", "classes"), [(4, 3), (2, 6), (5, 1), (3, 4)])
def test_a_part_of_a_batch_has_so_many_of_each_of_its_classes(seed: int, per_class: int, classes: int) -> None:
    labels = draw_labels(COUNTS)
    places = draw(labels, per_class, per_class * classes, seed)
    assert len(places) == len(labels) // per_class * per_class
    dealt = Counter[int]()
    for start in range(0, len(places), per_class * classes):
        part = places[start : start + per_class * classes]
        groups = [part[place : place + per_class] for place in range(0, len(part), per_class)]
        kinds = [{labels[index] for index, _ in group} for group in groups]
        assert all(len(kind) == 1 for kind in kinds)
        names = [name for kind in kinds for name in kind]
        assert len({*names}) == len(names), "no class twice"
        dealt.update(names)
        for group, name in zip(groups, names, strict=True):
            assert len({index for index, _ in group}) == min(per_class, COUNTS[name]), (
                "no image twice where there are enough"
            )
    assert max(dealt[name] for name in COUNTS) - min(dealt[name] for name in COUNTS) <= 1


def test_a_class_hands_out_all_of_its_images_before_one_comes_again() -> None:
    labels = draw_labels(COUNTS)
    seen = Counter[int]()
    for index, times in draw(labels, 4, 12):
        assert times == seen[index]
        seen[index] += 1
    for name in COUNTS:
        turns = [seen[index] for index, label in enumerate(labels) if label == name]
        assert max(turns) - min(turns) <= 1


def test_more_classes_in_a_part_than_there_are_come_again() -> None:
    places = draw([0] * 8 + [1] * 8, 2, 8)
    for start in range(0, 16, 4):
        assert sorted(index >= 8 for index, _ in places[start : start + 4]) == [False, False, True, True]


def make_images(labels: list[int]) -> ArrayImages:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    found = ArrayImages(pixels, labels, [str(name) for name in range(9)], range(len(labels)), "images")
    found.transform = lambda image: torch.tensor(np.array(image)).permute(2, 0, 1).float()
    return found


def test_processes_share_a_batch_and_a_resume_goes_on_with_it() -> None:
    labels = draw_labels(COUNTS)
    images = make_images(labels)
    options = {"seed": 3, "workers": 0, "images_per_class": 4}
    whole = [TrainLoader(images, 24, rank=rank, world_size=2, **options) for rank in (0, 1)]  # pyright: ignore[reportArgumentType]
    for loader in whole:
        batches = [(batch[1].tolist(), batch[2].tolist()) for batch in loader.epoch(1)]
        assert len(batches) == loader.batches_per_epoch == 3
        assert [len(own) for own, _ in batches] == [12] * 3
        assert all(sorted(Counter(own).values()) == [4, 4, 4] for own, _ in batches)
        rest = [(batch[1].tolist(), batch[2].tolist()) for batch in loader.epoch(1, start_batch=1)]
        assert rest == batches[1:]
        assert [batch[2].tolist() for batch in loader.epoch(2)] != [indices for _, indices in batches]


def test_a_small_data_set_gives_one_batch_of_whole_groups() -> None:
    loader = TrainLoader(make_images([0] * 7 + [1] * 7), 64, seed=0, workers=0, images_per_class=4)
    (batch,) = loader.epoch(0)
    assert Counter(batch[1].tolist()) in (Counter({0: 8, 1: 4}), Counter({0: 4, 1: 8}))
    for rank in (0, 1):  # of 14 images each gets 7, of which one whole group fits
        shared = TrainLoader(
            make_images([0] * 7 + [1] * 7), 64, seed=0, workers=0, images_per_class=4, rank=rank, world_size=2
        )
        assert [[*Counter(own[1].tolist()).values()] for own in shared.epoch(0)] == [[4]]


def test_mistakes_are_answered() -> None:
    images = make_images([0] * 7 + [1] * 7)
    with pytest.raises(ValueError, match="at once, 6 images, must be a multiple of images_per_class=4"):
        TrainLoader(images, 6, seed=0, workers=0, images_per_class=4)
    with pytest.raises(ValueError, match="at once, 6 images, must be a multiple"):
        TrainLoader(images, 12, seed=0, workers=0, images_per_class=4, world_size=2)
    with pytest.raises(ValueError, match="draws every class equally often already: leave balanced out"):
        TrainLoader(images, 8, seed=0, workers=0, images_per_class=4, balanced=True)
    with pytest.raises(ValueError, match="already: leave repeated_augmentation out"):
        TrainLoader(images, 8, seed=0, workers=0, images_per_class=2, repeated_augmentation=2)
    with pytest.raises(ValueError, match="3 training samples for each process are fewer than images_per_class=4"):
        TrainLoader(make_images([0, 1, 1]), 8, seed=0, workers=0, images_per_class=4)
