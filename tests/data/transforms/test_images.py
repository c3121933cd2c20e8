"""Transforms against timm's, PIL's and written-out arithmetic."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from vision_peft.data.transforms.images import choose_normalisation, eval_transform, train_transform

HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def picture(width: int, height: int) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours)


@pytest.mark.parametrize("size", [(75, 50), (50, 75), (61, 61), (20, 33)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.875])
def test_shortest_is_timms_evaluation(size: tuple[int, int], interpolation: str, crop_pct: float) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    ours = eval_transform(
        size=(32, 32), mean=mean, std=std, interpolation=interpolation, resize="shortest", crop_pct=crop_pct
    )
    theirs = create_transform((3, 32, 32), mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    torch.testing.assert_close(ours(picture(*size)), theirs(picture(*size)))  # pyright: ignore[reportCallIssue]


def test_squash_is_pils_resize_whatever_the_shape() -> None:
    image = picture(75, 50)
    tensor = eval_transform(size=(24, 32), **HALF)(image)
    wanted = np.asarray(image.resize((32, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tensor.numpy(), (wanted - 0.5) / 0.5, atol=1e-6)
    assert type(tensor) is torch.Tensor
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("shape", [(75, 50), (50, 75), (9, 200), (200, 9), (4000, 3)])
@pytest.mark.parametrize("size", [(24, 32), (32, 24), (16, 16), 16])
@pytest.mark.parametrize("resize", ["squash", "shortest"])
def test_every_image_comes_out_at_the_size_asked_for(
    shape: tuple[int, int], size: int | tuple[int, int], resize: str
) -> None:
    tensor = eval_transform(size=size, **PLAIN, resize=resize)(picture(*shape))
    assert tensor.shape == (3, *((size, size) if isinstance(size, int) else size))


def test_shortest_covers_a_box_that_is_not_square() -> None:
    image = Image.new("RGB", (100, 40), (255, 255, 255))
    tensor = eval_transform(size=(30, 20), **PLAIN, resize="shortest")(image)
    torch.testing.assert_close(tensor, torch.ones(3, 30, 20))


def test_an_image_of_one_row_does_not_fill_the_memory() -> None:
    image = Image.new("RGB", (1_000_000, 1), (255, 0, 0))
    tensor = eval_transform(size=(224, 224), **PLAIN, resize="shortest")(image)
    torch.testing.assert_close(tensor[0], torch.ones(224, 224))


def test_training_without_augmentation_is_the_evaluation() -> None:
    for resize in ("squash", "shortest"):
        train = train_transform(size=16, **HALF, augment="none", resize=resize, crop_pct=0.9)
        evaluate = eval_transform(size=16, **HALF, resize=resize, crop_pct=0.9)
        torch.testing.assert_close(train(picture(40, 30)), evaluate(picture(40, 30)), rtol=0, atol=0)


def test_flip_gives_the_evaluation_or_its_mirror_image() -> None:
    transform, plain = (
        train_transform(size=16, **HALF, augment="flip"),
        eval_transform(size=16, **HALF)(picture(40, 30)),
    )
    torch.manual_seed(0)
    mirrored = 0
    for _ in range(60):
        tensor = transform(picture(40, 30))
        is_mirror = torch.allclose(tensor, plain.flip(-1))
        assert is_mirror or torch.allclose(tensor, plain)
        mirrored += is_mirror
    assert 15 < mirrored < 45


def test_random_crop_flip_cuts_anywhere_out_of_the_scaled_image() -> None:
    image = picture(32, 48)  # the short side is 16 / 0.5 already: nothing is scaled
    transform = train_transform(size=16, **PLAIN, augment="random_crop_flip", resize="shortest", crop_pct=0.5)
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255).float()
    windows = {(y, x): pixels[:, y : y + 16, x : x + 16] for y in range(33) for x in range(17)}
    torch.manual_seed(0)
    found = []
    for _ in range(30):
        tensor = transform(image)
        of_tensor = [
            (place, flipped)
            for place, window in windows.items()
            for flipped in (False, True)
            if torch.allclose(tensor.flip(-1) if flipped else tensor, window, atol=1e-6)
        ]
        assert len(of_tensor) == 1
        found += of_tensor
    assert {flipped for _, flipped in found} == {False, True}
    assert len({place for place, _ in found}) > 20
    assert max(y for (y, _), _ in found) > 16  # below what the centre and its neighbourhood reach
    with pytest.raises(ValueError, match="needs resize='shortest', got resize='squash'"):
        train_transform(size=16, **PLAIN, augment="random_crop_flip")


def test_crop_scale_is_the_share_of_the_area() -> None:
    image = Image.fromarray(np.mgrid[0:100, 0:100][1].astype(np.uint8)).convert("RGB")
    transform = train_transform(size=50, **PLAIN, augment="crop_flip", crop_scale=(0.25, 0.25))
    torch.manual_seed(0)
    for _ in range(20):
        row = transform(image)[0, 25] * 255
        width = float((row[-5] - row[4]).abs()) * 50 / 41
        assert 50 * (3 / 4) ** 0.5 - 2 < width < 50 * (4 / 3) ** 0.5 + 2


def test_every_augmentation_gives_finite_tensors_that_depend_on_the_generator() -> None:
    for augment in ("flip", "crop_flip", "randaugment"):
        transform = train_transform(size=(16, 24), **HALF, augment=augment, random_erasing=0.25)
        results = []
        for seed in (0, 0, 1, 2, 3):
            torch.manual_seed(seed)
            results.append(transform(picture(40, 30)))
        assert all(result.shape == (3, 16, 24) and result.isfinite().all() for result in results)
        assert torch.equal(results[0], results[1])
        assert not all(torch.equal(results[0], result) for result in results[2:])


def test_random_erasing_blanks_a_box_after_normalising() -> None:
    transform = train_transform(size=32, **HALF, random_erasing=1.0)
    tensor = transform(Image.new("RGB", (40, 30), (255, 255, 255)))
    assert set(tensor.unique().tolist()) == {0.0, 1.0}
    never = train_transform(size=32, **HALF, random_erasing=0.0)
    assert never(Image.new("RGB", (40, 30), (255, 255, 255))).unique().tolist() == [1.0]


def test_a_uint8_tensor_may_stand_for_the_image() -> None:
    image = picture(32, 32)
    transform = eval_transform(size=32, **HALF)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(transform(tensor), transform(image))


def test_normalisations_have_their_published_values() -> None:
    own = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert choose_normalisation("backbone", *own) == own
    assert choose_normalisation("imagenet", *own) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert choose_normalisation("half", *own) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert choose_normalisation("none", *own) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"'imagnet' \(did you mean imagenet\?\)"):
        choose_normalisation("imagnet", *own)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment": "crop-flip"}, "did you mean crop_flip"),
        ({"resize": "squish"}, "did you mean squash"),
        ({"interpolation": "bicubik"}, "did you mean bicubic"),
        ({"random_erasing": 1.5}, "probability"),
        ({"size": (0, 16)}, "height, width"),
        ({"resize": "shortest", "crop_pct": 0.0}, "crop_pct"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_transform(**{"size": 16, **HALF, **fields})


def test_transforms_can_be_sent_to_a_worker() -> None:
    transform = train_transform(size=16, **HALF, augment="randaugment", resize="shortest", random_erasing=0.5)
    pickle.loads(pickle.dumps(transform))
    pickle.loads(pickle.dumps(eval_transform(size=16, **HALF, resize="shortest")))


@pytest.mark.parametrize("resize", ["squash", "shortest"])
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_what_an_image_always_becomes_is_apart_from_the_rest(augment: str, resize: str) -> None:
    transform = train_transform(size=(16, 24), **HALF, augment=augment, resize=resize, random_erasing=0.5)
    assert transform.fixed is not None
    fixed = transform.fixed(picture(40, 30))
    assert isinstance(fixed, Image.Image)
    assert fixed.size == (24, 16)
    torch.manual_seed(0)
    whole = transform(picture(40, 30))
    torch.manual_seed(0)
    assert torch.equal(transform.rest(fixed), whole)
    assert transform.fixed == eval_transform(size=(16, 24), **PLAIN, resize=resize).fixed
    assert transform.fixed != eval_transform(size=(16, 25), **PLAIN, resize=resize).fixed


@pytest.mark.parametrize("augment", ["crop_flip", "randaugment"])
def test_a_random_crop_starts_from_the_whole_image(augment: str) -> None:
    assert train_transform(size=16, **HALF, augment=augment).fixed is None
