"""What the page of methods says is what the code does."""

import re
from pathlib import Path

import pytest
import timm
import torch
from support.families import WITH_BLOCKS, attach, randomise_tuned, tiny
from support.matrix import METHODS, fits, lacks_bias, merge_refusal, refusal
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vision_peft as vp
from vision_peft.tuning.frame_attention import FRAMES
from vision_peft.tuning.short_block import restore_last_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
TABLES = [
    [[cell.strip() for cell in row.split("|")] for row in table[1:]]
    for section in PAGE.split("\n## ")
    if (table := re.findall(r"^\| (.+) \|$", section, flags=re.MULTILINE))
]
COSTS, ARCHITECTURES, REFUSALS = TABLES
BATCH = 16
CLIP = 8  # frames of the clips of video methods; BATCH of them in BATCH / CLIP clips


@pytest.fixture(scope="module")
def vit_base():
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=10).eval()


@pytest.fixture(scope="module")
def vit_base_on_frames():
    with torch.device("meta"):
        return vp.create_backbone("vit_base_patch16_224", num_frames=CLIP, num_classes=10).eval()


@pytest.fixture(scope="module")
def bare_flops(vit_base, vit_base_on_frames):
    return {video: flops(model, video=video) for video, model in ((False, vit_base), (True, vit_base_on_frames))}


def flops(model, *, video: bool) -> int:
    size = (BATCH // CLIP, 3, CLIP, 224, 224) if video else (BATCH, 3, 224, 224)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.empty(size, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[1].strip("`"))
def test_counts_and_flops(row, vit_base, vit_base_on_frames, bare_flops):
    name, setting, trains, stores, extra = row[0], row[1].strip("`"), *row[2:5]
    method = eval(f"vp.{setting}")
    assert method.name == re.findall(r"`(\w+)`", name)[0]
    video = FRAMES in method.needs
    model = vit_base_on_frames if video else vit_base
    restore_last_block(vp.attach(model, method))
    try:
        counts = vp.count_parameters(model)
        more = flops(model, video=video) / bare_flops[video] - 1
    finally:
        vp.detach(model)
    assert (f"{counts.trained:,}", f"{counts.stored:,}") == (trains, stores)
    assert extra == (f"{more:+.1%}".replace("%", " %") if more else "0")


def quoted(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


DOCUMENTED = {name for row in COSTS for name in quoted(row[0])}
FAMILY_ROWS = {family for row in ARCHITECTURES for family in quoted(row[0])}


def rows(refused: str, method: vp.Method, family: str) -> list[str]:
    """What the table says is missing for ``method`` on ``family`` where it is refused at ``refused``."""
    return [
        missing
        for names, setting, families, where, missing in REFUSALS
        if where == refused
        and method.name in quoted(names)
        and (setting == "any" or setting.strip("`").replace('"', "'") in repr(method))
        and (family in quoted(families)) != families.startswith("all but")
    ]


def test_the_page_names_only_methods_and_families_that_exist():
    named = {name for row in REFUSALS for name in quoted(row[0])}
    assert named <= DOCUMENTED <= set(vp.METHODS)
    assert {family for row in REFUSALS for family in quoted(row[2])} <= FAMILY_ROWS <= set(WITH_BLOCKS)


@pytest.mark.parametrize("family", sorted(FAMILY_ROWS))
def test_what_attach_refuses_is_in_the_table_and_nothing_else(family):
    model = tiny(family)
    for method in METHODS:
        if method.name in DOCUMENTED:
            missing = [need.name for need in method.needs if need.missing(model) is not None]
            assert rows("attach", method, family) == missing[:1], method
            assert (refusal(method, model) is None) == (not missing)


@pytest.mark.parametrize("family", sorted(FAMILY_ROWS))
@pytest.mark.parametrize("name", sorted({name for row in REFUSALS if row[3] == "merge" for name in quoted(row[0])}))
def test_what_merge_refuses_is_in_the_table_and_nothing_else(name, family):
    for method in [method for method in METHODS if method.name == name and fits(method, family)]:
        model = attach(tiny(family), method)
        randomise_tuned(model)
        reason = merge_refusal(model)
        assert (reason is None) == (not rows("merge", method, family))
        if reason is not None:
            assert lacks_bias(model, reason)
        for missing in rows("merge", method, family):
            (words,) = re.findall(r'"([^"]+ without a bias)"', missing)
            assert words in (reason or "")


def test_what_has_to_be_baked_before_compiling_is_on_the_page():
    for method in METHODS:
        if method.name in DOCUMENTED and method.bake_before_compile is not None:
            name = f'`{type(method).__name__}(encoder="lstm")`, whose {method.bake_before_compile}'
            assert name in PAGE
