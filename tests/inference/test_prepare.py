"""What shows something becomes what evaluation would make of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.hostile_files import MAKERS
from support.hostile_kit import Picture
from support.tiny_states import NAME, TINY
from support.video_files import write_video

import vision_peft as vp
from vision_peft.data import ImageDecodeError, ImageFiles
from vision_peft.data.decoding.video import decode_clip
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.inference.prepare import Preparation

INPUT: dict[str, Any] = {
    "size": [24, 40],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "resize": "shortest",
    "crop_pct": 0.8,
}
CLIPS: dict[str, Any] = {
    **INPUT,
    "num_frames": 4,
    "tubelet_size": None,
    "sampling": "segments",
    "frame_stride": 3,
    "views": 2,
    "crops": 3,
    "view_average": "logits",
}
HOSTILE = ["zero_bytes", "a_pipe", "a_broken_link", "jpeg_cut_in_its_pixels", "png_that_promises_2500_megapixels"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_becomes_what_the_data_set_of_evaluation_makes_of_it(photo: Path) -> None:
    dataset = ImageFiles([photo], [0], ["a"])
    dataset.set_evaluation(INPUT)
    expected, prepare = dataset[0][0], Preparation(INPUT)
    array = np.asarray(Image.open(photo))
    with_alpha = np.concatenate([array, np.full((*array.shape[:2], 1), 7, np.uint8)], 2)
    for item in (photo, str(photo), photo.read_bytes(), Image.open(photo), array, with_alpha):
        assert torch.equal(prepare(item), expected)
    assert expected.shape == (3, 24, 40)
    assert torch.equal(prepare.list_views(photo), expected[None])


@pytest.mark.parametrize("make", [lambda grey: grey, lambda grey: grey[:, :, None]])
def test_grey_arrays_of_8_and_16_bits_are_images(make: Callable[[np.ndarray], np.ndarray]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    expected = Preparation(INPUT)(np.stack([grey] * 3, 2))
    assert torch.equal(Preparation(INPUT)(make(grey)), expected)
    deep = grey.astype(np.uint16)
    assert torch.equal(Preparation(INPUT)(make(257 * deep)), expected), "0..65535 is 0..255"
    assert torch.equal(Preparation({**INPUT, "value_range": [0, 255]})(make(deep)), expected)


def test_photographs_are_turned_upright(photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(tmp_path / "turned.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))
    assert upright.size == (37, 61)
    for item in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert torch.equal(Preparation(INPUT)(item), Preparation(INPUT)(upright))
        as_stored = Preparation(INPUT, exif_rotation=False)(item)
        assert torch.equal(as_stored, Preparation(INPUT)(photo))


def test_a_user_keeps_the_image_that_was_given(photo: Path) -> None:
    image = Image.open(photo).convert("P")
    image.info["transparency"] = 3
    for exif_rotation in (True, False):
        Preparation(INPUT, exif_rotation=exif_rotation)(image)
    assert (image.mode, image.info["transparency"]) == ("P", 3)


def test_a_video_becomes_the_views_of_evaluation(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", frames=13)
    videos = VideoFiles([path], [0], ["a"])
    videos.set_evaluation(CLIPS)
    prepare = Preparation(CLIPS)
    views = prepare.list_views(path)
    assert views.shape == (6, 3, 4, 24, 40)
    assert torch.equal(views, torch.stack([videos[index][0] for index in range(6)]))
    videos.set_evaluation({**CLIPS, "views": 1, "crops": 1})
    assert torch.equal(prepare(path), videos[0][0])
    whole = decode_clip(path, range(13))
    assert torch.equal(prepare.list_views(whole), views)


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", frames=9)
    frames = decode_clip(path, range(9))
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    assert torch.equal(Preparation(CLIPS).list_views(tmp_path / "frames"), Preparation(CLIPS).list_views(frames))
    (tmp_path / "none").mkdir()
    for folder, cause in ((tmp_path / "none", "a folder without images"), (tmp_path / "nowhere", "FileNotFound")):
        with pytest.raises(ImageDecodeError, match=cause):
            Preparation(CLIPS)(folder)


@pytest.mark.parametrize("sampling", ["dense", "segments", "seconds"])
def test_as_many_frames_as_the_model_takes_are_the_clip_itself(sampling: str) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 24, 40, 3), dtype=np.uint8)
    settings = {**CLIPS, "sampling": sampling, "clip_seconds": 2, "crop_pct": 1.0, "crops": 1}
    prepare = Preparation(settings)
    mean, std = (torch.tensor(CLIPS[key])[:, None, None, None] for key in ("mean", "std"))
    expected = (torch.from_numpy(clip).permute(3, 0, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(prepare(clip), expected)
    torch.testing.assert_close(prepare.list_views(clip), expected[None])
    if sampling == "seconds":
        with pytest.raises(ValueError, match="does not say when its frames are shown: give the 4 frames"):
            prepare(np.concatenate([clip, clip]))


def test_views_are_averaged_as_recorded() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert torch.equal(Preparation(CLIPS).average(logits), torch.tensor([1.0, 0.0]))
    averaged = Preparation({**CLIPS, "view_average": "probabilities"}).average(logits)
    torch.testing.assert_close(averaged.softmax(0), logits.softmax(1).mean(0))
    one = Preparation({**CLIPS, "view_average": "probabilities"}).average(logits[:1])
    assert torch.equal(one, logits[0]), "a single view keeps its logits"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_answered_as_everywhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.jpg"
    end = MAKERS[name](path)
    assert not isinstance(end, Picture)
    with pytest.raises(ImageDecodeError, match=end) as caught:
        Preparation(INPUT)(path)
    assert caught.value.path == str(path)


def test_bytes_and_opened_images_that_are_damaged_are_answered_likewise(photo: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.png"
    half.write_bytes(photo.read_bytes()[:3000])
    for item in (half.read_bytes(), Image.open(half), b"", b"GIF89a"):
        with pytest.raises(ImageDecodeError):
            Preparation(INPUT)(item)
    with pytest.raises(ImageDecodeError, match="2,257 pixels, wanted at most max_pixels=2,000"):
        Preparation(INPUT, max_pixels=2000)(Image.open(photo))
    with pytest.raises(ImageDecodeError, match="more than max_pixels=1,000"):
        Preparation(INPUT, max_pixels=1000)(photo.read_bytes())


@pytest.mark.parametrize(
    ("settings", "item", "error"),
    [
        (INPUT, np.zeros((4, 4, 3)), r"got float64 4 4 3; multiply values of 0 to 1 by 255"),
        (INPUT, np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 2 4 4 3; clips T H W 3 are for models of clips"),
        (INPUT, np.zeros((0, 4, 3), np.uint8), r"got uint8 0 4 3"),
        (INPUT, np.zeros((3, 5, 5), np.uint8), r"got uint8 3 5 5"),
        (INPUT, torch.zeros(3, 4, 4), r"got Tensor; pass a tensor to the model"),
        (INPUT, None, r"got NoneType"),
        (CLIPS, np.zeros((4, 4, 3), np.uint8), r"a clip is an array uint8 T H W 3, got uint8 4 4 3"),
        (CLIPS, b"", r"wanted a path of a video or an array T H W 3, got bytes"),
    ],
)
def test_what_shows_nothing_is_refused_in_words(settings: dict[str, Any], item: Any, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        Preparation(settings)(item)


def test_a_model_brings_its_settings_along(photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = vp.create_backbone(NAME, img_size=(24, 40), num_classes=2, patch_size=8, **TINY)
    vp.attach(model, vp.LoRA(rank=1))
    own = Preparation.of(model).settings
    assert (own["size"], own["resize"], own["interpolation"]) == ((24, 40), "squash", "bicubic")
    vp.save_adapter(model, tmp_path / "adapter", input_config=INPUT)
    loaded = vp.load(tmp_path / "adapter", device="cpu")
    assert torch.equal(Preparation.of(loaded)(photo), Preparation(INPUT)(photo))
