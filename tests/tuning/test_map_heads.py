"""Heads for maps: every family gives them maps, every method attaches unchanged, windows cover larger images."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import ALL, OTHERS, attach, images, randomise_tuned, tiny
from support.matrix import METHODS, fits
from torch import nn

import vision_peft as vp
from vision_peft.tuning.head_kinds import MapLinear, MapMulti, MapProgressive, MapPyramid
from vision_peft.tuning.head_maps import Windows, answer_windows, reads_maps
from vision_peft.tuning.known_heads import head_kind
from vision_peft.tuning.map_heads import MapClassifier, average_parts
from vision_peft.tuning.short_block import ShortModel

CLIPS = ("tubelet", "frames")
KINDS = {
    "seg_linear": {},
    "seg_multi": {"layers": 2},
    "seg_upernet": {"layers": 2, "channels": 8},
    "seg_pup": {"steps": 2, "channels": 8},
}
FAMILIES = [name for name in ALL if name not in CLIPS]
MATRIX = ("vit", "swin", "resnet")
SOME = [name if name in MATRIX else pytest.param(name, marks=pytest.mark.matrix) for name in FAMILIES]
CASES = [(m, name) for m in METHODS for name in MATRIX if fits(m, name) and m == type(m)() and not m.samples_needed]


def with_head(family: str, kind: str = "seg_linear", classes: int = 5, **options: Any) -> Any:
    return vp.replace_head(tiny(family), kind, classes, **{**KINDS[kind], **options}).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_maps_in_the_order_of_the_image(family):
    model = with_head(family, batchnorm=False)
    x = torch.randn(1, 3, 256, 256) if family in OTHERS else images(model)[:1]
    logits = model(x)
    assert logits.ndim == 4
    height, width = logits.shape[-2:]
    assert height > 1
    moved = x.clone()  # the lower right corner changes, and the place there changes most
    moved[..., -x.shape[-2] // height :, -x.shape[-1] // width :] += 3
    change = (model(moved) - logits).abs().sum(1)[0]
    place = divmod(int(change.argmax()), width)
    assert place[0] >= height // 2
    assert place[1] >= width // 2


@pytest.mark.parametrize(
    "family", [name if name in MATRIX else pytest.param(name, marks=pytest.mark.matrix) for name in FAMILIES]
)
@pytest.mark.parametrize("kind", ["seg_multi", "seg_upernet"])
def test_heads_of_several_layers_answer_on_every_family(family, kind):
    model = with_head(family, kind)
    logits = model(images(model))
    assert logits.shape[:2] == (2, 5)
    assert logits.shape[-1] >= with_head(family)(images(model)).shape[-1]
    assert head_kind(model) == f"{kind} layers=2" + (" channels=8" if kind == "seg_upernet" else "")


@pytest.mark.parametrize(
    ("method", "family"),
    [case if number % 5 == 0 else pytest.param(*case, marks=pytest.mark.matrix) for number, case in enumerate(CASES)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["seg_linear", "seg_multi"])
def test_every_method_trains_under_a_head_for_maps_and_comes_back_from_a_folder(method, family, kind, tmp_path):
    model = attach(with_head(family, kind), method)
    randomise_tuned(model)
    vp.train_mode(model)
    x = images(model)
    model(x).square().mean().backward()
    dead = [name for name, p in vp.tuned_parameters(model) if p.grad is None or not p.grad.any()]
    assert dead == []
    model.eval()
    vp.save_adapter(model, tmp_path / "adapter")
    loaded = vp.load_adapter(tiny(family), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)  # a baked encoder rounds otherwise
    vp.detach(model)
    plain = tiny(family).eval()
    plain.load_state_dict(model.state_dict())  # some methods leave trained values
    assert torch.equal(model(x), plain(x))
    assert not reads_maps(model)


def test_the_linear_head_is_a_layer_on_each_normed_patch_token():
    model: Any = vp.attach(with_head("dinov2_reg4"), vp.LinearProbe()).eval()
    randomise_tuned(model)
    x, norm, conv = images(model), model.head.norms[0], model.head.classifier
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    plain = tiny("dinov2_reg4").eval()
    tokens = plain.forward_features(x)[:, plain.num_prefix_tokens :]
    features = (tokens - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    wanted = features @ conv.weight[:, :, 0, 0].T + conv.bias
    torch.testing.assert_close(model(x), wanted.transpose(1, 2).unflatten(2, (2, 2)), rtol=1e-4, atol=1e-5)


def test_several_layers_stand_side_by_side_the_coarse_ones_scaled():
    head: Any = MapClassifier([2, 3], 4, MapMulti(layers=2, batchnorm=False), flat=False).eval()
    fine, coarse = torch.randn(1, 2, 6, 4), torch.randn(1, 3, 3, 2)
    both = torch.cat([fine, F.interpolate(coarse, size=(6, 4), mode="bilinear")], 1)
    torch.testing.assert_close(head([fine, coarse]), head.classifier(both))
    assert len(head.norms) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in head.modules())


def test_progressive_upsampling_is_a_convolution_and_twice_the_size_at_every_step():
    head: Any = MapClassifier([3], 4, MapProgressive(steps=2, channels=5, batchnorm=False), flat=True).eval()
    x = torch.randn(2, 3, 3, 4)
    wanted = x
    for convolution, norm, _ in head.decoder.convolutions:
        norm.running_var.uniform_(0.5, 2)
        wanted = F.conv2d(wanted, convolution.weight, padding=1) / (norm.running_var + norm.eps).sqrt()[:, None, None]
        wanted = F.interpolate(wanted.relu(), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(head([x]), head.classifier(wanted))
    assert head([x]).shape == (2, 4, 12, 16)


@pytest.mark.parametrize("steps", [0, 6, 40])
def test_steps_that_no_memory_holds_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be at"):
        with_head("vit", "seg_pup", steps=steps)


def test_the_head_of_setr_pup_has_the_parameters_that_mmsegmentation_lists():
    head = MapClassifier([1024], 150, MapProgressive(), flat=True)
    convolutions, classifier = 9 * (1024 + 3 * 256) * 256, 256 * 150 + 150
    assert sum(p.numel() for p in head.parameters()) == convolutions + 4 * 2 * 256 + classifier


def test_one_tensor_of_all_channels_is_answered_like_the_maps():
    for kind in (MapMulti(layers=2), MapPyramid(layers=2, channels=8)):
        head = MapClassifier([2, 3], 4, kind, flat=True).eval()
        maps = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)]
        assert torch.equal(head(torch.cat(maps, 1)), head(maps))


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_are_averaged_as_adaptive_pooling_does(parts):
    x = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(average_parts(x, parts), F.adaptive_avg_pool2d(x, parts))


def test_the_class_token_is_not_all_that_is_read():
    model = vp.attach(with_head("vit"), vp.LoRA(rank=2))
    assert not isinstance(model, ShortModel)
    assert isinstance(vp.attach(tiny("vit"), vp.LoRA(rank=2)), ShortModel)


def test_a_head_for_pooled_features_takes_its_place_again():
    model = with_head("vit")
    vp.replace_head(model, "linear", 3)
    assert model.eval()(images(model)).shape == (2, 3)


@pytest.mark.parametrize("family", CLIPS)
def test_clips_are_refused(family):
    with pytest.raises(ValueError, match="takes clips: a head for maps takes single images"):
        with_head(family)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 3}, "has 2 layers that give maps, the head reads 3: give layers=2"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"stride": -1}, "stride must be at least 0"),
        ({"layer": 2}, r"has no option 'layer' \(did you mean layers\?\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        with_head("vit", "seg_multi", **options)


def test_merging_a_head_for_maps_is_refused_with_the_way_out():
    model = vp.attach(with_head("vit"), vp.LoRA(rank=2))
    with pytest.raises(ValueError, match=r"head for maps.*save_adapter"):
        vp.merge(copy.deepcopy(model))


@pytest.mark.parametrize(
    ("side", "size", "stride", "step", "starts"),
    [
        (32, 32, 0, 8, [0]),
        (48, 32, 0, 8, [0, 16]),
        (64, 32, 16, 8, [0, 16, 32]),
        (64, 32, 32, 8, [0, 32]),
        (80, 32, 32, 8, [0, 24, 48]),
    ],
)
def test_windows_lie_evenly_and_reach_the_end(side, size, stride, step, starts):
    assert Windows((size, size), stride, step).list_starts(side, 0) == starts


def test_windows_give_the_mean_of_what_lies_over_a_place():
    x = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    pooled = lambda part: F.avg_pool2d(part, 8) * torch.arange(1.0, part.shape[-1] // 8 + 1)  # noqa: E731
    found = answer_windows(pooled, x, Windows((24, 24), 8, 8))
    means = F.avg_pool2d(x, 8)  # windows begin at places 0, 1, 2
    weights = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0])
    torch.testing.assert_close(found, means * weights)


def test_an_image_in_windows_is_answered_whole_where_answers_are_local():
    model = with_head("resnet", window=True)
    assert reads_maps(model)
    size = model.map_source.windows.size
    x = torch.randn(1, 3, *size)
    assert torch.equal(model(x), with_head("resnet").eval()(x))
    larger = model(torch.randn(1, 3, size[0] * 2 + 5, size[1]))
    assert larger.shape[-2:] == (-(-(size[0] * 2 + 5) // 32), size[1] // 32)
    assert model(torch.randn(1, 3, 9, 40)).shape[-2:] == (1, 2)  # filled up to a window, and the answers cut off


@pytest.mark.parametrize(("height", "width"), [(24, 40), (8, 8), (24, 16), (40, 8)])
def test_what_is_smaller_than_a_window_is_filled_up_and_not_stretched(height, width):
    x, seen = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)), []

    def answer(part):
        seen.append(part)
        return F.avg_pool2d(part, 8)

    found = answer_windows(answer, x, Windows((32, 24), 0, 8))
    torch.testing.assert_close(found, F.avg_pool2d(x, 8))
    assert {part.shape[-2:] for part in seen} == {(32, 24)}
    rows, columns = min(height, 32), min(width, 24)
    assert torch.equal(seen[0][..., :rows, :columns], x[..., :rows, :columns])
    assert not seen[0][..., rows:, :].any()
    assert not seen[0][..., columns:].any()
    odd = answer_windows(answer, x[..., 1:, 1:], Windows((32, 24), 0, 8))
    torch.testing.assert_close(odd, F.avg_pool2d(F.interpolate(x[..., 1:, 1:], (height, width), mode="bilinear"), 8))


def test_windows_whose_answers_are_finer_than_pixels_have_a_place_for_each_pixel():
    model: Any = vp.attach(with_head("dinov2_reg4", "seg_pup", steps=4, window=True), vp.LoRA(rank=2)).eval()
    (height, width), step = model.map_source.windows.size, model.map_source.windows.step
    assert model(images(model)).shape[-1] > width  # patches of 14 pixels have 16 places each
    assert step == 1
    assert model(torch.randn(1, 3, height + 5, 2 * width)).shape == (1, 5, height + 5, 2 * width)


def test_without_windows_an_image_of_another_size_is_the_models_affair():
    with pytest.raises(AssertionError):
        with_head("vit")(torch.randn(1, 3, 40, 40))
    assert with_head("vit", window=True)(torch.randn(1, 3, 40, 40)).shape[-2:] == (5, 5)


def test_counts_of_the_linear_head():
    model = vp.replace_head(tiny("vit"), "seg_linear", 7)
    assert vp.count_parameters(vp.attach(model, vp.LinearProbe())).head == 33 * 7
    assert MapLinear().batchnorm
