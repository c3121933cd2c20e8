"""Kinds of image files: by extension, by first bytes, and those that need a plugin."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_peft.data.decoding.image_kinds import EXTENSIONS, FORMATS, MISSING_PLUGINS, PLUGINS, starts_as_image
from vision_peft.data.decoding.images import decode_image, read_header


def test_an_mpo_of_a_camera_is_read(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "1.mpo", save_all=True, append_images=pictures[1:], quality=95)
    assert ".mpo" in EXTENSIONS
    assert np.asarray(decode_image(tmp_path / "1.mpo"))[4, 4, 0] > 240
    assert read_header(tmp_path / "1.mpo").format == "MPO"


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this build of Pillow has no AVIF")
def test_avif_is_read_where_pillow_has_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "1.avif")
    assert np.asarray(decode_image(tmp_path / "1.avif"))[4, 4, 0] > 240


def test_heic_is_read_with_its_plugin(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.heic", quality=90)
    assert np.asarray(decode_image(tmp_path / "1.heic"))[4, 4, 0] > 240
    assert starts_as_image(str(tmp_path / "1.heic"))


def test_extensions_that_need_a_plugin_name_it() -> None:
    for plugin in PLUGINS.values():
        for extension in plugin.extensions:
            assert (extension in EXTENSIONS) == (plugin.format in FORMATS)
            assert MISSING_PLUGINS.get(extension) == (None if plugin.format in FORMATS else plugin.package)


def test_the_first_bytes_tell_an_image(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for kind in ("jpeg", "png", "gif", "tiff", "bmp", "webp"):
        picture.save(tmp_path / "image", format=kind)
        assert starts_as_image(str(tmp_path / "image")), kind
    for content in (b"", b"\xff\xd8\xff", b"a text that is longer than sixteen bytes"):
        (tmp_path / "other").write_bytes(content)
        assert not starts_as_image(str(tmp_path / "other"))
    assert not starts_as_image(str(tmp_path / "gone"))
    assert not starts_as_image(os.fspath(tmp_path))
