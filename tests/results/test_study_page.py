"""The page of the study is what its script makes of the committed rows."""

from collections.abc import Callable
from typing import Any

import pytest

import vision_peft as vp


@pytest.fixture
def script(read_script: Callable[[str], Any]) -> Any:
    return read_script("study_page")


def test_the_page_is_that_of_the_committed_rows(script: Any) -> None:
    wanted = "run python docs/results/study_page.py"
    assert script["PAGE"].read_text(encoding="utf-8") == script["write_page"](), wanted


def test_the_table_of_methods_has_the_means_and_the_default_rates(script: Any) -> None:
    page = script["METHODS_PAGE"].read_text(encoding="utf-8")
    assert script["fill_methods_page"](page) == page, "run python docs/results/study_page.py"
    (line,) = (line for line in page.splitlines() if line.startswith("| `lora` | `LoRA(rank=8"))
    mean, _ = script["average"](script["read_study"]()["lora"])
    assert line.endswith(f"| {vp.LoRA.recommended['lr']:g} |")
    assert f"| {mean:.1f} ± " in line


def test_settings_have_every_seed_of_every_data_set(script: Any) -> None:
    found = script["read_study"]()
    assert {"linear", "lora", "adaptformer", "vpt", "full"} <= found.keys()
    for of_data in found.values():
        assert {data: sorted(row.seed for row in rows) for data, rows in of_data.items()} == {
            data: [0, 1, 2] for data in script["DATA"]
        }
    mean, std = script["average"](found["linear"])
    assert mean == pytest.approx(sum(rows[0].top1 for rows in found["linear"].values()) / 5)
    assert std == 0


def test_pictures_are_there(script: Any) -> None:
    for name in ("study.png", "study_tasks.png", "study.html"):
        assert (script["HERE"] / name).stat().st_size < 1_000_000
        assert name in script["PAGE"].read_text(encoding="utf-8")


def test_sizes_without_all_their_rows_are_named_as_left_out(script: Any) -> None:
    one, other, *more = script["SIZED"]

    def describe(*whole: str) -> str:
        return script["describe_missing_sizes"]({name: {} for name in whole})

    assert describe(one, other, *more) == ""
    assert f" `{one}`, for" in describe(other, *more)
    assert f" `{one}` and `{other}`, for" in describe(*more)
