"""An image and its mask go through the same geometry; what is added around them does not count."""

import numpy as np
import pytest
import torch
from PIL import Image

from vision_peft.data.transforms.masks import eval_masks, train_masks
from vision_peft.tuning.head_maps import Windows, answer_windows

SETTINGS = {
    "size": (16, 24),
    "mean": (0.0,) * 3,
    "std": (1.0,) * 3,
    "interpolation": "bilinear",
    "resize": "squash",
    "crop_pct": 1.0,
}
WINDOW = {**SETTINGS, "window": True, "resize": "none"}


def pair(height=40, width=60):
    """An image whose red says the number of each mask pixel: blocks of 10 x 10 pixels of 0 to 3."""
    rows, columns = np.meshgrid(np.arange(height) // 10, np.arange(width) // 10, indexing="ij")
    mask = ((rows + 2 * columns) % 4).astype(np.uint8)
    pixels = np.stack([60 * mask] * 3, -1)
    return Image.fromarray(pixels.astype(np.uint8)), mask


def agreement(image, mask):
    """Share of the pixels that count whose colour says the number of the mask."""
    counts = mask != 255
    told = (image[0] * 255 / 60).round().long()
    return (told[counts] == mask[counts]).double().mean().item()


@pytest.mark.parametrize("settings", [SETTINGS, WINDOW])
@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip", "scale_crop_flip", "random_crop_flip"])
def test_mask_and_image_stay_together(settings, augment):
    if augment == "random_crop_flip" and settings is SETTINGS:
        return
    transform = train_masks(settings, augment, 0.0, 255)
    for seed in range(6):
        torch.manual_seed(seed)
        image, mask = transform(*pair())
        assert image.shape == (3, 16, 24)
        assert mask.shape == (16, 24)
        assert mask.dtype == torch.int64
        assert {*mask.unique().tolist()} <= {0, 1, 2, 3, 255}  # nearest: no number that was not there
        assert agreement(image, mask) > 0.8  # but where two blocks blend
        assert (mask == 255).double().mean() < 0.8


@pytest.mark.parametrize("augment", ["crop_flip", "scale_crop_flip"])
def test_a_seed_draws_the_same_and_another_one_does_not(augment):
    transform = train_masks(SETTINGS, augment, 0.0, 255)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(transform(*pair()))
    assert all(one.equal(other) for one, other in zip(found[0], found[1], strict=True))
    assert not found[0][1].equal(found[2][1])


def test_what_is_added_around_a_small_image_does_not_count():
    transform = train_masks(WINDOW, "random_crop_flip", 0.0, 255)
    image, mask = transform(*pair(10, 60))
    assert (mask == 255).sum() == 6 * 24
    assert not image[:, mask == 255].any()
    depth = train_masks(WINDOW, "random_crop_flip", 0.0, 0)(pair(10, 60)[0], np.ones((10, 60), np.float32))[1]
    assert depth.dtype == torch.float32
    assert (depth == 0).sum() == 6 * 24


@pytest.mark.parametrize("bands", [False, True])
def test_a_window_that_is_larger_than_the_image_is_the_same_in_training_and_evaluation(bands):
    settings = {**WINDOW, "mean": (0.4, 0.5, 0.3), "std": (0.2, 0.25, 0.3)} | ({"channels": 3} if bands else {})
    image, mask = pair(10, 60)
    if bands:
        image = torch.rand(3, 10, 60, generator=torch.Generator().manual_seed(0))
    trained, _ = train_masks(settings, "none", 0.0, 255)(image, mask)
    evaluated, _ = eval_masks(settings)(image, mask)
    found = []

    def answer(part):
        found.append(part)
        return part[:, :1, ::8, ::8]

    answer_windows(answer, evaluated[None, :, :8, 18:42], Windows((16, 24), 0, 8))
    assert torch.equal(found[0][0, :, :8], trained[:, :8])
    rounding = 0.0 if bands else 0.5 / 255 / 0.2  # pixels are whole numbers
    assert trained[:, 10:].abs().max() <= rounding
    assert not found[0][0, :, 8:].any()


def test_a_mask_is_evaluated_as_large_as_it_is():
    image, mask = pair()
    given, kept = eval_masks(SETTINGS)(image, mask)
    assert given.shape == (3, 16, 24)
    assert np.array_equal(kept, mask)
    given, kept = eval_masks(WINDOW)(image, mask)
    assert given.shape == (3, 40, 60)
    assert np.array_equal(kept, mask)
    given, kept = eval_masks({**WINDOW, "resize": "shortest", "crop_pct": 0.5})(image, mask)
    assert given.shape == (3, 32, 48)
    assert kept.shape == (40, 60)


def test_the_short_side_covers_the_window():
    transform = eval_masks({**WINDOW, "resize": "shortest"})
    assert transform(*pair(20, 100))[0].shape == (3, 16, 80)
    assert transform(*pair(100, 20))[0].shape == (3, 120, 24)


@pytest.mark.parametrize(
    ("change", "augment", "words"),
    [
        ({"resize": "shortest"}, "none", "without an answer: give resize=squash"),
        ({"window": True}, "none", r"recipe\.resize=none"),
        ({}, "random_crop_flip", r"recipe\.window=true"),
        ({}, "randaugment", "does not fit masks: wanted one of none, flip"),
    ],
)
def test_geometry_that_masks_do_not_have_is_refused(change, augment, words):
    with pytest.raises(ValueError, match=words):
        train_masks({**SETTINGS, **change}, augment, 0.0, 255)
