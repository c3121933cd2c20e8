"""What the page of methods says is what the code does."""

import re
from pathlib import Path

import pytest
import timm
import torch
from methods.test_every_method import REFUSED, UNMERGEABLE
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vision_peft as vp

PAGE = (Path(vp.__file__).parent / "methods" / "README.md").read_text(encoding="utf-8")
TABLES = [re.findall(r"^\| (.+) \|$", section, flags=re.MULTILINE) for section in PAGE.split("\n## ")]
COSTS, _, REFUSALS = ([[cell.strip() for cell in row.split("|")] for row in table[1:]] for table in TABLES if table)
BATCH = 16


@pytest.fixture(scope="module")
def vit_base():
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=10).eval()


def flops(model) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.empty(BATCH, 3, 224, 224, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[1].strip("`"))
def test_counts_and_flops(row, vit_base):
    name, setting, trains, stores, extra = row[0], row[1].strip("`"), *row[2:5]
    method = eval(f"vp.{setting}")
    assert method.name == re.findall(r"`(\w+)`", name)[0]
    bare = flops(vit_base)
    vp.attach(vit_base, method)
    try:
        counts = vp.count_parameters(vit_base)
        more = flops(vit_base) / bare - 1
    finally:
        vp.detach(vit_base)
    assert (f"{counts.trained:,}", f"{counts.stored:,}") == (trains, stores)
    assert extra == (f"{more:+.1%}".replace("%", " %") if more else "0")


def test_every_refusal_is_in_the_table():
    for (method, _, family), _ in REFUSED.items():
        assert any(f"`{method}`" in row[0] and f"`{family}`" in row[2] and row[3] == "attach" for row in REFUSALS)
    for (method, family), _ in UNMERGEABLE.items():
        assert any(f"`{method}`" in row[0] and f"`{family}`" in row[2] and row[3] == "merge" for row in REFUSALS)


def test_the_table_holds_no_refusal_that_is_none():
    known = {(method, family, "attach") for method, _, family in REFUSED}
    known |= {(method, family, "merge") for method, family in UNMERGEABLE}
    for methods, _, families, refused, _ in REFUSALS:
        for method in re.findall(r"`(\w+)`", methods):
            for family in re.findall(r"`(\w+)`", families):
                assert (method, family, refused) in known
