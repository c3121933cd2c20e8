"""vp.Predictor: labels, probabilities, logits and features of whatever shows something."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import FAMILIES, images, randomise_tuned
from support.families import tiny as tiny_model
from support.tiny_fixtures import photos
from support.tiny_states import NAME, TINY
from torch import Tensor

import vision_peft as vp
from vision_peft.data import ImageDecodeError
from vision_peft.inference.predictor import Predictor, is_out_of_memory

__all__ = ["photos"]
NAMES = ["blue", "green", "red"]
INPUT: dict[str, Any] = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}


def tuned(folder: Path, temperature: float | None = None, names: list[str] | None = NAMES, **arguments: Any) -> Path:
    """An adapter of three classes on random weights of a seed."""
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY, **arguments)
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "batchnorm_linear", 3)
    randomise_tuned(model)
    settings = {**INPUT, "num_frames": 4} if "num_frames" in arguments else INPUT
    return vp.save_adapter(model, folder, class_names=names, input_config=settings, temperature=temperature)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("adapter"), temperature=2.0)


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.glob("test/*/0.png"))


def test_an_item_gives_a_list_of_labels_and_a_list_gives_a_list_of_these(adapter: Path, files: list[Path]) -> None:
    predict = vp.Predictor(adapter, device="cpu")
    guesses = predict(files)
    assert [len(each) for each in guesses] == [3, 3, 3]
    alone = predict(files[1])
    assert [name for name, _ in alone] == [name for name, _ in guesses[1]]
    assert predict([files[1]], top=1) == [alone[:1]]
    assert predict((Image.open(files[0]), np.asarray(Image.open(files[1])), str(files[2]))) == guesses
    assert predict([]) == []
    names, values = zip(*guesses[0], strict=True)
    assert sorted(names) == NAMES
    assert sorted(values, reverse=True) == list(values)
    assert sum(values) == pytest.approx(1, abs=1e-6)


def test_probabilities_are_those_of_the_temperature_and_raw_ones_are_not(adapter: Path, files: list[Path]) -> None:
    predict, raw = vp.Predictor(adapter, device="cpu"), vp.Predictor(adapter, device="cpu", raw=True)
    logits = predict.logits(files)
    prepared = torch.stack([predict.prepare(file) for file in files])
    torch.testing.assert_close(logits, predict.model(prepared).detach())
    torch.testing.assert_close(predict.probabilities(files), (logits / 2).softmax(1))
    torch.testing.assert_close(raw.probabilities(files), logits.softmax(1))
    torch.testing.assert_close(raw.logits(files[0]), logits[0])  # an item alone is a row


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_what_enters_the_head(family: str) -> None:
    model: Any = tiny_model(family)
    predict, x = Predictor(model), images(model)
    outputs = predict.forward(x)
    with torch.no_grad():
        assert torch.equal(outputs.logits, model(x))
        expected: Tensor = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(outputs.features, expected)


def test_an_ensemble_of_prompts_has_the_mean_features_of_its_prompts() -> None:
    model: Any = vp.attach(tiny_model("vit"), vp.PromptTuning(tokens=2, ensemble=3)).eval()
    outputs, x = Predictor(model).forward(images(model)), images(model)
    assert (outputs.logits.shape, outputs.features.shape) == ((2, 5), (2, 32))
    model.reset_classifier(0)  # without a head the model itself gives that mean
    torch.testing.assert_close(outputs.features, model(x).detach())


def test_a_clip_has_the_mean_answer_of_its_views(tmp_path: Path) -> None:
    folder = tuned(tmp_path / "a", num_frames=4)
    predict = vp.Predictor(folder, device="cpu", batch_size=2)
    predict.prepare.settings |= {"views": 3, "sampling": "dense", "frame_stride": 2}
    videos = [np.random.default_rng(seed).integers(0, 256, (12 + seed, 40, 40, 3), dtype=np.uint8) for seed in (0, 1)]
    logits, features = predict.logits(videos), predict.features(videos)
    for row, feature, video in zip(logits, features, videos, strict=True):
        views = predict.prepare.list_views(video)
        assert views.shape == (3, 3, 4, 32, 32)
        outputs = predict.forward(views)
        torch.testing.assert_close(row, outputs.logits.mean(0))
        torch.testing.assert_close(feature, outputs.features.mean(0))


class Hungry(torch.nn.Module):
    """Says that memory is out for more than `most` images, in the words of `error`."""

    def __init__(self, model: Any, most: int, error: BaseException) -> None:
        super().__init__()
        self.most, self.error, self.seen = most, error, list[int]()
        model.register_forward_pre_hook(self.check)

    def check(self, _: Any, given: tuple[Tensor]) -> None:
        self.seen.append(len(given[0]))
        if len(given[0]) > self.most:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_the_largest_batch_that_fits_is_found_by_halving(adapter: Path, error: BaseException) -> None:
    predict = vp.Predictor(adapter, device="cpu", batch_size=64)
    x = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = predict.forward(x).logits
    hungry = Hungry(predict.model, 6, error)
    torch.testing.assert_close(predict.forward(x).logits, expected)
    assert hungry.seen == [20, 10, 5, 5, 5, 5], "from what was asked for, not from what a batch may have"
    assert predict.batch_size == 5
    hungry.seen.clear()
    predict.forward(x)
    assert hungry.seen == [5, 5, 5, 5], "what was found stays"
    hungry.most = 0
    with pytest.raises(MemoryError, match="a single image does not fit into the memory of cpu"):
        predict.forward(x)


def test_other_errors_of_a_model_are_not_taken_for_a_lack_of_memory(adapter: Path) -> None:
    predict = vp.Predictor(adapter, device="cpu")
    Hungry(predict.model, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict.forward(torch.zeros(2, 3, 32, 32))
    assert predict.batch_size == 64
    assert not is_out_of_memory(ValueError("out of memory"))


def test_classes_without_names_are_numbers_and_names_can_be_given(tmp_path: Path, files: list[Path]) -> None:
    folder = tuned(tmp_path, names=None)
    plain, named = vp.Predictor(folder, device="cpu"), vp.Predictor(folder, device="cpu", classes=NAMES)
    assert sorted(name for name, _ in plain(files[0])) == ["0", "1", "2"]
    assert (plain.classes_are_named, named.classes_are_named) == (False, True)
    assert [NAMES[int(name)] for name, _ in plain(files[0])] == [name for name, _ in named(files[0])]
    with pytest.raises(ValueError, match="got 2 class names for a head of 3 classes"):
        vp.Predictor(folder, device="cpu", classes=NAMES[:2])


def test_an_adapter_without_a_head_has_features_only(tmp_path: Path, files: list[Path]) -> None:
    torch.manual_seed(7)
    model = vp.attach(vp.create_backbone(NAME, img_size=32, patch_size=8, num_classes=0, **TINY), vp.LoRA(rank=2))
    predict = Predictor(vp.load(vp.save_adapter(model, tmp_path, input_config=INPUT), device="cpu"))
    assert predict.features(files).shape == (3, 16)
    with pytest.raises(ValueError, match="this adapter has no head for classes"):
        predict(files[0])


def test_what_cannot_be_predicted_is_said(adapter: Path, tmp_path: Path) -> None:
    predict = vp.Predictor(adapter, device="cpu")
    with pytest.raises(ImageDecodeError, match="FileNotFoundError"):
        predict(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        predict([], top=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        vp.Predictor(adapter, batch_size=0)
    with pytest.raises(TypeError, match="an existing model takes no checkpoint"):
        vp.Predictor(predict.model, checkpoint="x")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        vp.Predictor(tmp_path / "nowhere")
