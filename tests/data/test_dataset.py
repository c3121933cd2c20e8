"""What a dataset says about itself to all that read it: images here, videos in `test_video_dataset.py`."""

import pytest
from support.counting import Counting

from vision_peft.data.dataset import ImageDataset, ImageSubset
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.transforms.images import Transform

SETTINGS = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "squash"}
SETTINGS |= {"crop_pct": 1.0, "views": 3, "crops": 2}


def test_of_images_items_are_what_is_counted() -> None:
    dataset = Counting(5)
    assert (dataset.what, dataset.gives_clips, dataset.views, dataset.varies) == ("image", False, 1, False)
    assert dataset.count_sources() == len(dataset) == 5
    assert [dataset.source_of(index) for index in range(5)] == list(range(5))


def test_a_subset_holds_the_items_asked_for_with_their_labels() -> None:
    part = Counting(7).subset([6, 1])
    assert [part.path(index) for index in range(2)] == ["number 6", "number 1"]
    assert (part.labels, part.classes) == ([0, 1], ["even", "odd"])
    assert part.image(0).getpixel((0, 0)) == (6, 0, 0)
    assert [len(Counting(7).first(size)) for size in (0, 3, 9)] == [0, 3, 7]
    assert Counting(3).subset([0]).key(0) != Counting(3).subset([0]).key(0)


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
    with pytest.raises(NotImplementedError, match="Counting keeps nothing whole"):
        dataset.keep_in(Store(10))
    assert isinstance(dataset.subset([0]), ImageSubset)
