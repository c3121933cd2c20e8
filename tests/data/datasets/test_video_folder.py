"""Class-folder trees of videos."""

from pathlib import Path

import pytest
from support.video_files import write_video

from vision_peft.data.datasets.folder import Folder
from vision_peft.data.datasets.video_folder import VideoFolder
from vision_peft.data.decoding.video_dataset import VideoFiles


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three videos of two classes, one without an extension, and an image."""
    for name in ("kick/1.mp4", "kick/bare", "wave/2.mp4"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "train" / "made.mp4")
        (tmp_path / "train" / "made.mp4").rename(tmp_path / "train" / name)
    (tmp_path / "train" / "wave" / "cover.jpg").touch()
    return tmp_path


def test_class_folders_of_videos_are_read_as_videos(tree: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 file left out: 1 \.jpg"):
        videos = VideoFolder(root=str(tree)).load("trainval")
    assert isinstance(videos, VideoFiles)
    assert videos.classes == ["kick", "wave"]
    assert sorted((Path(path).name, label) for path, label in zip(videos.paths, videos.labels, strict=True)) == [
        ("1.mp4", 0),
        ("2.mp4", 1),
        ("bare", 0),
    ]
    assert videos[0][0].shape[0] == 1  # T H W C


def test_each_reader_points_to_the_other(tree: Path) -> None:
    (tree / "train" / "wave" / "cover.jpg").unlink()
    with pytest.raises(ValueError, match=r"no images in the class folders, but 2 \.mp4: data=video_folder backbone"):
        Folder(root=str(tree)).load("train")
    for path in tree.glob("train/*/*"):
        path.rename(path.with_suffix(".png"))
    with pytest.raises(ValueError, match=r"no videos in the class folders, but 3 \.png: data=folder reads images"):
        VideoFolder(root=str(tree)).load("train")
