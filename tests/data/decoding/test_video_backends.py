"""Whether a video decoder can be used, asked without importing it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vision_peft.data.decoding import video_backends


@pytest.mark.parametrize("good", ["core7", "core6", "none"])
def test_the_libraries_of_torchcodec_are_loaded_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, good: str
) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise AssertionError('imported')")
    for name in ("core6", "custom_ops6", "core7", "custom_ops7"):
        (tmp_path / "torchcodec" / f"libtorchcodec_{name}.so").write_bytes(b"")
    loaded: list[str] = []

    def load(path: str) -> Any:
        loaded.append(Path(path).stem.partition("_")[2])
        if not loaded[-1].endswith(good[-1]):
            raise OSError("libavutil.so.59: cannot open shared object file")
        return SimpleNamespace(av_log_set_callback=None)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(video_backends.ctypes, "CDLL", load)
    found = video_backends.explain_absence_quickly("torchcodec")
    missing = "ffmpeg's libraries are not installed, or in a version that it cannot load"
    assert found == (missing if good == "none" else None)
    assert (
        loaded
        == {
            "core7": ["core7", "custom_ops7"],
            "core6": ["core7", "core6", "custom_ops6"],
            "none": ["core7", "core6"],
        }[good]
    )
