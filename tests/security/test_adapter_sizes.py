"""Adapters whose description or tensors lie about sizes: refused by the name of the field, before memory is taken."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.adapters import change_info, same, state_of, tuned_model, write_tensors
from support.families import tiny
from support.hostile_inputs import is_one_line
from support.peak_memory import measure_memory

import vision_peft as vp
from vision_peft.formats.adapter_info import MAX_TEXT

TENSORS, INFO = "adapter.safetensors", "adapter.json"
INPUT = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "views": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vp.save_adapter(tuned_model(), tmp_path / "adapter", input_config=INPUT)


def refused(folder: Path, reason: str) -> None:
    """Check that loading fails by `reason` in one line, leaves the model alone and takes less than 100 MB."""
    model = tiny("vit")
    before = state_of(model)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason) as raised:
            vp.load_adapter(model, folder)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert is_one_line(raised.value), str(raised.value)[:2000]
    assert same(state_of(model), before)


def fields(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda info: info["methods"][0]["fields"].update(values)


def top(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda info: info.update(values)


def taken(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda info: info["input"].update(values)


def tokens(count: int) -> Callable[[dict[str, Any]], None]:
    method = {"name": "vpt", "fields": {"tokens": count, "deep": True}}
    return lambda info: info.update(methods=[method])


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "rank of 10^9": (fields(rank=10**9), "lora.rank is 1000000000"),
    "rank of 10^400": (fields(rank=10**400), "rank|JSON"),
    "rank below zero": (fields(rank=-1), "rank must be"),
    "rank with a fraction": (fields(rank=2.5), "rank must be a whole number"),
    "rank as text": (fields(rank="2"), "rank must be a whole number"),
    "rank as a list": (fields(rank=[2]), "rank must be a whole number"),
    "scale that is not finite": (fields(alpha=float("nan")), "NaN is not a number in JSON"),
    "scale beyond floats": (lambda info: info["methods"][0]["fields"].update(alpha=float("inf")), "Infinity is no"),
    "tokens of 10^12": (tokens(10**12), "vpt.tokens is 1000000000000"),
    "classes of 10^9": (top(num_classes=10**9), "has 1000000000 classes"),
    "classes below zero": (top(num_classes=-5), "num_classes is -5, wanted at least 0"),
    "classes as a fraction": (top(num_classes=5.0), "num_classes has type float"),
    "classes as a truth": (top(num_classes=True), "num_classes has type bool"),
    "version 0": (top(format_version=0), "format_version is 0"),
    "more names than classes": (top(class_names=["a"] * 7), "class_names has 7 names, num_classes is 5"),
    "names that are not text": (top(class_names=[1, 2, 3, 4, 5]), "'1' is not text"),
    "head of 10^9 layers": (top(head="mlp-1000000000"), "head must be one of"),
    "a thousand methods": (lambda info: info.update(methods=info["methods"] * 1000), "methods lists 1000"),
    "counts below zero": (top(counts={"trained": -1}), "counts.trained is -1"),
    "counts that are text": (top(counts={"trained": "x"}), "counts.trained is x"),
    "a temperature of zero": (top(temperature=0), "temperature is 0, wanted 0.01 to 100, or null"),
    "a temperature of 10^400": (top(temperature=10**400), "temperature is 1000|JSON"),
    "a temperature that is none": (top(temperature=float("nan")), "NaN is not a number in JSON"),
    "a temperature as text": (top(temperature="1"), "temperature has type str"),
    "a temperature as a truth": (top(temperature=True), "temperature has type bool"),
    "an unknown key": (top(__class__="x"), "__class__ is unknown"),
    "image of 10^9 pixels": (taken(size=[10**9, 10**9]), r"input\.size is \[1000000000, 1000000000\], wanted"),
    "image of no pixels": (taken(size=[0, 32]), r"input\.size"),
    "image of one size": (taken(size=32), r"input\.size"),
    "views of 10^9": (taken(views=10**9), r"input\.views is 1000000000"),
    "frames of 10^9": (taken(num_frames=10**9), r"input\.num_frames"),
    "deviation of zero": (taken(std=[0, 1, 1]), r"input\.std"),
    "mean as text": (taken(mean="x" * 10**6), r"input\.mean is x"),
    "values from high to low": (taken(value_range=[9, 3]), r"input\.value_range is \[9, 3\], wanted full, image, or"),
    "values without an end": (taken(value_range=[0]), r"input\.value_range"),
    "interpolation of 10^6 letters": (taken(interpolation="x" * 10**6), r"input\.interpolation"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_in_the_description_is_refused_by_its_field(folder: Path, name: str) -> None:
    change, reason = LIES[name]
    change_info(folder, change)
    refused(folder, reason)


def test_a_description_of_100_mb_is_refused_unread(folder: Path) -> None:
    with (folder / INFO).open("ab") as file:
        file.truncate(100 * 2**20)
    refused(folder, rf"adapter\.json has 104,857,600 bytes, wanted at most {MAX_TEXT:,}")


def test_a_description_in_the_metadata_is_as_limited(folder: Path) -> None:
    tensors = safetensors.torch.load((folder / TENSORS).read_bytes())
    (folder / INFO).unlink()
    (folder / TENSORS).write_bytes(safetensors.torch.save(tensors, {"adapter": " " * (MAX_TEXT + 1)}))
    refused(folder, "the metadata of .* has .* bytes")


def test_lists_in_lists_without_end_are_refused(folder: Path) -> None:
    (folder / INFO).write_text('{"a":' * 100_000)
    refused(folder, "is not JSON")


def test_a_size_that_the_file_bears_out_is_compared_with_its_tensors_first(folder: Path) -> None:
    # One tensor of 2^22 numbers makes a bottleneck of 2^22 thinkable: 2 GB here, 300 GB in a ViT-B.
    vp.save_adapter(tuned_model("vit", vp.AdaptFormer(bottleneck=2)), folder)
    tensors = {**safetensors.torch.load((folder / TENSORS).read_bytes()), "x": torch.zeros(2**22)}
    write_tensors(folder, safetensors.torch.save(tensors))
    change_info(folder, fields(bottleneck=2**22))
    model = tiny("vit")
    before = state_of(model)
    with measure_memory() as taken:
        with pytest.raises(ValueError, match=r"shape of .*wanted \(4194304, 32\), got \(2, 32\)"):
            vp.load_adapter(model, folder)
        assert taken() < 500
    assert same(state_of(model), before)


def test_classes_beyond_the_tensors_take_no_memory_on_a_bare_backbone(folder: Path) -> None:
    change_info(folder, lambda info: info.update(num_classes=10**9, class_names=None))
    model = tiny("vit")
    model.reset_classifier(0)
    with pytest.raises(ValueError, match=rf"num_classes is 1000000000, but {TENSORS} holds only"):
        vp.load_adapter(model, folder)


def raw(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Bytes of a safetensors file with a header of our own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FORGED: dict[str, bytes] = {
    "overlap": raw({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, bytes(24)),
    "the same bytes twice": raw({"a": entry(0, 16, [4]), "b": entry(0, 16, [4])}, bytes(16)),
    "a hole": raw({"a": entry(0, 16, [4]), "b": entry(32, 48, [4])}, bytes(48)),
    "bytes behind the end": raw({"a": entry(0, 16, [4])}, bytes(8)),
    "bytes left over": raw({"a": entry(0, 16, [4])}, bytes(32)),
    "offsets backwards": raw({"a": entry(16, 0, [4])}, bytes(16)),
    "offsets below zero": raw({"a": entry(-16, 0, [4])}, bytes(16)),
    "a shape of another size": raw({"a": entry(0, 16, [400])}, bytes(16)),
    "a shape beyond numbers": raw({"a": entry(0, 16, [2**62, 2**62, 4])}, bytes(16)),
    "a shape below zero": raw({"a": entry(0, 16, [-4])}, bytes(16)),
    "an unknown type": raw({"a": entry(0, 16, [4], "object")}, bytes(16)),
    "a header of 2^60 bytes": raw({}, length=2**60),
    "a header of 2^64 - 1 bytes": raw({}, length=2**64 - 1),
    "a header of 99 MB that is not there": raw({}, length=99 * 10**6),
    "a header that is no JSON": raw(b"\xff\xfe{}"),
    "a header that is a list": raw(b"[1, 2]"),
    "lists without end": raw(b"[" * 100_000),
    "half a length": b"\x08\0\0",
    "nothing": b"",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_tensors_are_refused(folder: Path, name: str) -> None:
    write_tensors(folder, FORGED[name])
    refused(folder, rf"{TENSORS} cannot be read")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a\0b", "__class__", "x" * 300])
def test_names_of_tensors_are_only_compared(folder: Path, name: str) -> None:
    tensors = safetensors.torch.load((folder / TENSORS).read_bytes())
    write_tensors(folder, safetensors.torch.save({**tensors, name: torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"tuned tensors do not fit the model:\n  unexpected: "):
        vp.load_adapter(tiny("vit"), folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float64, torch.float8_e4m3fn])
def test_tensors_of_another_type_load_as_numbers(folder: Path, dtype: torch.dtype) -> None:
    tensors = safetensors.torch.load((folder / TENSORS).read_bytes())
    write_tensors(folder, safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    model = vp.load_adapter(tiny("vit"), folder)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_complex_tensors_are_refused(folder: Path) -> None:
    tensors = safetensors.torch.load((folder / TENSORS).read_bytes())
    write_tensors(folder, safetensors.torch.save({name: tensor.to(torch.cfloat) for name, tensor in tensors.items()}))
    refused(folder, "holds complex numbers")
