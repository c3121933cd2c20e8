"""Every file is answered once, in order, whatever the batches are and whichever views cannot be read."""

from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_states import NAME, TINY

import vision_peft as vp
from vision_peft.data.decoding.video import Choose
from vision_peft.data.decoding.video_file import VideoDecodeError
from vision_peft.inference.predict_files import Videos, predict_files
from vision_peft.inference.predictor import Predictor


class HalfDamaged(Videos):
    """Videos of 12 frames; of those in `damaged` the second half cannot be decoded, of those in `lost` nothing."""

    def __init__(self, number: int, damaged: tuple[int, ...], lost: tuple[int, ...]) -> None:
        super().__init__([f"video {place}" for place in range(number)])
        self.damaged, self.lost = damaged, lost

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        number, wanted = int(self.paths[video].split()[1]), [*choose(12)]
        if number in self.lost or (number in self.damaged and max(wanted) > 6):
            raise VideoDecodeError(self.paths[video], "none", "it breaks off")
        pixels = np.random.default_rng(number).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        return pixels[wanted]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    model: Any = vp.create_backbone(NAME, img_size=32, patch_size=8, num_frames=4, num_classes=3, **TINY)
    found = Predictor(model)
    found.prepare.settings |= {"sampling": "dense", "frame_stride": 1, "views": 2}
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize(
    ("damaged", "lost"), [((1,), ()), ((), (0, 5)), ((2, 3), (4,)), ((0, 1, 2), (3, 4, 5)), ((), ())]
)
def test_a_video_of_which_a_view_cannot_be_read_has_no_answer(
    predictor: Predictor, batch_size: int, damaged: tuple[int, ...], lost: tuple[int, ...]
) -> None:
    predictor.batch_size = batch_size
    videos = HalfDamaged(6, damaged, lost)
    videos.set_evaluation(predictor.prepare.settings)
    places, failures, logits = list[int](), dict[int, str](), list[torch.Tensor]()
    for answers in predict_files(predictor, videos, workers=0):
        places += answers.places
        failures |= answers.failures
        logits += answers.outputs.logits
    bad = sorted({*damaged, *lost})
    assert places == [place for place in range(6) if place not in bad]
    assert failures == dict.fromkeys(bad, "it breaks off")
    sound = HalfDamaged(6, (), ())
    sound.set_evaluation(predictor.prepare.settings)
    for place, row in zip(places, logits, strict=True):
        views = torch.stack([sound[2 * place][0], sound[2 * place + 1][0]])
        torch.testing.assert_close(row, predictor.forward(views).logits.mean(0))
