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

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
TABLES = [re.findall(r"^\| (.+) \|$", section, flags=re.MULTILINE) for section in PAGE.split("\n## ")]
COSTS, _, REFUSALS = ([[cell.strip() for cell in row.split("|")] for row in table[1:]] for table in TABLES if table)
BATCH = 16
FRAMES = 8  # of the clips of video methods; BATCH of them in BATCH / FRAMES clips


@pytest.fixture(scope="module")
def vit_base():
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=10).eval()


@pytest.fixture(scope="module")
def vit_base_on_frames():
    with torch.device("meta"):
        return vp.create_backbone("vit_base_patch16_224", num_frames=FRAMES, num_classes=10).eval()


def flops(model, *, video: bool) -> int:
    size = (BATCH // FRAMES, 3, FRAMES, 224, 224) if video else (BATCH, 3, 224, 224)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.empty(size, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[1].strip("`"))
def test_counts_and_flops(row, vit_base, vit_base_on_frames):
    name, setting, trains, stores, extra = row[0], row[1].strip("`"), *row[2:5]
    method = eval(f"vp.{setting}")
    assert method.name == re.findall(r"`(\w+)`", name)[0]
    model = vit_base_on_frames if method.video else vit_base
    bare = flops(model, video=method.video)
    vp.attach(model, method)
    try:
        counts = vp.count_parameters(model)
        more = flops(model, video=method.video) / bare - 1
    finally:
        vp.detach(model)
    assert (f"{counts.trained:,}", f"{counts.stored:,}") == (trains, stores)
    assert extra == (f"{more:+.1%}".replace("%", " %") if more else "0")


def test_every_refusal_is_in_the_table():
    for (method, _, family), _ in REFUSED.items():
        assert any(f"`{method}`" in row[0] and f"`{family}`" in row[2] and row[3] == "attach" for row in REFUSALS)
    for (method, *_, family), _ in UNMERGEABLE.items():
        assert any(f"`{method}`" in row[0] and f"`{family}`" in row[2] and row[3] == "merge" for row in REFUSALS)


def test_the_table_holds_no_refusal_that_is_none():
    known = {(method, family, "attach") for method, _, family in REFUSED}
    known |= {(method, family, "merge") for method, *_, family in UNMERGEABLE}
    for methods, _, families, refused, _ in REFUSALS:
        for method in re.findall(r"`(\w+)`", methods):
            for family in re.findall(r"`(\w+)`", families):
                assert (method, family, refused) in known
