"""Splits drawn by name: an item's own name and the seed decide, whatever else is there."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest

from vision_peft.data.annotations.split_by_name import SplitByName, place

NAMES = [f"{name}/{number:03d}.jpg" for name in ("cat", "dog", "emu") for number in range(200)]
SHARES = {"test": 0.2, "val": 0.1}


def make(names: Sequence[str], shares: dict[str, float] = SHARES, seed: int = 0) -> SplitByName:
    classes = sorted({name.split("/")[0] for name in names})
    return SplitByName(names, [classes.index(name.split("/")[0]) for name in names], shares, seed, "photos")


def part_of(draw: SplitByName) -> dict[str, str]:
    return {str(draw.names[item]): part for part, items in draw.parts.items() for item in items}


def test_the_place_of_a_name_is_this_for_ever() -> None:
    """A change here moves the images of everybody's data between train and test."""
    assert place("cat/000.jpg", 0) == 0.8723320019918518
    assert place("cat/000.jpg", 1) == 0.49188752318980433
    assert place("café/\udce9.jpg", 0) == 0.8925547057476335


def test_every_part_gets_about_its_share_and_every_item_one_part() -> None:
    draw = make(NAMES)
    assert sorted(item for items in draw.parts.values() for item in items) == list(range(600))
    assert all(items.tolist() == sorted(items) for items in draw.parts.values())
    assert 90 < len(draw.parts["test"]) < 150
    assert 40 < len(draw.parts["val"]) < 80
    assert part_of(draw) != part_of(replace(draw, seed=1))


def test_what_comes_goes_or_is_renamed_moves_no_other() -> None:
    before, chance = part_of(make(NAMES)), random.Random(0)
    for _ in range(20):
        changed = chance.sample(NAMES, 500) + [f"dog/new-{chance.random()}.jpg" for _ in range(50)]
        after = part_of(make(changed))
        assert {name: part for name, part in after.items() if name in before and before[name] != part} == {}


def test_a_larger_share_takes_from_train_alone() -> None:
    small, large = make(NAMES, {"val": 0.1}), make(NAMES, {"val": 0.3})
    assert set(small.parts["val"].tolist()) < set(large.parts["val"].tolist())


def test_a_class_keeps_one_in_train_until_another_falls_there() -> None:
    places = {name: place(name, 0) for name in (f"fox/{number}.jpg" for number in range(100))}
    drawn = [name for name, value in places.items() if value < 0.3][:3]
    highest = max(drawn, key=places.__getitem__)
    parts = part_of(make(drawn + NAMES))
    assert [name for name in drawn if parts[name] == "train"] == [highest]
    joining = next(name for name, value in places.items() if value > 0.3)
    parts = part_of(make([*drawn, joining, *NAMES]))
    assert [name for name in (*drawn, joining) if parts[name] == "train"] == [joining]


def test_an_empty_part_is_an_error_with_a_seed_that_fills_it() -> None:
    names = ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg"]
    empty = next(draw for seed in range(100) if not (draw := make(names, seed=seed)).parts["val"].size)
    empty.check("train", ["cat", "dog"])
    with pytest.raises(ValueError, match=r"photos: the split val is empty: .* 4 names .* data\.seed=(\d+)$") as caught:
        empty.check("val", ["cat", "dog"])
    seed = int(str(caught.value).rpartition("=")[2])
    assert replace(empty, seed=seed).fills_all()


def test_where_no_seed_fills_a_part_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"give a val split$"):
        make(["cat/0.jpg", "dog/0.jpg"]).check("val", ["cat", "dog"])


def test_classes_without_an_item_in_a_drawn_part_are_named() -> None:
    names = [*NAMES, "fox/0.jpg"]
    assert part_of(make(names))["fox/0.jpg"] == "train"
    with pytest.warns(UserWarning, match=r"photos: test is drawn by name and got nothing of 1 of 4 classes \(fox\)"):
        make(names).check("test", ["cat", "dog", "emu", "fox"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(NAMES).check("test", ["cat", "dog", "emu"])
        make(names).check("train", ["cat", "dog", "emu", "fox"])
