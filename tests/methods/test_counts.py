"""Exact numbers of parameters on ViT-B/16 at 224 pixels, from closed forms and as the published tables print them."""

import pytest
import torch
from support.vit_base import count_on_vit_base, vit_base_without_weights

import vision_peft as vp

L, D, H = 12, 768, 3072  # blocks, width, hidden width of the MLP
BACKBONE = 85_798_656


def low_rank(rank: int, *shapes: tuple[int, int]) -> int:
    """A (rank x in) and B (out x rank) in every block, for each (in, out)."""
    return L * sum(rank * (features + out) for features, out in shapes)


def adaptmlp(hidden: int) -> int:
    """Two weights and two biases in every block."""
    return L * (D * hidden + hidden + hidden * D + D)


# (method, closed form, figure)
TABLE: list[tuple[vp.Method, int, int]] = [
    (vp.AdaptFormer(bottleneck=1), adaptmlp(1), 27_660),
    (vp.AdaptFormer(bottleneck=4), adaptmlp(4), 82_992),
    (vp.AdaptFormer(bottleneck=8), adaptmlp(8), 156_768),
    (vp.AdaptFormer(bottleneck=16), adaptmlp(16), 304_320),
    (vp.AdaptFormer(bottleneck=32), adaptmlp(32), 599_424),
    (vp.AdaptFormer(bottleneck=64), adaptmlp(64), 1_189_632),
    (vp.AdaptFormer(), adaptmlp(64), 1_189_632),
    (vp.AdaptFormer(bottleneck=64, form="sequential"), adaptmlp(64), 1_189_632),
    (vp.AdaptFormer(bottleneck=64, scale="learnable"), adaptmlp(64) + L, 1_189_644),
    (vp.AdaptFormer(bottleneck=64, input="own_norm"), adaptmlp(64) + L * 2 * D, 1_208_064),
    (vp.AdaptFormer(bottleneck=64, input="block_norm"), adaptmlp(64), 1_189_632),
    (vp.LoRA(), low_rank(8, (D, D), (D, D)), 294_912),
    (vp.LoRA(rank=8, targets=("q", "v")), low_rank(8, (D, D), (D, D)), 294_912),
    (vp.LoRA(rank=8, targets=("qkv",)), low_rank(8, (D, 3 * D)), 294_912),
    (vp.LoRA(rank=8, targets=("q", "k", "v")), low_rank(8, *[(D, D)] * 3), 442_368),
    (vp.LoRA(rank=8, targets=("q", "k", "v", "proj_output")), low_rank(8, *[(D, D)] * 4), 589_824),
    (
        vp.LoRA(rank=8, targets=("qkv", "proj", "fc1", "fc2")),
        low_rank(8, (D, 3 * D), (D, D), (D, H), (H, D)),
        1_179_648,
    ),
    (vp.LoRA(targets=("all-linear",)), low_rank(8, (D, 3 * D), (D, D), (D, H), (H, D)), 1_186_592 - 6_944),
    (vp.LoRA(rank=8, targets=("qkv",), init="pissa"), low_rank(8, (D, 3 * D)), 294_912),
    (vp.LoRA(rank=8, targets=("qkv",), init="olora"), low_rank(8, (D, 3 * D)), 294_912),
    (vp.LoRA(targets=("qkv",), rank_pattern={"0.attn.qkv": 0, "1.attn.qkv": 16}), low_rank(8, (D, 3 * D)), 294_912),
    (vp.LoRA(targets=("proj", "patch_embed")), low_rank(8, (D, D)) + 8 * (3 * 256 + D), 159_744),
    (vp.LoRA(targets=("proj",), lora_bias=True), low_rank(8, (D, D)) + L * D, 156_672),
    (vp.AdaLoRA(), low_rank(12, (D, 3 * D)) + L * 12, 442_512),
    (vp.VeRA(), L * (3 * D + 256), 30_720),
    (vp.VPT(tokens=1, deep=False), D, 768),
    (vp.VPT(tokens=50, deep=False), 50 * D, 38_400),
    (vp.VPT(tokens=1), L * D, 9_216),
    (vp.VPT(), 10 * L * D, 92_160),
    (vp.VPT(tokens=50), 50 * L * D, 460_800),
    (vp.VPT(tokens=50, project=64), 50 * L * 64 + 64 * D + D, 88_320),
    (vp.LinearProbe(), 0, 0),
    (vp.FullFineTune(), BACKBONE, BACKBONE),
]


@pytest.fixture(scope="module")
def vit_base():
    return vit_base_without_weights(num_classes=100)


@pytest.mark.parametrize(("method", "closed_form", "figure"), TABLE, ids=lambda v: repr(v))
def test_trained_and_stored_parameters_are_those_of_the_tables(vit_base, method, closed_form, figure):
    assert closed_form == figure
    try:
        counts = vp.count_parameters(vp.attach(vit_base, method))
    finally:
        vp.detach(vit_base)
    assert counts == vp.Counts(trained=figure, stored=figure, head=76_900, backbone=BACKBONE)


def test_the_backbone_has_85_798_656_parameters(vit_base):
    positions = (14 * 14 + 1) * D
    patches = 3 * 16 * 16 * D + D
    block = 2 * 2 * D + (D * 3 * D + 3 * D) + (D * D + D) + (D * H + H) + (H * D + D)
    assert patches + D + positions + L * block + 2 * D == BACKBONE
    assert vp.count_parameters(vit_base).backbone == BACKBONE


@pytest.mark.parametrize("classes", [1, 10, 100, 1000])
def test_a_linear_head_has_769_parameters_per_class(vit_base, classes):
    try:
        vp.replace_head(vit_base, "linear", classes)
        assert vp.count_parameters(vit_base).head == 769 * classes
    finally:
        vp.detach(vit_base)


def test_without_a_head_the_counts_of_a_method_stay():
    counts = count_on_vit_base(vp.AdaptFormer(bottleneck=64))
    assert counts == vp.Counts(trained=1_189_632, stored=1_189_632, head=0, backbone=BACKBONE)


def test_the_tensors_of_the_tuned_state_hold_exactly_the_counted_numbers(vit_base):
    try:
        counts = vp.count_parameters(vp.attach(vit_base, vp.LoRA(rank=8)))
        held = sum(tensor.numel() for tensor in vp.tuned_state_dict(vit_base).values())
    finally:
        vp.detach(vit_base)
    assert held == counts.stored + counts.head
    assert torch.float32.itemsize * held < 3e6, "an adapter of a few hundred thousand parameters is a small file"


def test_adaptformer_on_video_trains_what_its_code_does_with_ssv2_classes():
    with torch.device("meta"):
        model = vp.create_backbone("vit_base_patch16_224", num_frames=8, tubelet_size=2)
        vp.replace_head(model, "batchnorm_linear", 174)
    vp.attach(vp.attach(model, vp.AdaptFormer.as_published(video=True)), vp.NormTuning(norms="final"))
    counts = vp.count_parameters(model)
    assert counts.trained == adaptmlp(64) + 2 * D
    assert counts.trained + counts.head == 1_324_974
