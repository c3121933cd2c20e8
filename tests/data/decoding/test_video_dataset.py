"""Datasets of clips: views and their labels, random places, folders of frames, videos kept decoded, damaged files."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.video_files import reference, write_video

from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.frame_folders import list_frames
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.decoding.video import decode_all
from vision_peft.data.decoding.video_backends import check_backend
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.data.loading.loader import TrainLoader, eval_loader

MakeImage = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate((20, 12, 3)):
        write_video(folder / f"{number}.mp4", frames, size=(64, 48))
    return folder


def videos(folder: Path, training: bool = False, clips: ClipSampling | None = None) -> VideoFiles:
    dataset = VideoFiles([folder / f"{number}.mp4" for number in range(3)], [1, 0, 1], ["walk", "run"])
    dataset.clips = clips or ClipSampling(4, 2)
    dataset.training = training
    dataset.transform = as_float  # pyright: ignore[reportAttributeAccessIssue]
    return dataset


def as_float(clip: torch.Tensor, crop: int) -> torch.Tensor:
    """A stand-in for a transform that writes the crop into a corner."""
    clip = clip.permute(1, 0, 2, 3).float()
    clip[0, 0, 0, 0] = crop
    return clip


def test_a_training_item_is_a_clip_of_one_video(folder: Path) -> None:
    dataset = videos(folder, training=True, clips=ClipSampling(4, 2, views=3, crops=2))
    assert (len(dataset), dataset.labels, dataset.first_item(2)) == (3, [1, 0, 1], 2)
    torch.manual_seed(0)
    drawn = dataset.clips.draw()
    torch.manual_seed(0)
    clip = dataset.clip(1)
    assert (clip.dtype, clip.shape) == (torch.uint8, (4, 3, 48, 64))
    wanted = reference(folder / "1.mp4")[dataset.clips.train(12, drawn)]
    assert np.array_equal(clip.permute(0, 2, 3, 1).numpy(), wanted)
    assert dataset[1][1] == 0
    assert dataset[1][0].shape == (3, 4, 48, 64)


def test_in_evaluation_every_video_has_its_views_in_time_and_space_one_after_another(folder: Path) -> None:
    dataset = videos(folder, clips=ClipSampling(4, 2, views=3, crops=2))
    assert len(dataset) == 18
    assert dataset.labels == [1] * 6 + [0] * 6 + [1] * 6
    assert [dataset.source_of(index) for index in range(18)] == [0] * 6 + [1] * 6 + [2] * 6
    assert dataset.path(17) == str(folder / "2.mp4")
    frames = reference(folder / "0.mp4")
    starts = [0, 0, 6, 6, 13, 13]  # the last start is 19 - 3 * 2
    for index, start in enumerate(starts):
        clip, label = dataset[index]
        assert (label, clip[0, 0, 0, 0]) == (1, index % 2)
        assert np.array_equal(dataset.clip(index).permute(0, 2, 3, 1).numpy(), frames[start : start + 7 : 2])
    short = reference(folder / "2.mp4")
    assert np.array_equal(dataset.clip(12).permute(0, 2, 3, 1).numpy(), short[[0, 2, 2, 2]])
    dataset.training = True
    assert dataset.labels == [1, 0, 1]


def test_a_video_stands_as_a_picture_of_four_of_its_frames(folder: Path) -> None:
    picture = videos(folder).image(0)
    assert picture.size == (2 * 64, 2 * 48)
    assert np.array_equal(np.asarray(picture)[:48, 64:], reference(folder / "0.mp4")[7])


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_same_clips_with_any_number_of_workers(folder: Path, workers: int) -> None:
    train = TrainLoader(videos(folder, training=True), 3, seed=5, workers=workers)
    clips, labels, indices = next(train.epoch(1))
    again, *_ = next(TrainLoader(videos(folder, training=True), 3, seed=5, workers=0).epoch(1))
    other, *_ = next(TrainLoader(videos(folder, training=True), 3, seed=6, workers=0).epoch(1))
    assert clips.shape == (3, 3, 4, 48, 64)
    assert sorted(zip(indices.tolist(), labels.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 1)]
    assert torch.equal(clips, again)
    assert not torch.equal(clips, other)
    dataset = videos(folder, clips=ClipSampling(4, 2, views=2))
    batches = list(eval_loader(dataset, 4, workers))
    assert torch.cat([indices for *_, indices in batches]).tolist() == list(range(6))
    assert torch.equal(torch.cat([clips for clips, *_ in batches]), torch.stack([dataset[i][0] for i in range(6)]))


def test_a_damaged_video_is_replaced_in_training_and_all_its_views_are_missing_in_evaluation(folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no video at all")
    dataset = VideoFiles([folder / "0.mp4", folder / "bad.mp4"], [0, 1], ["walk", "run"])
    dataset.clips, dataset.transform = ClipSampling(4, views=2), as_float  # pyright: ignore[reportAttributeAccessIssue]
    bad = BadFiles()
    loader = eval_loader(dataset, 4, 0, bad="wrong", bad_files=bad)
    assert [indices.tolist() for *_, indices in loader] == [[0, 1]]
    assert loader.unreadable == [2, 3]
    assert list(bad.causes) == [str(folder / "bad.mp4")]
    with pytest.raises(ImageDecodeError, match="bad_eval=wrong"):
        list(eval_loader(dataset, 4, 0))
    dataset.training = True
    bad = BadFiles()
    loader = TrainLoader(dataset, 2, seed=0, workers=0, max_bad_fraction=0.5, bad_files=bad)
    _, labels, indices = next(loader.epoch(0))
    assert (labels.tolist(), indices.tolist()) == ([0, 0], [0, 0])
    assert "not a video of a known container" in bad.causes[str(folder / "bad.mp4")]


def test_folders_of_frames_are_videos(tmp_path: Path, make_image: MakeImage) -> None:
    for number in range(12):
        make_image(tmp_path / f"img_{number + 1}.png", value=number)  # 10 comes behind 9
    (tmp_path / "notes.txt").touch()
    assert list_frames(str(tmp_path))[8:11] == ["img_9.png", "img_10.png", "img_11.png"]
    dataset = VideoFiles([tmp_path], [0], ["walk"], frame_counts=[11])
    dataset.clips = ClipSampling(4, 3)
    assert dataset.clip(0)[:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    dataset.clips = ClipSampling(4, 4)
    assert dataset.clip(0)[:, 0, 0, 0].tolist() == [0, 4, 8, 10]
    with pytest.raises(ImageDecodeError, match="12 images, 13 frames were announced"):
        VideoFiles([tmp_path], [0], ["walk"], frame_counts=[13]).clip(0)
    Image.new("RGB", (5, 5)).save(tmp_path / "img_1.png")
    with pytest.raises(ImageDecodeError, match=r"img_1\.png is 5x5 and img_5\.png 12x10: wanted frames of one size"):
        dataset.clip(0)


def test_the_sample_folder_of_frames_is_read(shared: Path) -> None:
    path = shared / "data" / "video_format_samples" / "mmaction2_rawframes"
    dataset = VideoFiles([path], [0], ["walk"], frame_counts=[10])
    dataset.clips = ClipSampling(10)
    for number, frame in enumerate(dataset.clip(0).permute(0, 2, 3, 1).numpy(), start=1):
        assert np.array_equal(frame, np.asarray(Image.open(path / f"img_{number:05d}.jpg")))


def test_videos_that_fit_are_kept_decoded_and_give_the_same_clips(folder: Path) -> None:
    size = (20 + 12 + 3) * 48 * 64 * 3
    plain, kept = videos(folder), videos(folder)
    assert kept.decoded_size() == size
    splits, words = keep_decoded({"train": kept}, ["train"], 1, 2)
    assert splits["train"] is kept
    assert words == "videos are kept decoded: 3 of train, about 1 MB"
    kept.prepare()
    assert kept.store is not None
    assert kept.store.used == size
    kept.paths = TextArray.of([*kept.paths])
    assert all(torch.equal(kept.clip(index), plain.clip(index)) for index in range(3))
    for path in kept.paths:
        assert np.array_equal(kept.store.kept[None, path], reference(Path(path)))
    assert pickle.loads(pickle.dumps(kept)).store.used == 0


@pytest.mark.parametrize("resize", ["squash", "shortest"])
@pytest.mark.parametrize("training", [True, False])
def test_kept_videos_are_as_small_as_they_reach_the_model(folder: Path, training: bool, resize: str) -> None:
    settings = {"size": [16, 12], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": resize}
    settings |= {"crop_pct": 0.8, "num_frames": 4, "frame_stride": 2, "sampling": "dense", "views": 2, "crops": 1}
    plain, kept = videos(folder), videos(folder)
    for dataset in (plain, kept):
        if training:
            dataset.set_training(settings, augment="flip", random_erasing=0.5)
        else:
            dataset.set_evaluation(settings)
    pixels = 16 * 12 if training or resize == "squash" else 20 * 26  # cover: 48x64 scaled to at least 20x15
    assert kept.decoded_size() == 35 * pixels * 3
    assert keep_decoded({"train": kept}, ["train"], 1, 0)[1] == "videos are kept decoded: 3 of train, about 1 MB"
    kept.prepare()
    assert kept.store is not None
    assert kept.store.used == 35 * pixels * 3
    kept.decoder = "none"  # nothing is decoded any more
    for index in range(len(kept)):
        torch.manual_seed(index)
        wanted = plain[index]
        torch.manual_seed(index)
        found = kept[index]
        assert torch.equal(found[0], wanted[0])
        assert found[1] == wanted[1]


def test_with_random_crops_whole_frames_are_kept_and_two_transforms_share_nothing(folder: Path) -> None:
    settings = {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "squash"}
    settings |= {"crop_pct": 1.0, "num_frames": 4, "frame_stride": 2, "sampling": "dense", "views": 1, "crops": 1}
    train, val = videos(folder), videos(folder)
    train.set_training(settings, augment="multi_scale", random_erasing=0.0)
    val.set_evaluation(settings)
    splits = {"train": train, "val": val}
    assert [data.decoded_size() for data in splits.values()] == [35 * 48 * 64 * 3, 35 * 16 * 16 * 3]
    keep_decoded(splits, splits, 1, 0)
    for data in splits.values():
        data.prepare()
    assert train.store is val.store is not None
    assert len(train.store.kept) == 6  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("backend", ["auto", "decord"])
def test_all_frames_in_parts_are_those_of_the_file(folder: Path, backend: str) -> None:
    check_backend(backend)
    parts = [*decode_all(folder / "0.mp4", backend, at_once=8)]
    assert [len(part) for part in parts] == [8, 8, 4]
    assert np.array_equal(np.concatenate(parts), reference(folder / "0.mp4"))


def test_the_picture_of_a_video_is_four_frames_as_near_to_a_square_as_they_can_stand(tmp_path: Path) -> None:
    for size, shape in (((64, 48), (96, 128)), ((128, 32), (128, 128)), ((32, 128), (128, 128))):
        path = write_video(tmp_path / f"{size[0]}.mp4", 16, size=size)
        picture, frames = np.asarray(VideoFiles([path], [0], ["a"]).image(0)), reference(path)[[2, 6, 10, 14]]
        assert picture.shape == (*shape, 3)
        assert np.array_equal(picture[: size[1], : size[0]], frames[0])
        assert np.array_equal(picture[-size[1] :, -size[0] :], frames[3])


def test_videos_that_do_not_fit_are_decoded_every_time(folder: Path) -> None:
    dataset = videos(folder)
    dataset.paths = TextArray.of([*dataset.paths] * 20)
    _, words = keep_decoded({"train": dataset}, ["train"], 1, 0)
    assert words.startswith("videos are decoded in every epoch: 60 of train would take about ")
    assert words.endswith("more than the 1 MB of cache_mb=1")
    assert keep_decoded({"train": dataset}, ["train"], 0, 0)[1] == "videos are decoded in every epoch: cache_mb=0"
    assert dataset.store is None
    dataset = videos(folder)
    dataset.store = Store(30 * 48 * 64 * 3)  # room for 20 frames and for 3, not for 12 more
    dataset.prepare()
    assert list(dataset.store.kept) == [(None, str(folder / "0.mp4"))]
    assert torch.equal(dataset.clip(1), videos(folder).clip(1))
