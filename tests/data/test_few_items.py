"""A part of train: which items it keeps, and that names alone decide."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from vision_peft.data.config import DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding.arrays import ArrayImages
from vision_peft.data.few_items import take_few
from vision_peft.data.targets import Targets
from vision_peft.training import compose_config
from vision_peft.training.build import load_splits


def items(labels: list[int], targets: Targets | None = None) -> ImageDataset:
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    dataset = ArrayImages(images, labels, ["a", "b", "c"], range(len(labels)), "made")
    dataset.targets = targets
    return dataset


def config(**fields: Any) -> DataConfig:
    return Digits(**fields)


def list_names(dataset: ImageDataset) -> list[str]:
    return [dataset.path(item) for item in range(len(dataset))]


def test_shots_are_of_each_class_in_the_order_of_the_data() -> None:
    whole = items([0, 1, 2] * 20)
    few = take_few(whole, config(shots=4))
    assert Counter(few.labels) == {0: 4, 1: 4, 2: 4}
    order = list_names(whole)
    assert [order.index(name) for name in list_names(few)] == sorted(order.index(name) for name in list_names(few))


def test_a_share_is_of_each_class_and_keeps_one_of_the_rarest() -> None:
    few = take_few(items([0] * 40 + [1] * 10 + [2]), config(train_share=0.2))
    assert Counter(few.labels) == {0: 8, 1: 2, 2: 1}


@pytest.mark.parametrize(("field", "small", "large"), [("shots", 3, 8), ("train_share", 0.1, 0.5)])
def test_the_smaller_part_lies_in_the_larger(field: str, small: float, large: float) -> None:
    whole = items([0, 1, 2] * 30)
    parts = [set(list_names(take_few(whole, config(**{field: size})))) for size in (small, large)]
    assert parts[0] < parts[1]


def test_an_item_that_is_added_moves_at_most_one_of_its_class() -> None:
    labels = [0, 1, 2] * 30
    before, after = (set(list_names(take_few(items(each), config(shots=5)))) for each in (labels, [*labels, 1]))
    assert len(before - after) <= 1
    assert before - after <= {f"made[{item}]" for item in range(90) if labels[item] == 1}


def test_a_class_with_fewer_keeps_all_and_a_warning_says_so() -> None:
    with pytest.warns(UserWarning, match=r"data\.shots=5: 1 of 3 classes have fewer training items, 2 at least"):
        few = take_few(items([0] * 9 + [1] * 2 + [2] * 9), config(shots=5))
    assert Counter(few.labels) == {0: 5, 1: 2, 2: 5}


def test_a_task_without_classes_takes_a_share_only() -> None:
    numbers = items(list(range(50)), Targets("regression", np.arange(50.0)[:, None]))
    assert len(take_few(numbers, config(train_share=0.3))) == 15
    with pytest.raises(ValueError, match=r"a task of regression has no classes: give data\.train_share"):
        take_few(numbers, config(shots=3))


@pytest.mark.parametrize(
    ("protocol", "trained"), [("val_select", ["train"]), ("val_select_retrain", ["train", "trainval"])]
)
def test_only_what_is_trained_on_is_cut(protocol: str, trained: list[str]) -> None:
    typed = ["data=digits", f"protocol={protocol}"]
    whole, few = (load_splits(compose_config([*typed, *more])) for more in ([], ["data.shots=7"]))
    assert {name: len(few[name]) for name in few} == {
        name: 70 if name in trained else len(whole[name]) for name in whole
    }


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["data.shots=0"], "data.shots must be at least 1"),
        (["data.train_share=0"], r"data\.train_share must be above 0, at most 1; got 0"),
        (["data.train_share=1.5"], "at most 1; got 1.5"),
        (["data.shots=4", "data.train_share=0.5"], "both select a part of train: give only one"),
    ],
)
def test_bad_parts_are_refused(words: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compose_config(["data=digits", *words])
