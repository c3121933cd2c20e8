"""Tensors that describe themselves: a save that is killed between its two files, checksums, folders of format 1."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.adapters import change_info, to_version_1, tuned_model, write_tensors
from support.families import images, tiny

import vision_peft as vp
from vision_peft.formats import read_adapter_info
from vision_peft.formats.adapter_info import tensors_sha256

TENSORS, INFO = "adapter.safetensors", "adapter.json"
NEWER = vp.AdaptFormer(bottleneck=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vp.save_adapter(tuned_model(), tmp_path / "adapter", class_names=["a", "b", "c", "d", "e"])


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its values begin."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), start


def rewrite_metadata(folder: Path, text: str) -> None:
    """Replace the description in the metadata; the tensors stay."""
    state = safetensors.torch.load((folder / TENSORS).read_bytes())
    (folder / TENSORS).write_bytes(safetensors.torch.save(state, {"adapter": text}))


def save_until_the_second_rename(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            vp.save_adapter(model, folder)
    assert [path.name for path in calls] == [TENSORS, INFO]


def test_the_metadata_of_the_tensors_repeat_adapter_json(folder):
    assert header(folder / TENSORS)[0]["__metadata__"] == {"adapter": (folder / INFO).read_text(encoding="utf-8")}


@pytest.mark.parametrize("version", [1, 2])
def test_a_save_killed_between_its_files_leaves_the_new_adapter(folder, version, monkeypatch, caplog):
    if version == 1:
        to_version_1(folder)
    older = (folder / INFO).read_bytes()
    newer = tuned_model("vit", NEWER)
    save_until_the_second_rename(newer, folder, monkeypatch)
    assert (folder / INFO).read_bytes() == older
    loaded = vp.load_adapter(tiny("vit"), folder)
    x = images(newer)
    assert torch.equal(loaded(x), newer(x))
    assert read_adapter_info(folder).methods[0]["name"] == "adaptformer"
    assert read_adapter_info(folder).class_names is None, "those of the older adapter are not taken over"
    assert f"{folder / INFO} describes other tensors" in caplog.text


def test_a_first_save_killed_between_its_files_leaves_the_new_adapter(tmp_path, monkeypatch, caplog):
    newer = tuned_model("vit", NEWER)
    save_until_the_second_rename(newer, tmp_path, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == [TENSORS]
    x = images(newer)
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path)(x), newer(x))
    assert f"{tmp_path / INFO} is missing" in caplog.text


def test_the_next_save_repairs_the_pair(folder, monkeypatch, caplog):
    save_until_the_second_rename(tuned_model("vit", NEWER), folder, monkeypatch)
    vp.save_adapter(tuned_model("vit", NEWER), folder)
    caplog.clear()
    vp.load_adapter(tiny("vit"), folder)
    assert sorted(path.name for path in folder.iterdir()) == [INFO, TENSORS]
    assert caplog.text == ""


def test_an_intact_pair_is_read_from_adapter_json_without_a_warning(folder, caplog):
    change_info(folder, lambda info: info.update(class_names=["ant", "bee", "cat", "dog", "elk"]))
    assert read_adapter_info(folder).class_names == ["ant", "bee", "cat", "dog", "elk"]
    vp.load_adapter(tiny("vit"), folder)
    assert caplog.text == ""


def test_tensors_copied_without_their_metadata_still_fit_adapter_json(folder):
    model = tuned_model()
    state = safetensors.torch.load((folder / TENSORS).read_bytes())
    safetensors.torch.save_file(state, folder / TENSORS)
    assert torch.equal(vp.load_adapter(tiny("vit"), folder)(images(model)), model(images(model)))


def test_a_folder_of_format_1_still_loads(folder, caplog):
    model = tuned_model()
    to_version_1(folder)
    assert read_adapter_info(folder).format_version == 1
    assert torch.equal(vp.load_adapter(tiny("vit"), folder)(images(model)), model(images(model)))
    assert caplog.text == ""


def test_a_folder_of_format_2_has_no_temperature(folder, tmp_path):
    change_info(folder, lambda info: [info.update(format_version=2), info.pop("temperature")])
    assert read_adapter_info(folder).temperature is None
    model = tuned_model()
    assert torch.equal(vp.load_adapter(tiny("vit"), folder)(images(model)), model(images(model)))
    assert read_adapter_info(vp.save_adapter(model, tmp_path / "new", temperature=1.5)).temperature == 1.5


def test_a_folder_of_format_1_with_tensors_of_another_save_is_refused(folder):
    to_version_1(folder)
    vp.save_adapter(tuned_model("vit", NEWER), folder.parent / "other")
    to_version_1(folder.parent / "other")
    (folder.parent / "other" / TENSORS).replace(folder / TENSORS)
    with pytest.raises(ValueError, match="sha256 differs"):
        vp.load_adapter(tiny("vit"), folder)


def test_the_checksum_is_of_names_types_shapes_and_bytes(folder):
    entries, start = header(folder / TENSORS)
    data, digest = (folder / TENSORS).read_bytes(), hashlib.sha256()
    for name in sorted(entries.keys() - {"__metadata__"}):
        first, last = entries[name]["data_offsets"]
        assert entries[name]["dtype"] == "F32"
        shape = ", ".join(map(str, entries[name]["shape"]))
        digest.update(f'["{name}", "torch.float32", [{shape}]]\n'.encode())
        digest.update(data[start + first : start + last])
    assert json.loads((folder / INFO).read_text())["tensors_sha256"] == digest.hexdigest()


def test_the_checksum_changes_with_everything_that_a_state_is_but_the_order():
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1), "c": torch.zeros(0, 2)}
    others: list[dict[str, Any]] = [
        {**state, "a": state["a"].view(3, 2)},
        {**state, "a": state["a"].view(torch.int32)},
        {**state, "a": -state["a"]},
        {"a": state["a"], "d": state["b"], "c": state["c"]},
        {"a": state["a"], "b": state["b"]},
        {**state, "c": torch.zeros(2, 0)},
    ]
    assert len({tensors_sha256(other) for other in [state, *others]}) == 1 + len(others)
    assert tensors_sha256(dict(reversed(state.items()))) == tensors_sha256(state)
    turned = torch.arange(6.0).view(3, 2).T.contiguous().T  # the same values, not contiguous
    assert tensors_sha256({"a": turned}) == tensors_sha256({"a": torch.arange(6.0).view(3, 2)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int64])
def test_every_type_has_a_checksum(dtype):
    assert re.fullmatch("[0-9a-f]{64}", tensors_sha256({"a": torch.ones(3, dtype=dtype)}))


def test_tensors_tampered_with_are_refused_whichever_description_is_read(folder):
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"{INFO} describes \(sha256 differs\)"):
        vp.load_adapter(tiny("vit"), folder)
    (folder / INFO).unlink()
    with pytest.raises(ValueError, match=rf"metadata of .*{TENSORS} describes \(sha256 differs\)"):
        vp.load_adapter(tiny("vit"), folder)


def test_renamed_or_retyped_tensors_are_refused(folder):
    state = safetensors.torch.load((folder / TENSORS).read_bytes())
    name = next(iter(state))
    for other in ({**state, name: state[name].double()}, {f"{k}x" if k == name else k: t for k, t in state.items()}):
        (folder / TENSORS).write_bytes(safetensors.torch.save(other))
        with pytest.raises(ValueError, match="sha256 differs"):
            vp.load_adapter(tiny("vit"), folder)


def test_the_description_in_the_metadata_is_checked_field_by_field_too(folder):
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).unlink()
    rewrite_metadata(folder, json.dumps({**info, "num_classes": "5", "colour": "blue"}))
    with pytest.raises(ValueError, match=r"metadata of .*num_classes has type str; colour is unknown"):
        vp.load_adapter(tiny("vit"), folder)
    rewrite_metadata(folder, json.dumps({**info, "methods": [{"name": "lorra", "fields": {}}]}))
    with pytest.raises(ValueError, match=r"metadata of .*unknown method 'lorra'"):
        vp.load_adapter(tiny("vit"), folder)
    rewrite_metadata(folder, json.dumps({**info, "format_version": 5}))
    with pytest.raises(ValueError, match=r"metadata of .*format version 5.*upgrade"):
        vp.load_adapter(tiny("vit"), folder)
    for text in ("{", "[]"):
        rewrite_metadata(folder, text)
        with pytest.raises(ValueError, match=r"metadata of .*(is not JSON|wanted an object)"):
            vp.load_adapter(tiny("vit"), folder)


def test_broken_json_beside_whole_tensors_is_shown_not_passed_over(folder):
    (folder / INFO).write_text("{")
    with pytest.raises(ValueError, match=f"{INFO} is not JSON"):
        vp.load_adapter(tiny("vit"), folder)


def test_a_forged_pair_in_which_neither_description_fits_the_tensors_is_refused(folder):
    state = safetensors.torch.load((folder / TENSORS).read_bytes())
    old = (folder / INFO).read_text()
    write_tensors(folder, safetensors.torch.save({n: t + 1 for n, t in state.items()}))
    rewrite_metadata(folder, old)
    change_info(folder, lambda info: info.update(tensors_sha256="0" * 64))
    with pytest.raises(ValueError, match="sha256 differs"):
        vp.load_adapter(tiny("vit"), folder)
