"""Training on clips: what a run records, views put together, mixing, and what does not fit together."""

import dataclasses
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.pair import in_two_processes
from support.tiny_clips import CLASSES, CPU, ColourData, ColourVideos, clips_config, evaluate_share, tiny_video_model
from timm.data.mixup import Mixup
from torch import Tensor

from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError
from vision_peft.config.run_id import run_folder
from vision_peft.config.schema import Recipe
from vision_peft.data import DATASETS
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.formats import read_adapter_info
from vision_peft.tasks.classes import Classes
from vision_peft.training.build import create_model, input_settings, load_splits, set_transforms
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.evaluation import evaluate
from vision_peft.training.report import flops_forward
from vision_peft.training.step import apply_mixup
from vision_peft.training.trained import train
from vision_peft.training.video_logits import VideoLogits

SHORTEST = "recipe.resize=shortest"


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, ColourData.name, ColourData)


@pytest.mark.parametrize("tubelet_size", ["2", "null"])
def test_a_run_on_clips_records_frames_and_views_and_is_evaluated_again_alike(
    tmp_path: Path, tubelet_size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ["recipe.views=2", "recipe.crops=3", "recipe.augment=multi_scale", "recipe.mixup=0.8"]
    config = clips_config(tmp_path, f"backbone.tubelet_size={tubelet_size}", SHORTEST, *views)
    row = train(config).row
    assert (row.num_frames, row.views) == (4, 6)
    assert (row.n_train, row.n_val, row.n_test) == (16, 6, 11)
    assert "3 classes, videos (4 frames, spread over the video, test 2 views x 3 crops): train 16, val 6, test 11" in (
        capsys.readouterr().out
    )
    folder = run_folder(config)
    assert "-32px-4frames" in str(folder)
    recorded = json.loads((folder / "adapter" / "adapter.json").read_text())["input"]
    assert recorded["num_frames"] == 4
    assert recorded["tubelet_size"] == (2 if tubelet_size == "2" else None)
    assert (recorded["sampling"], recorded["views"], recorded["crops"]) == ("segments", 2, 3)
    again = evaluate_saved(folder, []).metrics
    assert (again.top1, again.images, again.views) == (row.top1, 11, 6)
    assert evaluate_saved(folder, ["split=val", "views=1", "crops=1"]).metrics.top1 == row.val_top1
    assert train(dataclasses.replace(config, overwrite=True)).row.curve == row.curve


def test_the_recipe_says_what_of_the_views_is_averaged(tmp_path: Path) -> None:
    config = clips_config(tmp_path, SHORTEST, "recipe.crops=3", "recipe.view_average=probabilities")
    row, folder = (found := train(config)).row, found.folder
    assert read_adapter_info(folder / "adapter").input["view_average"] == "probabilities"  # type: ignore[index]
    again = evaluate_saved(folder).metrics
    assert again.top1 == row.top1
    model, test = found.model, load_splits(config)["test"]
    test.set_evaluation(input_settings(model, config.recipe))
    answers = torch.stack([model(clip[None])[0].softmax(0) for clip, _ in (test[item] for item in range(len(test)))])
    means, labels = answers.view(11, 3, -1).mean(1), torch.tensor(test.labels[::3])
    assert again.loss == pytest.approx(F.nll_loss(means.log(), labels).item(), rel=1e-5)


def test_training_is_tried_on_one_batch_of_clips(tmp_path: Path) -> None:
    train(clips_config(tmp_path / "runs", "dry_run=true", "recipe.repeated_augmentation=2"))
    assert not (tmp_path / "runs").exists()


def test_a_part_of_videos_holds_the_videos_that_its_items_show() -> None:
    videos = ColourVideos(5)
    part = videos.first(2)
    assert (len(part), part.labels, part.path(1)) == (2, [0, 1], videos.path(1))
    assert (len(videos), len(videos.first(9))) == (5, 5)


def test_test_has_all_views_and_val_one_and_training_one_from_a_random_place(tmp_path: Path) -> None:
    config = clips_config(tmp_path, SHORTEST, "recipe.views=2", "recipe.crops=3", "recipe.sampling=dense")
    splits = load_splits(config)
    settings = input_settings(create_model(config.backbone, 0), config.recipe)
    set_transforms(splits, settings, config.recipe)
    assert {name: len(dataset) for name, dataset in splits.items()} == {"train": 16, "val": 6, "test": 66}
    clips = {name: (dataset.clips, dataset.training) for name, dataset in splits.items()}  # type: ignore[attr-defined]
    once = ClipSampling(4, stride=4, mode="dense")
    assert clips["train"] == (once, True)
    assert clips["val"] == (once, False)
    assert clips["test"] == (dataclasses.replace(once, views=2, crops=3), False)
    clip, label = splits["test"][13]
    assert (clip.shape, clip.dtype, label) == ((3, 4, 32, 32), torch.float32, 2)
    settings_alone = {**settings, "views": 1, "crops": 1}
    splits["test"].set_evaluation(settings_alone)
    assert len(splits["test"]) == 11


def test_videos_and_images_want_a_backbone_of_their_own(tmp_path: Path) -> None:
    config = clips_config(tmp_path, "backbone.num_frames=null", "backbone.tubelet_size=null")
    with pytest.raises(ValueError, match=r"data=colour_videos holds videos, .* give backbone.num_frames=8"):
        train(config)
    config = dataclasses.replace(clips_config(tmp_path), data=Digits())
    with pytest.raises(ValueError, match=r"data=digits holds images, .* give backbone.num_frames=null"):
        train(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.tubelet_size=2"], "tubelet_size 2 is for clips: it needs num_frames"),
        (["backbone.num_frames=5", "backbone.tubelet_size=2"], "num_frames 5 must be a multiple of tubelet_size 2"),
        (["backbone.num_frames=0"], "num_frames must be at least 1"),
        (["recipe.views=4"], r"recipe.views=4 and recipe.crops=1 are for clips: give backbone.num_frames"),
        (["recipe.crops=3", "backbone.num_frames=4"], "3 crops need resize=shortest"),
        (["recipe.augment=multi_scale"], "recipe.augment=multi_scale is not for single images"),
        (
            ["recipe.augment=random_crop_flip", SHORTEST, "backbone.num_frames=4"],
            "is not for clips: there are none, ",
        ),
        (["recipe.sampling=dens"], "sampling must be one of segments, dense"),
        (["recipe.repeated_augmentation=3", "recipe.batch_size=8"], "must be a multiple of repeated_augmentation 3"),
    ],
)
def test_settings_of_clips_that_do_not_fit_are_refused_before_anything_is_read(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(overrides)


def test_the_pasted_share_of_cutmix_is_the_share_of_the_label() -> None:
    clips = torch.arange(6.0).view(6, 1, 1, 1, 1).expand(6, 3, 8, 20, 30).contiguous()
    labels = torch.arange(6)
    for seed in range(5):
        torch.manual_seed(seed)
        import numpy as np

        np.random.seed(seed)
        mix = Mixup(mixup_alpha=0, cutmix_alpha=1.0, label_smoothing=0, num_classes=6)
        out, targets = apply_mixup(mix, clips.clone(), labels)
        assert out.shape == clips.shape
        for index in range(6):
            own = (out[index] == index).float()
            torch.testing.assert_close(own.mean(), targets[index, index])
            assert torch.equal(own, own[:1, :1].expand_as(own))  # the same box in all frames and channels


def test_mixing_leaves_images_as_they_were_mixed_and_an_odd_one_out() -> None:
    import numpy as np

    images, labels = torch.rand(5, 3, 8, 8), torch.arange(5)
    np.random.seed(0)
    expected = Mixup(0.8, 0.0, label_smoothing=0, num_classes=5)(images[:4].clone(), labels[:4])
    np.random.seed(0)
    found = apply_mixup(Mixup(0.8, 0.0, label_smoothing=0, num_classes=5), images.clone(), labels)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_batch_holds_every_video_as_often_as_it_is_repeated_with_other_draws() -> None:
    videos = ColourVideos(10)
    set_transforms({"train": videos}, input_settings(tiny_video_model(), Recipe()), Recipe(augment="crop"))
    loader = TrainLoader(videos, 8, seed=0, workers=0, repeated_augmentation=2)
    assert loader.batches_per_epoch == 2
    clips, labels, indices = next(loader.epoch(0))
    assert indices[::2].tolist() == indices[1::2].tolist()
    assert len(set(indices.tolist())) == 4
    assert torch.equal(labels, indices % 3)
    long = [place for place in range(0, 8, 2) if indices[place] % 5 != 4]  # the others are one frame
    assert all(not torch.equal(clips[place], clips[place + 1]) for place in long)
    once = TrainLoader(videos, 4, seed=0, workers=0).epoch(0)
    assert torch.equal(next(once)[0], clips[::2])


def test_the_logits_of_a_video_are_the_mean_of_its_views_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, order = torch.randn(24, 5, generator=generator) * 30, torch.randperm(24, generator=generator)
    labels = torch.arange(24) // 6
    forward, shuffled = VideoLogits(lambda index: index // 6), VideoLogits(lambda index: index // 6)
    forward.add(logits, labels, torch.arange(24))
    for part in order.split(5):
        shuffled.add(logits[part], labels[part], part)
    videos, means, found = forward.mean_logits()
    assert (videos, found.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3])
    torch.testing.assert_close(means, logits.view(4, 6, 5).mean(1))
    assert torch.equal(shuffled.mean_logits()[1], means)


@pytest.mark.parametrize("damaged", [pytest.param((), marks=pytest.mark.slow), (4, 7)])
def test_one_and_two_processes_find_the_same_logits_and_metrics_of_eleven_videos(
    tmp_path: Path, damaged: tuple[int, ...]
) -> None:
    alone = evaluate_share(0, tmp_path, damaged)
    shares = [each["given"] for each in in_two_processes(functools.partial(evaluate_share, damaged=damaged), tmp_path)]
    assert alone["videos"] == [video for video in range(11) if video not in damaged]
    assert (alone["metrics"]["images"], alone["metrics"]["bad"]) == (11, len(damaged))
    for share in shares:
        assert torch.equal(share["logits"], alone["logits"])
        assert torch.equal(share["labels"], alone["labels"])
        assert share["videos"] == alone["videos"]
        assert share["metrics"] == alone["metrics"]


def by_hand(videos: ColourVideos, model: Any) -> Tensor:
    """Mean logits of every video, one view at a time."""
    with torch.no_grad():
        logits = torch.cat([model(videos[index][0][None]) for index in range(len(videos))])
    return logits.view(videos.count_sources(), -1, 3).mean(1)


def test_metrics_are_those_of_the_mean_logits_and_an_unreadable_video_is_wrong_and_reported() -> None:
    model, recipe = tiny_video_model(), Recipe(resize="shortest", views=2, crops=2)
    whole, videos = ColourVideos(11), ColourVideos(11, damaged=[3])
    for dataset in (whole, videos):
        dataset.set_evaluation(input_settings(model, recipe))
    logits, labels = by_hand(whole, model), torch.arange(11) % 3
    right = logits.argmax(1) == labels
    metrics = evaluate(model, eval_loader(whole, 16, 0), Classes(CLASSES), CPU)
    assert metrics.top1 == pytest.approx(100 * right.float().mean().item())
    assert metrics.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert sum(map(sum, metrics.confusion or [])) == 11
    assert "(11 videos, 4 views each)" in metrics.describe()
    with pytest.raises(ValueError, match="cannot decode video 0-3: it is damaged; fix the file"):
        evaluate(model, eval_loader(videos, 16, 0), Classes(CLASSES), CPU)
    loader = eval_loader(videos, 16, 0, bad="wrong")
    right[3] = False
    metrics = evaluate(model, loader, Classes(CLASSES), CPU)
    assert (metrics.images, metrics.bad) == (11, 1)
    assert metrics.top1 == pytest.approx(100 * right.float().mean().item())
    assert "1 of them undecodable and counted as wrong" in metrics.describe()
    nothing = ColourVideos(2, damaged=[0, 1])
    nothing.set_evaluation(input_settings(model, recipe))
    with pytest.raises(ValueError, match="none of the 2 videos can be decoded"):
        evaluate(model, eval_loader(nothing, 16, 0, bad="wrong"), Classes(CLASSES), CPU)


def test_a_run_lists_an_unreadable_test_video_once(tmp_path: Path) -> None:
    config = clips_config(tmp_path, "bad_eval=wrong", "recipe.views=3", damaged=(3,))
    row = train(config).row
    assert (row.n_test, row.n_bad) == (11, 1)
    assert (run_folder(config) / "bad_files.txt").read_text() == "video 4-3\tit is damaged\n"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert evaluate_saved(run_folder(config), []).metrics.bad == 1
    assert sum("video 4-3" in str(warning.message) for warning in caught) == 1


def test_the_operations_of_a_clip_are_those_of_its_frames_where_they_are_encoded_alone(tmp_path: Path) -> None:
    config = clips_config(tmp_path, "backbone.tubelet_size=null")
    clips = create_model(config.backbone, 0)
    image = create_model(dataclasses.replace(config.backbone, num_frames=None), 0)
    cpu = torch.device("cpu")
    assert flops_forward(clips, (32, 32), cpu, 4) == 4 * flops_forward(image, (32, 32), cpu)


@pytest.mark.parametrize("method", ["prompt_tuning method.init=class_labels method.tokens=2", "linear"])
def test_methods_that_look_at_data_first_look_at_clips(tmp_path: Path, method: str) -> None:
    assert train(clips_config(tmp_path, *f"method={method}".split(), "recipe.epochs=1")).row.top1 is not None
