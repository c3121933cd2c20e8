"""Which images of a folder are the frames of a video, and in which order."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.data.decoding.frame_folders import decode_frame_folder, list_frames
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.inference.predict_files import Videos
from vision_peft.inference.prepare import _open_path

MakeImage = Callable[..., Path]


def touch(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.JPG", "10.png"],
        ["v_Run_g01_c02_0009.jpg", "v_Run_g01_c02_0010.jpg"],
        ["scene1_0002.jpg", "scene2_0001.jpg"],
        ["frame_1_t0.033.jpg", "frame_2_t0.066.jpg"],
        ["a.jpg", "b.jpg", "c d.jpg"],  # no numbers: by name
    ],
)
def test_names_that_differ_in_their_numbers_or_have_none_are_frames(tmp_path: Path, names: list[str]) -> None:
    assert list_frames(touch(tmp_path / "video", *reversed(names))) == names


def test_hidden_images_and_other_files_are_no_frames(tmp_path: Path) -> None:
    folder = touch(tmp_path / "video", "._img_1.jpg", ".img_2.jpg", "img_1.jpg", "img_2.jpg", "list.txt")
    assert list_frames(folder) == ["img_1.jpg", "img_2.jpg"]
    assert list_frames(folder, "*") == ["img_1.jpg", "img_2.jpg"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["img_1.jpg", "flow_x_1.jpg", "flow_x_2.jpg"], r"named in 2 ways \(2 flow_x_#, 1 img_#\): wanted one"),
        (["1.jpg", "2.jpg", "cover.jpg"], r"named in 2 ways \(2 #, 1 cover\)"),
        (
            [f"{letter}1.jpg" for letter in "abcdef"],
            r"in 6 ways \(1 [a-f]#, 1 [a-f]#, 1 [a-f]#, 1 [a-f]# and 2 others\)",
        ),
        (["img_1.jpg", "img_2.jpg", "img_2.png"], r"img_2\.jpg and img_2\.png are the same frame by their numbers"),
        (["img_1.jpg", "img_01.jpg"], "are the same frame by their numbers: wanted one of them"),
    ],
)
def test_images_that_are_not_frames_of_one_video_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    folder = touch(tmp_path / "video", *names)
    with pytest.raises(ValueError, match=said):
        list_frames(folder)
    with pytest.raises(ImageDecodeError, match=said):
        decode_frame_folder(folder, 1, lambda _: [0])
    with pytest.raises(ImageDecodeError, match=said):  # vision-peft predict
        Videos([folder]).frames(0, lambda _: [0])
    with pytest.raises(ImageDecodeError, match=said):
        _open_path(Path(folder))
    assert len(list_frames(folder, "*")) == len(names)


def test_a_pattern_chooses_the_frames(tmp_path: Path, make_image: MakeImage) -> None:
    for number in range(3):
        make_image(tmp_path / f"img_{number}.png", value=number)
        make_image(tmp_path / f"flow_{number}.png", value=9)
    frames = decode_frame_folder(str(tmp_path), 3, range, "img_*.png")
    assert frames[:, 0, 0, 0].tolist() == [0, 1, 2]
