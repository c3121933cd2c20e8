"""Items of several datasets that are the same file."""

from vision_peft.data.distinct_items import list_distinct


def test_every_name_is_listed_once_where_it_comes_first() -> None:
    groups = [[(0, "a"), (3, "b"), (4, "a")], [], [(0, "c"), (1, "b"), (2, "d")]]
    numbers, items = list_distinct(groups)
    assert list(zip(numbers.tolist(), items.tolist(), strict=True)) == [(0, 0), (0, 3), (2, 0), (2, 2)]
    assert [part.tolist() for part in list_distinct([])] == [[], []]
