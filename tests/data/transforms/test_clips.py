"""Transforms of clips: shapes, one draw for all frames, places of crops, nothing mirrored unasked."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vision_peft.data.transforms.clips import (
    CLIP_AUGMENTS,
    PLACES,
    MultiScaleCrop,
    crop_view,
    eval_clip_transform,
    train_clip_transform,
)

PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}
HALF: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.4), "interpolation": "bilinear"}


def noise(frames: int, height: int, width: int) -> Tensor:
    """uint8 T C H W."""
    own = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=own)


def still(frames: int, height: int, width: int) -> Tensor:
    return noise(1, height, width).expand(frames, -1, -1, -1)


def ramp(height: int, width: int) -> Tensor:
    """Brighter from left to right, one frame."""
    return torch.linspace(0, 255, width).to(torch.uint8).expand(1, 3, height, width)


@pytest.mark.parametrize("augment", CLIP_AUGMENTS)
@pytest.mark.parametrize("erasing", [0.0, 1.0])
def test_all_frames_of_a_clip_get_the_same_draw(augment: str, erasing: float) -> None:
    transform = train_clip_transform(size=(24, 32), augment=augment, random_erasing=erasing, **HALF)
    for seed in range(4):
        torch.manual_seed(seed)
        clip = transform(still(5, 40, 50))
        assert (clip.shape, clip.dtype, type(clip)) == ((3, 5, 24, 32), torch.float32, Tensor)
        assert all(torch.equal(clip[:, 0], clip[:, number]) for number in range(1, 5))
        assert bool((clip == 0).all(0).any()) == bool(erasing)


@pytest.mark.parametrize("augment", CLIP_AUGMENTS)
def test_a_draw_follows_torchs_generator_alone(augment: str) -> None:
    transform = pickle.loads(pickle.dumps(train_clip_transform(size=(16, 16), augment=augment, **PLAIN)))
    drawn = []
    for seed in (1, 1, *range(2, 12)):
        torch.manual_seed(seed)
        drawn.append(transform(noise(2, 40, 50)))
    assert torch.equal(drawn[0], drawn[1])
    assert all(torch.equal(drawn[0], other) for other in drawn) == (augment == "none")


@pytest.mark.parametrize("augment", [name for name in CLIP_AUGMENTS if not name.startswith("randaugment")])
def test_a_clip_is_mirrored_only_where_the_name_says_so(augment: str) -> None:
    transform = train_clip_transform(size=(16, 16), augment=augment, **PLAIN)
    torch.manual_seed(0)
    mirrored = [bool(transform(ramp(30, 40))[0, 0, 8].diff().sum() < 0) for _ in range(24)]
    assert any(mirrored) == augment.endswith("flip")
    assert not all(mirrored)


def test_values_are_those_of_images_resized_and_normalised_frame_by_frame() -> None:
    clip = noise(3, 20, 30)
    found = eval_clip_transform(size=(8, 8), **HALF)(clip)
    mean, std = torch.tensor(HALF["mean"]).view(3, 1, 1), torch.tensor(HALF["std"]).view(3, 1, 1)
    for number, frame in enumerate(clip):
        resized = F.resize(frame, [8, 8], interpolation=F.InterpolationMode.BILINEAR).float() / 255
        torch.testing.assert_close(found[:, number], (resized - mean) / std)
    assert found.is_contiguous()


def test_the_crops_of_a_test_clip_lie_at_start_middle_and_end_of_the_long_side() -> None:
    clip = torch.arange(10).expand(2, 3, 4, 10)
    assert [crop_view(clip, (4, 4), view, 3)[0, 0, 0].tolist() for view in range(3)] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [6, 7, 8, 9],
    ]
    assert crop_view(clip, (4, 4), 0, 1)[0, 0, 0].tolist() == [3, 4, 5, 6]
    tall = clip.transpose(-1, -2)
    assert [crop_view(tall, (4, 2), view, 2)[0, 0, :, 0].tolist() for view in range(2)] == [
        [0, 1, 2, 3],
        [6, 7, 8, 9],
    ]


@pytest.mark.parametrize("room", [(0, 0), (1, 3), (3, 1), (4, 5), (7, 2)])
def test_the_centre_of_a_clip_is_that_of_an_image(room: tuple[int, int]) -> None:
    clip = torch.arange(11 * 12).view(1, 1, 11, 12).expand(2, 3, 11, 12)
    size = 11 - room[0], 12 - room[1]
    assert torch.equal(crop_view(clip, size, 0, 1), F.center_crop(clip, list(size)))
    sides = crop_view(clip, size, 1, 3)
    assert torch.equal(sides, F.center_crop(clip, list(size)))


def test_shortest_and_crops_go_together() -> None:
    transform = eval_clip_transform(size=(16, 16), resize="shortest", crops=3, **PLAIN)
    views = [transform(ramp(16, 48), crop)[0, 0, 0] for crop in range(3)]
    torch.testing.assert_close(torch.cat(views), ramp(16, 48)[0, 0, 0].float() / 255)
    alone = eval_clip_transform(size=(16, 16), resize="shortest", **PLAIN)(ramp(16, 48))[0, 0, 0]
    assert torch.equal(alone, views[1])
    with pytest.raises(ValueError, match="3 spatial crops need resize=shortest"):
        eval_clip_transform(size=(16, 16), crops=3, **PLAIN)


def test_crop_pct_leaves_a_border_around_the_centre() -> None:
    inner = eval_clip_transform(size=(16, 16), resize="shortest", crop_pct=0.5, **PLAIN)(ramp(32, 32))
    torch.testing.assert_close(inner[0, 0, 0], ramp(32, 32)[0, 0, 0, 8:24].float() / 255)


def test_the_boxes_of_the_multi_scale_crop_are_those_of_neighbouring_scales() -> None:
    crop = MultiScaleCrop((224, 224))
    sides = [256, 224, 192, 168]  # 256 x 1, .875, .75, .66
    pairs = [(tall, wide) for i, tall in enumerate(sides) for j, wide in enumerate(sides) if abs(i - j) <= 1]
    assert crop.boxes(256, 340) == pairs
    assert len(pairs) == 10
    assert crop.boxes(226, 300)[0] == (224, 224)  # within two pixels of the size: nothing is scaled
    assert MultiScaleCrop((24, 24)).boxes(23, 40)[0] == (23, 24)  # but never more than there is


def test_the_multi_scale_crop_lies_in_the_clip_at_one_of_thirteen_places() -> None:
    assert len(set(PLACES)) == 13
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    clip = torch.stack([rows, columns, rows]).to(torch.uint8).unsqueeze(0)
    crop = MultiScaleCrop((39, 39), scales=(1,))  # 40 is within two pixels of 39: no scaling
    seen = set()
    torch.manual_seed(0)
    for _ in range(300):
        found = crop(clip)[0]
        top, left = int(found[0, 0, 0]), int(found[1, 0, 0])
        assert torch.equal(found, clip[0, :, top : top + 39, left : left + 39])
        seen.add((top, left))
    # room for 1 pixel down (a quarter of it is none) and 21 to the right (a quarter is 5)
    assert seen == {(0, 5 * right) for _, right in PLACES}


def test_an_unknown_augmentation_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean multi_scale"):
        train_clip_transform(size=(8, 8), augment="multiscale", **PLAIN)
    with pytest.raises(ValueError, match="unknown interpolation 'cubic'"):
        train_clip_transform(size=(8, 8), augment="crop", mean=(0,) * 3, std=(1,) * 3, interpolation="cubic")
