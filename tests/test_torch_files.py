"""What `torch.save` writes of tensors and plain values is read as torch reads it, in both of its forms."""

import argparse
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vision_peft.torch_files import RefusedFile, load_torch_file

BASE = torch.arange(24.0)
CONTENTS: dict[str, Any] = {
    "tensors of many types": {
        str(kind): torch.ones(2, 3).to(kind)
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.cfloat)
    },
    "views of one storage": [BASE[3:9], BASE.view(4, 6).T, BASE[::2], BASE.expand(3, 24), BASE[:0], BASE[5]],
    "parameters": {"weight": torch.nn.Parameter(torch.rand(3)), "frozen": torch.nn.Parameter(torch.rand(2), False)},
    "an ordered state": OrderedDict(a=torch.zeros(1), b=torch.ones(2)),
    "plain values": {
        "a": [1, -2, 3.5, None, True, "é", ("x", (2**40, -1))],
        3: {},
        None: (),
        True: b"\xff",
        "n": 2**70,
    },
    "sizes and devices": (torch.Size([2, 3]), torch.device("cpu"), torch.float32),
    "a schedule": Counter({10: 1, 20: 1}),
}


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and not isinstance(one, torch.Size):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", CONTENTS)
def test_it_comes_back_as_torch_gives_it(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(CONTENTS[name], tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    wanted = torch.load(tmp_path / "x.pth", weights_only=name != "a schedule")
    assert alike(load_torch_file(tmp_path / "x.pth"), wanted)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.float8_e4m3fn])
def test_types_without_a_storage_of_their_own(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"x": torch.zeros(3, 4).to(dtype)[1:]}, tmp_path / "x.pth")
    found = load_torch_file(tmp_path / "x.pth")["x"]
    assert (found.dtype, found.shape) == (dtype, (2, 4))


@pytest.mark.parametrize("zipped", [True, False])
def test_namespaces_arrays_and_numbers_of_numpy(tmp_path: Path, zipped: bool) -> None:
    arrays = {
        kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "f4", "<f8", ">f8", ">i4", "u1", "i8", "bool")
    }
    arrays["by columns"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {"args": argparse.Namespace(lr=0.1, name="vit"), "best": np.float64(76.5), "step": np.int64(3), **arrays}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = load_torch_file(tmp_path / "x.pth")
    assert (found["args"], found["best"], found["step"]) == (content["args"], 76.5, 3)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert torch.equal(torch.as_tensor(found["f4"]), torch.arange(6.0).view(2, 3))


def test_a_file_that_is_not_there_and_one_that_is_no_torch_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_torch_file(tmp_path / "x.pth")
    for content in (b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02.", b"text", bytes(1000)):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(RefusedFile, match=r"x\.pth is (truncated|damaged) or not a torch file"):
            load_torch_file(tmp_path / "x.pth")
