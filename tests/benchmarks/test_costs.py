"""Ratios, units and files of the cost table."""

import csv
import io
from pathlib import Path

import pytest

from vision_peft.benchmarks.cost_table import format_costs, to_csv, to_markdown
from vision_peft.benchmarks.costs import FLOOR, PLAIN, Cost, CostGroup, Costs, find_figures, read_costs, to_json


def create_costs() -> Costs:
    rows = [
        Cost(
            FLOOR,
            "reference",
            [],
            flops_step=10,
            saved_bytes=1_000_000,
            times={"step": [1, 2, 3], "forward": [1, 1, 1]},
        ),
        Cost(PLAIN, "reference", [], flops_step=20, times={"step": [2, 4, 6], "forward": [0.5, 0.5, 0.5]}),
        Cost(
            "LoRA-8",
            "method",
            ["method=lora"],
            trained=1234567,
            flops_step=15,
            saved_bytes=3_000_000,
            attention=["flash"],
            times={"step": [1.5, 2, 9], "forward": [0.75, 1, 0.5], "merged": [0.5, 1, 0.5]},
        ),
        Cost("VPT-50", "method", ["method=vpt"], note="out of memory"),
    ]
    group = CostGroup("vit", 8, [224, 224], "fp32", False, [], block_elements=250_000, rounds=3, rows=rows)
    return Costs("vision-peft benchmark", "cpu (x)", "CPU time", "abc", "123", {"torch": "2"}, [group])


def test_ratios_are_medians_over_rounds() -> None:
    (group,) = create_costs().groups
    figures = find_figures(group, group.rows[2])
    assert figures["step_ms"] == 2000
    assert figures["step_min_ms"] == 1500
    assert figures["step_over_floor"] == 1.5  # of 1.5, 1, 3; the ratio of the medians is 1
    assert figures["step_over_full"] == 0.75
    assert figures["forward_over_timm"] == 1.5
    assert figures["merged_over_timm"] == 1
    assert figures["images_per_s"] == 4
    assert figures["gflops_step_over_floor"] == 1.5


def test_saved_bytes_are_compared_with_the_floor_and_with_the_tokens() -> None:
    (group,) = create_costs().groups
    figures = find_figures(group, group.rows[2])
    assert (figures["saved_mb"], figures["saved_over_floor_mb"], figures["saved_units"]) == (3, 2, 3)
    group.precision = "bf16"
    assert find_figures(group, group.rows[2])["saved_units"] == 6


def test_a_row_without_figures_says_why(tmp_path: Path) -> None:
    costs = create_costs()
    assert "VPT-50: out of memory" in format_costs(costs)
    assert "* VPT-50: out of memory" in to_markdown(costs)
    assert set(find_figures(costs.groups[0], costs.groups[0].rows[3]).values()) == {None, "", 0, "out of memory"}


def test_the_files_hold_the_same(tmp_path: Path) -> None:
    costs = create_costs()
    (tmp_path / "costs.json").write_text(to_json(costs), "utf-8")
    assert read_costs(tmp_path / "costs.json") == costs
    rows = list(csv.DictReader(io.StringIO(to_csv(costs))))
    assert [row["setting"] for row in rows] == [row.setting for row in costs.groups[0].rows]
    assert rows[2]["step_over_floor"] == "1.5"
    assert rows[3]["step_ms"] == ""
    (line,) = [line for line in to_markdown(costs).splitlines() if line.startswith("| LoRA-8 | 2,000 ")]
    assert line == "| LoRA-8 | 2,000 | 1,500 | 1.500 | 0.750 | 4.00 | 750.0 | 500.0 | 1.500 | 500.0 | 1.000 |"
    assert all(len(line) <= 120 for line in format_costs(costs).splitlines())


def test_a_table_is_aligned() -> None:
    lines = format_costs(create_costs()).splitlines()
    above, names, *rows = lines[4:10]
    ends = [index for index, letter in enumerate(names) if letter != " " and names[index + 1 : index + 2] in (" ", "")]
    assert names.split() == [
        "ms",
        "min",
        "/",
        "floor",
        "/",
        "full",
        "images/s",
        "ms",
        "min",
        "/",
        "timm",
        "ms",
        "/",
        "timm",
    ]
    assert above.split("-")[0].strip() == ""
    (lora,) = [row for row in rows if row.startswith("LoRA-8")]
    assert lora[: ends[0] + 1].endswith("2,000")
    assert lora.endswith("1.000")


def test_another_file_is_not_taken_for_costs(tmp_path: Path) -> None:
    assert read_costs(tmp_path / "none.json") is None
    for text in ("{}", "[]", "nothing", '{"groups": [{}]}'):
        (tmp_path / "other.json").write_text(text, "utf-8")
        with pytest.raises(ValueError, match="is not a cost table"):
            read_costs(tmp_path / "other.json")
