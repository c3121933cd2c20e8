"""Features, attention and cards of models that do not answer for the whole image by names."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.map_adapters import INPUT, save_maps
from support.mask_files import write_image
from support.tiny_states import NAME, TINY

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.inference.predictor import Predictor
from vision_peft.tuning.pool_tokens import has_class_token, pool_tokens


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two images, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        write_image(tmp_path / "photos" / f"{name}.jpg", seed=seed)
    return tmp_path


def save_embedding(folder: Path) -> Path:
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY)
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "linear", 6)
    randomise_tuned(model)
    task = {"kind": "embedding", "width": 6}
    return vp.save_adapter(model, folder, class_names=["x", "y"], input_config=INPUT, task=task)


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@torch.no_grad()
@pytest.mark.parametrize("head", ["seg_linear", "seg_multi", "seg_upernet"])
@pytest.mark.parametrize("family", ["vit", "dinov2_reg4", "swin"])
def test_a_head_for_maps_leaves_the_tokens_of_the_backbone_as_they_are(family: str, head: str) -> None:
    model = tiny(family)
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    x = images(model)
    which = ["patches", *(["class"] if has_class_token(model) else [])]
    before = {name: pool_tokens(model, x, name) for name in which}
    vp.replace_head(model, f"{head} layers=2" if head != "seg_linear" else head, 3)
    assert model.eval()(x).ndim == 4
    for name in which:
        torch.testing.assert_close(pool_tokens(model, x, name), before[name])
        assert before[name].shape == (2, model.num_features)
    assert torch.equal(Predictor(model, "cpu").forward(x).features, pool_tokens(model, x, "patches"))
    assert family in FAMILIES


@pytest.mark.parametrize("task", [None, {"kind": "depth", "centre": 2.0}], ids=["segmentation", "depth"])
def test_embed_takes_models_of_maps(here: Path, capsys: pytest.CaptureFixture[str], task: Any) -> None:
    save_maps(here / "MAPS", task)
    paths = ["photos/a.jpg", "photos/b.jpg"]
    for words, which in (([], "patches"), (["--features", "class"], "class")):
        assert main(["embed", "MAPS", "photos", *words, "--out", "z.npz", "--overwrite", "--workers", "0"]) == 0
        found = torch.from_numpy(np.load("z.npz")["features"])
        assert found.shape == (2, 16)
        torch.testing.assert_close(found, vp.embed("MAPS", paths, features=which, device="cpu"))
    torch.testing.assert_close(vp.embed("MAPS", paths, device="cpu"), vp.embed("MAPS", paths, features="patches"))
    for which in ("head", "output"):
        line = stop(capsys, "embed", "MAPS", "photos", "--features", which, "--out", "y.npz")
        assert line == (
            "error: this model answers for every pixel, and what its head reads is a map: take the features 'patches' "
            f"or 'class', got '{which}'"
        )
    assert not Path("y.npz").exists()


def test_a_model_that_looks_through_windows_has_no_features_and_no_attention(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_maps(here / "WIDE", head="seg_linear window=true", window=True, resize="none")
    assert "through windows" in stop(capsys, "embed", "WIDE", "photos", "--out", "z.npz", "--workers", "0")
    with pytest.raises(ValueError, match="looks at an image through windows"):
        vp.embed("WIDE", "photos/a.jpg", device="cpu")
    words = ["--attention", "at.png", "--images", "photos/a.jpg"]
    assert "through windows" in stop(capsys, "inspect", "WIDE", *words)
    assert main(["predict", "WIDE", "photos", "--masks", "out", "--device", "cpu"]) == 0


@pytest.mark.parametrize("kind", ["masks", "embedding"])
def test_attention_is_drawn_where_no_label_can_stand_below_it(here: Path, kind: str) -> None:
    folder = save_maps(here / "A") if kind == "masks" else save_embedding(here / "A")
    assert main(["inspect", str(folder), "--attention", "at.png", "--images", "photos/a.jpg", "photos/b.jpg"]) == 0
    with Image.open("at.png") as picture:
        assert picture.size[1] > 500


@pytest.mark.parametrize("kind", ["masks", "depth", "embedding", "headless"])
def test_the_call_of_a_card_answers(here: Path, kind: str) -> None:
    if kind == "headless":
        torch.manual_seed(7)
        model = vp.create_backbone(NAME, img_size=32, patch_size=8, num_classes=0, **TINY)
        vp.save_adapter(vp.attach(model, vp.LoRA(rank=2)), here / "A", input_config=INPUT)
    elif kind == "embedding":
        save_embedding(here / "A")
    else:
        save_maps(here / "A", {"kind": "depth", "centre": 2.0} if kind == "depth" else None)
    assert main(["share", "A", "owner/mine", "--dry-run", "out"]) == 0
    text = (here / "out" / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    write_image(here / "photo.jpg")
    names: dict[str, Any] = {}
    *before, call = code.replace("hf-hub:owner/mine", str(here / "out")).strip().splitlines()
    exec("\n".join([*before, f"found = {call}" if "=" not in call else call]), names)
    if kind in ("masks", "depth"):
        assert names["answer"].shape == (12, 16)
    else:
        assert names["found"].shape == ((6,) if kind == "embedding" else (16,))
