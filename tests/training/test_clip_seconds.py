"""A training on clips by time: uniform views of videos of several lengths, recorded, evaluated again, told."""

from pathlib import Path

import pytest
from support.killed import killed_at
from support.tiny_run import TINY, left_behind
from support.video_files import write_timed, write_video

from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError
from vision_peft.formats import read_adapter_info
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

CLIPS = [*TINY, "backbone.num_frames=4", "backbone.kwargs.num_heads=2", "data=video_list"]


def test_a_run_on_clips_by_time_is_evaluated_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = (24, 30, 12, 9)
    for split in ("train", "val", "test"):
        for number, frames in enumerate(lengths):
            write_video(tmp_path / split / f"{number}.mp4", frames)
        lines = [f"{split}/{number}.mp4 {number % 2}\n" for number in range(4)]
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    write_timed(tmp_path / "train" / "0.mp4", [0, 20, 40, 900, 1000, 1900])
    lists = [f"data.{split}={split}.txt" for split in ("train", "val", "test")]
    times = ["recipe.sampling=seconds", "recipe.clip_seconds=1", "recipe.views=uniform", "recipe.batch_size=4"]
    config = compose_config([*CLIPS, *lists, *times, f"data.root={tmp_path}", f"output_dir={tmp_path / 'runs'}"])
    done = train(config)
    shown = capsys.readouterr().out
    assert "4 frames, spread over 1 s, test uniform views x 1 crops" in shown
    assert f"train: 1 of 4 videos looked at are shorter than a clip of 1 s (the shortest: {tmp_path}" in shown
    assert done.row.views == 2  # 2, 3, 1 and 1
    found = evaluate_saved(done.folder).metrics
    assert (found.top1, found.views) == (done.row.top1, 7 / 4)
    recorded = read_adapter_info(done.folder / "adapter").input or {}
    assert [recorded[key] for key in ("sampling", "clip_seconds", "views")] == ["seconds", 1, "uniform"]
    assert evaluate_saved(done.folder, ["views=2"]).metrics.views == 2
    assert done.row.settings is not None
    assert (done.row.settings["recipe.clip_seconds"], done.row.settings["recipe.views"]) == (1, "uniform")


def test_a_killed_run_on_clips_by_time_resumes_bit_for_bit(tmp_path: Path) -> None:
    """One of its videos says only when it is decoded how many frames it has, and when they are shown."""
    for number, name in enumerate(("0.mp4", "1.avi", "2.mp4", "3.mkv", "4.avi", "5.mp4")):
        write_video(tmp_path / name, 20 + number, "mpeg4" if name.endswith("avi") else "libx264")
    write_timed(tmp_path / "2.mp4", [0, 20, 40, 900, 1000, 1900])
    (tmp_path / "train.txt").write_text("0.mp4 0\n1.avi 1\n2.mp4 0\n3.mkv 1\n")
    (tmp_path / "test.txt").write_text("4.avi 0\n5.mp4 1\n")
    lists = ["data.train=train.txt", "data.val=test.txt", f"data.root={tmp_path}", "read_test=false", "save_every=1"]
    times = ["recipe.sampling=seconds", "recipe.clip_seconds=0.7", "recipe.batch_size=2", "cache_mb=0"]
    whole, killed = (
        compose_config([*CLIPS, *lists, *times, f"output_dir={tmp_path / name}"]) for name in ("whole", "killed")
    )
    done = train(whole)
    killed_at((3, 0), killed)
    assert left_behind(train(killed).folder) == left_behind(done.folder)


def test_a_probe_on_clips_of_the_middle_runs_the_backbone_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        write_video(tmp_path / f"{number}.mp4", 9 + number)
    for split, numbers in {"train": (0, 1, 2), "val": (3, 4), "test": (5, 6)}.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{number}.mp4 {number % 2}\n" for number in numbers))
    lists = [f"data.{split}={split}.txt" for split in ("train", "val", "test")]
    probe = [*CLIPS, *lists, f"data.root={tmp_path}", "method=linear", "recipe.clip_place=middle", "recipe.epochs=3"]
    curves = []
    for words in ([], ["reuse_features=false"]):
        done = train(compose_config([*probe, *words, f"output_dir={tmp_path / f'runs{len(words)}'}"]))
        curves.append([(epoch["train_loss"], epoch["val_loss"]) for epoch in done.row.curve])
    assert capsys.readouterr().out.count("the features of 5 images were computed once") == 1
    assert curves[0] == [pytest.approx(losses, abs=1e-6) for losses in curves[1]]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["recipe.sampling=seconds"], r"recipe\.sampling=seconds needs the duration of a clip"),
        (["recipe.clip_seconds=2"], r"recipe\.clip_seconds=2 is for sampling=seconds, got sampling=segments"),
        (["recipe.sampling=seconds", "recipe.clip_seconds=0"], r"recipe\.clip_seconds must be above 0, got 0"),
        (["recipe.views=uniform"], r"recipe\.views=uniform \(clips end to end\) needs sampling=seconds"),
        (["recipe.views=all"], r"recipe\.views must be a whole number from 1, or uniform; got 'all'"),
        (["recipe.views=0"], r"recipe\.views must be at least 1, got 0"),
    ],
)
def test_keys_that_do_not_belong_together_are_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        compose_config([*CLIPS, "data.root=.", "data.train=train.txt", *words])
