"""Pixels become the floats that torchvision's steps make of them, bit for bit."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from vision_peft.data.transforms.images import IMAGENET, eval_transform, train_transform
from vision_peft.data.transforms.pixel_table import NormalisePixels

ALL_VALUES = np.stack([np.roll(np.arange(256), 85 * channel) for channel in range(3)], axis=-1).reshape(16, 16, 3)
IMAGE = Image.fromarray(ALL_VALUES.astype(np.uint8))
STATISTICS = [IMAGENET, ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), ((0.481, 0.458, 0.408), (0.27, 0.26, 0.28))]


def steps(mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    normalise = v2.Normalize(list(mean), list(std))
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise, v2.ToPureTensor()])


@pytest.mark.parametrize(("mean", "std"), STATISTICS)
def test_every_value_of_every_channel_is_torchvisions(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    found, wanted = NormalisePixels(mean, std)(IMAGE), steps(mean, std)(IMAGE)
    assert torch.equal(found, wanted)
    assert (found.dtype, type(found), found.shape) == (torch.float32, torch.Tensor, wanted.shape)
    assert found.is_contiguous()


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip", "randaugment"])
def test_training_and_evaluation_give_the_pixels_of_torchvisions_steps(augment: str) -> None:
    settings = {"size": (12, 20), "mean": IMAGENET[0], "std": IMAGENET[1]}
    found = train_transform(**settings, augment=augment, random_erasing=0.5)
    *random, _, _ = found.rest.transforms  # pyright: ignore[reportFunctionMemberAccess]
    wanted = v2.Compose([*random, *steps(*IMAGENET).transforms, v2.RandomErasing(p=0.5)])
    for seed in range(8):
        torch.manual_seed(seed)
        pixels = found(IMAGE)
        torch.manual_seed(seed)
        assert torch.equal(pixels, wanted(IMAGE if found.fixed is None else found.fixed(IMAGE)))
    evaluation = eval_transform(**settings)
    assert evaluation.fixed is not None
    assert torch.equal(evaluation(IMAGE), steps(*IMAGENET)(evaluation.fixed(IMAGE)))


def test_other_images_take_torchvisions_own_steps() -> None:
    table, own = NormalisePixels(*IMAGENET), steps(*IMAGENET)
    tensor = torch.from_numpy(ALL_VALUES.astype(np.uint8)).permute(2, 0, 1)
    assert torch.equal(table(tensor), own(tensor))
    grey = Image.fromarray(ALL_VALUES[..., 0].astype(np.uint8))
    assert torch.equal(table(grey), own(grey))


def test_the_floats_are_the_callers() -> None:
    table = NormalisePixels(*IMAGENET)
    table(IMAGE).zero_()
    assert torch.equal(table(IMAGE), steps(*IMAGENET)(IMAGE))
    assert torch.equal(pickle.loads(pickle.dumps(table))(IMAGE), table(IMAGE))
