"""The known sets of images with masks, from miniatures of their official archives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.mask_files import write_image, write_mask
from support.mask_layouts import LAYOUTS

from vision_peft.config.command_line import compose_config
from vision_peft.data.decoding.mask_dataset import MaskFiles, list_mask_problems
from vision_peft.data.decoding.masks import IGNORE

ENDS = {  # classes, and the names of the left and the right half of every mask
    "voc": (21, "background", "aeroplane"),
    "ade20k": (150, "wall", "thing 150"),
    "cityscapes": (19, "road", "bicycle"),
    "camvid": (11, "sky", "bicyclist"),
}
FILES = {  # a mask that training reads
    "voc": "VOCdevkit/VOC2012/SegmentationClass/2007_000000.png",
    "ade20k": "ADEChallengeData2016/annotations/training/ADE_train_00000000.png",
    "cityscapes": "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
    "camvid": "CamVid/trainannot/0001TP_000000.png",
}


def data_of(name: str, root: Path, *words: str) -> Any:
    drawn = [f"data={name}", "data.val_fraction=0.4"]  # of a handful, so that val has some
    return compose_config([*drawn, f"data.root={root}", "recipe.head=seg_linear", *words]).data


def load(name: str, root: Path, split: str, *words: str) -> MaskFiles:
    dataset = data_of(name, root, *words).load(split)
    assert isinstance(dataset, MaskFiles)
    return dataset


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_official_val_is_the_test_and_val_comes_out_of_train(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    paths = {split: {*load(name, root, split).paths} for split in ("train", "val", "trainval", "test")}
    assert len(paths["trainval"]) == (8 if name == "camvid" else 6)
    assert len(paths["test"]) == 3
    assert paths["train"] | paths["val"] == paths["trainval"]
    assert not paths["train"] & paths["val"]
    assert not paths["trainval"] & paths["test"]
    assert paths["train"]
    assert paths["val"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_value_is_its_class_or_does_not_count(name, tmp_path):
    count, left, right = ENDS[name]
    root = LAYOUTS[name](tmp_path)
    dataset = load(name, root, "trainval")
    assert len(dataset.classes) == len(set(dataset.classes)) == count
    assert (dataset.classes.index(left), dataset.classes.index(right)) == (0, 1 if name == "voc" else count - 1)
    _, mask = dataset[0]
    raw = np.asarray(Image.open(root / FILES[name]))
    dropped = {"voc": [255], "ade20k": [0], "cityscapes": [0, 4, 29, 255], "camvid": [11]}[name]
    assert np.array_equal(mask == IGNORE, np.isin(raw, dropped))
    kept = mask[mask != IGNORE]
    assert {dataset.classes[number] for number in np.unique(kept).tolist()} == {left, right}
    assert np.array_equal(mask[1:, 0], np.zeros(mask.shape[0] - 1))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_folder_itself_does_as_well_as_the_one_around_it(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    inner = {"voc": "VOCdevkit/VOC2012", "ade20k": "ADEChallengeData2016", "cityscapes": ".", "camvid": "CamVid"}
    assert len(load(name, root / inner[name], "test")) == 3


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_without_the_archive_is_refused_with_what_was_wanted(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not hold .*give data\.root=FOLDER"):
        data_of(name, tmp_path).load("train")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_mask_is_named_before_training(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    (root / FILES[name]).unlink()
    stem = re.sub("_gtFine_labelIds$", "", Path(FILES[name]).stem)
    with pytest.raises(ValueError, match=stem):
        data_of(name, root).load("train")


@pytest.mark.filterwarnings("ignore:no pixel of the training masks:UserWarning")
@pytest.mark.parametrize(("name", "value"), [("voc", 21), ("ade20k", 151), ("cityscapes", 34), ("camvid", 12)])
def test_a_value_that_is_no_class_is_named_with_its_file(name, value, tmp_path):
    root = LAYOUTS[name](tmp_path)
    raw = np.asarray(Image.open(root / FILES[name])).copy()
    raw[-1, :3] = value
    write_mask(root / FILES[name], raw)
    problems = "\n".join(list_mask_problems({"train": load(name, root, "trainval")}))
    assert Path(FILES[name]).name in problems
    assert f"{value} (3 pixels)" in problems


def test_classes_of_ade20k_that_share_a_word_are_told_apart(tmp_path):
    root = LAYOUTS["ade20k"](tmp_path)
    classes = load("ade20k", root, "train").classes
    assert (classes[13], classes[130]) == ("screen (14)", "screen (131)")
    table = root / "ADEChallengeData2016" / "objectInfo150.txt"
    table.write_text(table.read_text().replace("150\t", "x\t"))
    with pytest.raises(ValueError, match="names 149 classes, wanted 150"):
        data_of("ade20k", root).load("train")
    table.unlink()
    assert load("ade20k", root, "train").classes[::149] == ["1", "150"]


def test_voc_takes_the_augmented_list_and_its_masks(tmp_path):
    root = LAYOUTS["voc"](tmp_path)
    base = root / "VOCdevkit" / "VOC2012"
    write_image(base / "JPEGImages" / "2008_000001.jpg")
    (base / "SegmentationClass").rename(base / "SegmentationClassAug")
    write_mask(base / "SegmentationClassAug" / "2008_000001.png", np.zeros((12, 16), np.uint8))
    lists = base / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").write_text((lists / "train.txt").read_text() + "2008_000001\n")
    words = ["data.masks=SegmentationClassAug", "data.train=trainaug"]
    assert len(load("voc", root, "trainval", *words)) == 7
    with pytest.raises(FileNotFoundError, match=r"no list .*trainval_aug\.txt"):
        data_of("voc", root, "data.masks=SegmentationClassAug", "data.train=trainval_aug").load("train")
    (lists / "trainaug.txt").write_text("2009_000009\n")
    with pytest.raises(ValueError, match="2009_000009"):
        data_of("voc", root, *words).load("train")
