"""List files of videos as VideoMAE, AdaptFormer and mmaction2 have them, and what may be wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.video_files import write_audio, write_video

from vision_peft.data.annotations.split_lists import read_list_lines
from vision_peft.data.datasets.video_list import VideoLists
from vision_peft.data.decoding.clip_sampling import ClipSampling
from vision_peft.data.decoding.video_dataset import VideoFiles

MakeImage = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage) -> Path:
    """Videos `a0.mp4` to `a9.mp4` and one with spaces, and folders `f0` to `f9` of six frames each."""
    folder = tmp_path / "root"
    (folder / "clips").mkdir(parents=True)
    for number in range(10):
        (folder / "clips" / f"a{number}.mp4").write_bytes(b"video")
        for frame in range(6):
            make_image(folder / "frames" / f"f{number} x" / f"img_{frame + 1:05d}.png", value=10 * number + frame)
    (folder / "clips" / "two words 3.mp4").write_bytes(b"video")
    return folder


def write(root: Path, name: str, *lines: str) -> None:
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def load(root: Path, split: str, **fields: Any) -> VideoFiles:
    dataset = VideoLists(root=str(root), **{"train": "train.csv", **fields}).load(split)
    assert isinstance(dataset, VideoFiles)
    return dataset


def problems(root: Path, **fields: Any) -> list[str]:
    with pytest.raises(ValueError, match="data=video_list") as caught:
        load(root, "train", **fields)
    first, *lines = str(caught.value).split("\n")
    assert f"{len(lines)} problem" in first
    return [line.strip().replace(f"{root}/", "") for line in lines]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train.csv", ["clips/a1.mp4 0", "clips/two words 3.mp4 1", "clips/a2.mp4 0"]),  # VideoMAE, AdaptFormer
        ("train.csv", ["clips/a1.mp4,0", "clips/two words 3.mp4,1", "clips/a2.mp4,0"]),
        ("train.csv", ["path,label", "clips/a1.mp4,0", "clips/two words 3.mp4,1", "clips/a2.mp4,0"]),
        ("train.txt", ["clips/a1.mp4 0", "clips/two words 3.mp4 1", "", "clips/a2.mp4 0"]),  # mmaction2
    ],
)
def test_the_usual_lists_say_the_same(root: Path, name: str, lines: list[str]) -> None:
    write(root, name, *lines)
    both = load(root, "trainval", train=name)
    found = {(Path(path).name, label) for path, label in zip(both.paths, both.labels, strict=True)}
    assert found == {("a1.mp4", 0), ("two words 3.mp4", 1), ("a2.mp4", 0)}
    assert both.classes == ["0", "1"]


def test_folders_of_frames_are_read_by_their_number_of_frames(root: Path) -> None:
    write(root, "train.txt", *[f"frames/f{number} x {5 if number else 4} {number % 2}" for number in range(8)])
    write(root, "test.txt", "frames/f8 x 6 0", "frames/f9 x 1 1")
    more = r"frames are left out in 9 of the folders: 'frames/f0 x' holds 6 images, the list says 4 frames"
    with pytest.warns(UserWarning, match=more):
        test = load(root, "test", train="train.txt", test="test.txt", raw_frames=True)
    test.clips = ClipSampling(4, 2)
    assert test.clip(0)[:, 0, 0, 0].tolist() == [80, 82, 84, 85]
    assert test.clip(1)[:, 0, 0, 0].tolist() == [90] * 4
    assert test.path(1).endswith("frames/f9 x")
    with pytest.warns(UserWarning, match="frames are left out in 8 of the folders"):
        assert len(load(root, "train", train="train.txt", raw_frames=True)) == 6


def test_frames_beside_those_of_flow_are_those_that_a_pattern_names(root: Path, make_image: MakeImage) -> None:
    for folder in (root / "frames").iterdir():
        for frame in range(6):
            for kind in ("flow_x", "flow_y"):
                make_image(folder / f"{kind}_{frame + 1:05d}.png", value=128)
            (folder / f"._img_{frame + 1:05d}.png").write_bytes(b"of another system")
    write(root, "train.txt", *[f"frames/f{number} x 6 {number % 2}" for number in range(8)])
    found = problems(root, train="train.txt", raw_frames=True)
    assert len(found) == 8
    assert found[0] == (
        "train.txt:1: folder 'frames/f0 x': its images are named in 3 ways (6 flow_x_#, 6 flow_y_#, 6 img_#): wanted "
        "one, that of the frames; data.frame_names=img_*.jpg says which images are frames"
    )
    for pattern, values in (("img_*.png", [0, 1, 2, 3, 4, 5]), ("flow_x_*", [128] * 6)):
        both = load(root, "trainval", train="train.txt", raw_frames=True, frame_names=pattern)
        both.clips = ClipSampling(6)
        first = both.paths.index(str(root / "frames" / "f0 x"))
        assert both.clip(first)[:, 0, 0, 0].tolist() == values
    assert problems(root, train="train.txt", raw_frames=True, frame_names="img_*.jpg")[0] == (
        "train.txt:1: folder 'frames/f0 x' holds 0 images named img_*.jpg, the list says 6 frames"
    )
    with pytest.raises(ValueError, match=r"data\.frame_names .* needs data\.raw_frames=true"):
        VideoLists(frame_names="img_*.jpg")


def test_the_official_validation_list_of_ssv2_has_24777_lines(shared: Path) -> None:
    found: list[str] = []
    entries = read_list_lines(shared / "data" / "splits" / "ssv2" / "val.csv", found)
    assert found == []
    assert len(entries.paths) == 24_777
    assert sorted(map(int, entries.texts)) == list(range(174))
    assert entries.paths[0].endswith("20bn-something-something-v2/74225.mp4")


def test_all_problems_are_told_at_once_with_file_and_line(root: Path) -> None:
    (root / "clips" / "a5.mp4").write_bytes(b"")
    write_audio(root / "clips" / "a3.mp4")
    write(root, "train.csv", "clips/a1.mp4 0", "clips/gone.mp4 1", "clips/a5.mp4 1", "clips/a2.mp4 2", "clips/a3.mp4 x")
    write(root, "test.csv", "clips/a1.mp4 0", "clips/a4.mp4 7", "/etc/passwd 0", "frames/f1 x 0", "frames/f1 x 5 1")
    write(root, "classes.txt", "walk", "run")
    assert problems(root, test="test.csv", classes="classes.txt") == [
        "train.csv:2: video 'clips/gone.mp4' is missing",
        "train.csv:3: video 'clips/a5.mp4' is empty (0 bytes)",
        "train.csv:4: label 2 is out of range: wanted 0 to 1",
        "train.csv:5: label 'x' is not an integer",
        "train.csv:5: video 'clips/a3.mp4' has sound but no pictures",
        "test.csv:1: video 'clips/a1.mp4' is also in train.csv:1",
        "test.csv:2: label 7 is out of range: wanted 0 to 1",
        f"test.csv:3: path '/etc/passwd' is absolute: wanted a path below {root} (data.allow_absolute=true lets it)",
        "test.csv:4: video 'frames/f1 x' is missing; there is a folder: data.raw_frames=true reads lines "
        "'<folder> <frames> <label>'",
        "test.csv:5: video 'frames/f1 x 5' is missing; there is a folder: data.raw_frames=true reads lines "
        "'<folder> <frames> <label>'",
    ]


def test_problems_of_folders_are_told_too(root: Path) -> None:
    write(root, "train.txt", "frames/f1 x 6 0", "frames/f2 x 7 1", "frames/f0 6 1", "frames/f3 x 0 1", "frames/f4 1")
    write(root, "test.txt", "frames/f1 x 5 0", "frames/../../root/frames/f5 x 6 1", "../root 6 1")
    assert problems(root, train="train.txt", test="test.txt", raw_frames=True) == [
        "train.txt:2: folder 'frames/f2 x' holds 6 images, the list says 7 frames",
        "train.txt:3: folder 'frames/f0' is missing",
        "train.txt:4: wanted '<folder> <frames> <label>' with one frame or more, got folder and frames 'frames/f3 x 0'",
        "train.txt:5: wanted '<folder> <frames> <label>' with one frame or more, got folder and frames 'frames/f4'",
        "test.txt:1: video 'frames/f1 x 5' is also in train.txt:1",
        f"test.txt:3: path '../root 6' leads out of {root} (data.allow_absolute=true lets it)",
    ]


def test_absolute_paths_are_read_where_that_is_allowed(root: Path, tmp_path: Path) -> None:
    outside = write_video(tmp_path / "other place" / "clip 1.avi", 10, "mpeg4")
    write(root, "train.csv", f"{outside} 0", "clips/a1.mp4 1")
    train = load(root, "trainval", allow_absolute=True)
    train.clips = ClipSampling(4)
    index = train.paths.index(str(outside))
    assert train.clip(index).shape == (4, 3, 48, 64)


def test_missing_lists_and_wrong_fields_are_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"list of the training videos: give data\.train=FILE"):
        load(root, "train", train=None)
    write(root, "train.csv", "clips/a1.mp4 0", "clips/a2.mp4 1")
    with pytest.raises(FileNotFoundError, match=r"no test videos: give data\.test=FILE"):
        load(root, "test")
    with pytest.raises(ValueError, match=r"data\.val_fraction"):
        VideoLists(val_fraction=0)
    write(root, "train.csv", "clips/a1.mp4 0", "clips/a2.mp4 2")
    with pytest.warns(UserWarning, match="1 of 3 classes have no training video: 1"):
        load(root, "trainval")
