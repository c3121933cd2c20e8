"""What a dataset says about itself to all that read it: images here, videos in `test_video_dataset.py`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.counting import Counting

from vision_peft.data.dataset import ImageDataset, ImageSubset
from vision_peft.data.decoding.arrays import ArrayImages
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.transforms.images import Transform

SETTINGS = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "squash"}
SETTINGS |= {"crop_pct": 1.0, "views": 3, "crops": 2}


def test_of_images_items_are_what_is_counted() -> None:
    dataset = Counting(5)
    assert (dataset.what, dataset.gives_clips, dataset.first_item(2), dataset.varies) == ("image", False, 2, False)
    assert dataset.count_sources() == len(dataset) == 5
    assert [dataset.source_of(index) for index in range(5)] == list(range(5))


def test_a_subset_holds_the_items_asked_for_with_their_labels() -> None:
    part = Counting(7).subset([6, 1])
    assert [part.path(index) for index in range(2)] == ["number 6", "number 1"]
    assert (part.labels, part.classes) == ([0, 1], ["even", "odd"])
    assert part.image(0).getpixel((0, 0)) == (6, 0, 0)
    assert [len(Counting(7).first(size)) for size in (0, 3, 9)] == [0, 3, 7]
    whole = Counting(3)
    assert whole.subset([2]).key(0) == whole.key(2) != Counting(3).key(2)


@pytest.mark.parametrize(
    ("labels", "expected"), [([0], "a label for each image, got 1 of 2"), ([0, 2], "2 is not"), ([-1, 0], "-1 is not")]
)
def test_labels_that_do_not_belong_to_the_images_are_an_error(labels: list[int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ImageFiles(["a.png", "b.png"], labels, ["even", "odd"])


@pytest.mark.parametrize("dataset", [Counting(4), Counting(9).subset([1, 2])], ids=["whole", "part"])
def test_training_augments_and_evaluation_does_not(dataset: ImageDataset) -> None:
    dataset.set_training(SETTINGS, augment="crop_flip", random_erasing=0.0)
    assert isinstance(dataset.transform, Transform)
    assert dataset.transform.fixed is None
    dataset.set_evaluation(SETTINGS)
    assert isinstance(dataset.transform, Transform)
    assert dataset.transform.fixed is not None
    assert dataset[0][0].shape == (3, 8, 8)


def test_what_only_some_datasets_can_do_is_announced_and_else_refused() -> None:
    dataset = Counting(2)
    assert (dataset.decoders, dataset.decoded_size(), dataset.as_tensor(), dataset.header(0)) == ((), None, None, None)
    assert (dataset.is_kept, dataset.count_pixels(0)) == (False, 1)
    with pytest.raises(NotImplementedError, match="Counting has no choice of decoders, got pyav"):
        dataset.use_decoder("pyav")
    with pytest.raises(NotImplementedError, match="Counting does not keep decoded items"):
        dataset.keep_in(Store(10))
    assert isinstance(dataset.subset([0]), ImageSubset)


def test_subsets_of_files_and_of_arrays_stay_what_they_are(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (number + 1, 2)).save(path)
    files = ImageFiles(paths, [0, 1, 0], ["a", "b"], max_pixels=99, exif_rotation=False).subset([2, 1])
    assert isinstance(files, ImageFiles)
    assert (files.labels, [files.image(index).width for index in range(2)]) == ([0, 1], [3, 2])
    assert (files.key(0), files.count_pixels(0)) == (str(paths[2]), 6)
    pixels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    arrays = ArrayImages(pixels, [0, 1, 0], ["a", "b"], [7, 8, 9], "file").subset(range(1, 3))
    assert isinstance(arrays, ArrayImages)
    assert (arrays.labels, arrays.path(1)) == ([1, 0], "file[9]")
    assert np.array_equal(np.asarray(arrays.image(1)), pixels[2])
