"""Image and video data: datasets, their lists, decoding, transforms, loading and checks."""

from vision_peft.data.config import SPLITS, DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets import DATASETS
from vision_peft.data.decoding.images import ImageDecodeError

__all__ = ["DATASETS", "SPLITS", "DataConfig", "ImageDataset", "ImageDecodeError"]
