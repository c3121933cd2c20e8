"""Which settings differ: a sign test over seeds and tasks, or over test items, corrected for the number of pairs."""

import csv
import math

import numpy as np
import pytest

from vision_peft.packed_bits import pack_bits
from vision_peft.results.significance import compare_all, write_pairs


def of_method(make_row, name, values, **changed):
    """Rows of one method: `values` by task and seed."""
    return [
        make_row(name, {"rank": 8}, dataset="bench", task=task, seed=seed, top1=value, **changed)
        for (task, seed), value in values.items()
    ]


def test_pairs_are_tested_over_all_seeds_and_tasks_that_both_have(make_row):
    keys = [(task, seed) for task in "abcd" for seed in range(3)]
    better = of_method(make_row, "lora", {(task, seed): 81.0 + seed for task, seed in keys})
    worse = of_method(make_row, "ssf", {key: 80.0 + key[1] + 2 * (place == 0) for place, key in enumerate(keys[:-1])})
    (table,), notes = compare_all([*better, *worse], "top1", "seeds")
    (pair,) = table.pairs
    assert (pair.a, pair.b, pair.counts) == ("LoRA-8", "SSF-8", (11, 10, 1))
    assert pair.p_value == pytest.approx(2 * (1 + 11) / 2**11), "one or none of eleven throws, to either side"
    assert pair.difference == pytest.approx((10 - 1) / 11)
    assert pair.differs
    assert notes == []
    assert table.describe().endswith("val_select: LoRA-8 has the best mean; it differs from SSF-8")


def test_seeds_that_nothing_acts_on_are_one_comparison_of_a_task(make_row):
    keys = [(task, seed) for task in "abcde" for seed in range(3)]
    solved = of_method(make_row, "linear", {(task, seed): 70.0 + ord(task) for task, seed in keys})
    voted = of_method(make_row, "knn", {(task, seed): 60.0 + ord(task) for task, seed in keys})
    trained = of_method(make_row, "lora", {(task, seed): 80.0 + ord(task) + seed for task, seed in keys})
    (table,), _ = compare_all([*solved, *voted], "top1", "seeds")
    assert [pair.counts for pair in table.pairs] == [(5, 5, 0)]
    assert "(5 comparisons are too few to show any difference)" in table.describe()
    (table,), _ = compare_all([*solved, *trained], "top1", "seeds")
    assert [pair.counts for pair in table.pairs] == [(15, 0, 15)]


def test_seeds_that_happen_to_agree_count_each(make_row):
    a = of_method(make_row, "lora", {("a", 0): 70.0, ("a", 1): 71.0, ("a", 2): 71.0, ("b", 0): 50.0})
    b = of_method(make_row, "ssf", {("a", 0): 60.0, ("a", 1): 61.0, ("a", 2): 61.0, ("b", 0): 40.0})
    (table,), _ = compare_all([*a, *b], "top1", "seeds")
    assert [pair.counts for pair in table.pairs] == [(4, 4, 0)]


def test_more_seeds_do_not_make_a_method_the_best(make_row):
    rows = of_method(make_row, "lora", {("a", seed): 50.0 + seed for seed in range(5)})
    rows += of_method(make_row, "ssf", {("a", seed): 90.0 + seed for seed in range(3)})
    (table,), _ = compare_all(rows, "top1", "seeds")
    assert table.ranked == ["SSF-8", "LoRA-8"]
    assert "SSF-8 has the best mean; not told apart from it: LoRA-8" in table.describe()


def test_what_lacks_a_task_is_not_the_best_and_what_was_not_tested_is_not_told_apart(make_row):
    rows = of_method(make_row, "lora", {("a", 0): 50.0, ("b", 0): 50.0})
    rows += of_method(make_row, "ssf", {("b", 0): 90.0})
    rows += of_method(make_row, "vera", {("b", 7): 80.0})
    (table,), notes = compare_all(rows, "top1", "seeds")
    assert (table.ranked, table.partial) == (["LoRA-8"], ("SSF-8", "VeRA-8"))
    told = "of those with every task; not told apart from it: SSF-8; not tested against it: VeRA-8"
    assert f"LoRA-8 has the best mean {told}" in table.describe()
    assert notes == ["2 pairs of methods without a common seed and task not tested"]
    rows += of_method(make_row, "bitfit", {("c", 0): 80.0})
    (table,), _ = compare_all(rows, "top1", "seeds")
    assert table.describe().endswith("no method has every task, so that none is the best")


def test_what_val_chose_for_each_task_is_one_method(make_row):
    tried = {"recipe.epochs": [5, 20]}
    rows = of_method(make_row, "lora", {("a", 0): 80.0}, epochs=5, tried=tried)
    rows += of_method(make_row, "lora", {("b", 0): 80.0}, epochs=20, tried=tried)
    rows += of_method(make_row, "ssf", {("a", 0): 70.0, ("b", 0): 90.0}, epochs=5, tried=tried)
    (table,), _ = compare_all(rows, "top1", "seeds")
    assert [(pair.a, pair.b, *pair.counts) for pair in table.pairs] == [("LoRA-8", "SSF-8", 2, 1, 1)]
    assert "(2 comparisons are too few to show any difference)" in table.describe()


def test_settings_of_the_data_of_one_task_do_not_split_a_method(make_row):
    rows = []
    for name, values in {"lora": (80.0, 70.0), "ssf": (70.0, 60.0)}.items():
        rows += of_method(make_row, name, {("a", 0): values[0]}, settings={"recipe.lr": 1e-3})
        rows += of_method(make_row, name, {("b", 0): values[1]}, settings={"recipe.lr": 1e-3, "data.shots": 100})
    (table,), notes = compare_all(rows, "top1", "seeds")
    assert table.ranked == ["LoRA-8", "SSF-8"]
    assert [(pair.a, pair.b, *pair.counts) for pair in table.pairs] == [("LoRA-8", "SSF-8", 2, 2, 0)]
    assert notes == []


def test_rows_of_other_data_protocol_or_budget_make_no_pair(make_row):
    rows = of_method(make_row, "lora", {("a", 0): 80.0}, data_digest="1" * 64)
    rows += of_method(make_row, "ssf", {("a", 0): 70.0}, data_digest="2" * 64)
    rows += of_method(make_row, "vpt", {("a", 0): 60.0}, protocol="last_epoch")
    tables, notes = compare_all(rows, "top1", "seeds")
    assert tables == []
    assert notes == ["1 pair of methods without a common seed and task not tested"]


def test_many_pairs_are_corrected_by_holm(make_row):
    keys = [(task, 0) for task in "abcdefgh"]
    rows = of_method(make_row, "lora", dict.fromkeys(keys, 3.0))
    rows += of_method(make_row, "ssf", dict.fromkeys(keys, 2.0))
    rows += of_method(make_row, "vera", {key: 1.0 + 2.5 * (place < 2) for place, key in enumerate(keys)})
    (table,), _ = compare_all(rows, "top1", "seeds")
    raw = [pair.p_value for pair in table.pairs]
    two_of_eight = 2 * sum(math.comb(8, k) for k in range(3)) / 2**8
    assert raw == pytest.approx([2 / 2**8, two_of_eight, two_of_eight])
    assert [pair.p_holm for pair in table.pairs] == pytest.approx([3 * raw[0], 2 * raw[1], 2 * raw[1]])


def test_items_are_compared_by_their_answers_and_rows_without_them_are_counted(make_row):
    right, wrong = np.ones(40, bool), np.arange(40) % 2 == 0
    same = {"n_test": 40, "data_digest": "1" * 64}
    rows = [
        make_row("lora", {"rank": 8}, top1=100.0, correct=pack_bits(right), **same),
        make_row("ssf", {}, top1=50.0, correct=pack_bits(wrong), **same),
        make_row("bitfit", {}, top1=60.0, **same),
    ]
    (table,), notes = compare_all(rows, "top1", "items")
    (pair,) = table.pairs
    assert (pair.difference, pair.counts) == (50.0, (40, 20, 0))
    assert pair.bounds is not None
    assert pair.bounds[0] < 50 < pair.bounds[1]
    assert pair.differs
    assert notes[0].startswith("2 pairs not tested")
    (line,) = csv.DictReader(write_pairs([table]).splitlines())
    assert (line["a"], line["b"], line["n"], line["difference"]) == ("LoRA-8", "SSF", "40", "50.0000")
    with pytest.raises(ValueError, match="wanted metric top1, got mean_per_class"):
        compare_all(rows, "mean_per_class", "items")
    with pytest.raises(ValueError, match="significance must be one of seeds, items, got tasks"):
        compare_all(rows, "top1", "tasks")


def test_of_errors_the_smaller_is_the_better_one(make_row):
    of_numbers = {"metric": "mae", "lower_is_better": True, "figure_words": {"mae": "MAE"}, "top1": None}
    rows = [
        make_row("lora", {}, figures={"mae": 1.0}, **of_numbers),
        make_row("ssf", {}, figures={"mae": 2.0}, **of_numbers),
    ]
    (table,), _ = compare_all(rows, "mae", "seeds")
    assert table.ranked == ["LoRA", "SSF"]
    assert table.pairs[0].counts == (1, 1, 0)
