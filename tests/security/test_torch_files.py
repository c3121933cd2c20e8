"""Files of `torch.save` that ask for more than they hold: refused before anything is made."""

import collections
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy._core import multiarray
from support.hostile_inputs import is_one_line
from support.peak_memory import measure_memory

from vision_peft.backbones import create_backbone
from vision_peft.formats import read_foreign
from vision_peft.runs.checkpoint import newest_state, save_state
from vision_peft.torch_files import RefusedFile, load_torch_file


class Asks:
    """Something whose unpickling calls `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any, items: Any = None) -> None:
        self.call, self.items = (function, arguments), items

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call if self.items is None else (*self.call, None, None, iter(self.items))


def nested(depth: int, join: Callable[[Any], Any]) -> Any:
    """Something in which everything is twice, and so on: small to write, 2^depth things to walk."""
    thing: Any = torch.zeros(1)
    for _ in range(depth):
        thing = join(thing)
    return thing


HUGE: dict[str, tuple[Any, str]] = {
    "a number of 2 GB": (Asks(multiarray.scalar, np.dtype("V2000000000"), b"x"), "an array of the kind 'V2000000000'"),
    "a text of 2 GB": (Asks(multiarray.scalar, np.dtype("S2000000000"), b"x"), "an array of the kind 'S2000000000'"),
    "a number of one byte": (Asks(multiarray.scalar, np.dtype("f8"), b"x"), "damaged"),
    "an array of 40 GB": (Asks(multiarray._reconstruct, np.ndarray, (10**5, 10**5), b"f4"), ""),
    "objects": (np.array([1, "x"], dtype=object), "an array of the kind 'O8'"),
    "records": (np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]), "an array of the kind 'V8'"),
    "bytes without end": (Asks(bytearray, 10**10), "wants to load"),
    "a set": ({1, 2}, "wants to load"),
    "a view of one number": (torch.zeros(1, 1).expand(10**5, 10**5), r"claims a tensor of shape \(100000, 100000\)"),
    "a view in a list": ([[torch.zeros(1).expand(10**10)]], r"claims a tensor of shape \(10000000000,\)"),
    "a sparse one": (torch.eye(2).to_sparse(), "wants to load"),
    "one without storage": (torch.empty(10**5, 10**5, device="meta"), "wants to load"),
    "an exotic encoding": (Asks(__import__("_codecs").encode, "é" * 10, "punycode"), "damaged"),
    "a key without end": (Asks(collections.OrderedDict, items=[(nested(40, lambda x: (x, x)), 1)]), "damaged"),
    "keys of a list": (Asks(collections.Counter, [nested(40, lambda x: (x, x))]), "damaged"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_asks_for_much(name: str, zipped: bool, tmp_path: Path) -> None:
    content, reason = HUGE[name]
    file = tmp_path / "x.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "more": content}, file, _use_new_zipfile_serialization=zipped)
    assert file.stat().st_size < 10_000
    before = time.process_time()
    with measure_memory() as taken:
        if name == "an array of 40 GB":  # numpy's own constructor makes it; here it stays empty
            assert load_torch_file(file)["more"].size == 0
        else:
            with pytest.raises(RefusedFile, match=reason) as refused:
                load_torch_file(file)
            assert is_one_line(refused.value)
        assert taken() < 200
    assert time.process_time() - before < 10


@pytest.mark.parametrize("join", [lambda x: {"a": x, "b": x}, lambda x: [x, x], lambda x: (x, x)])
def test_what_holds_itself_twice_is_not_walked_twice(join: Callable[[Any], Any], tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save({"cls_token": nested(60, join)}, file)
    with pytest.raises(ValueError, match="holds no state dict"):
        create_backbone("vit_tiny_patch16_224", checkpoint=file)
    with pytest.raises(ValueError, match="wanted blocks"):
        read_foreign(file, "adaptformer", scale=0.1)


def rewrite(file: Path, old: bytes, new: bytes, compress: int = zipfile.ZIP_STORED) -> None:
    """Exchange bytes in the pickle of a file, by a zip archive that is otherwise the same."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", compress) as archive:
        for name, content in members.items():
            if name.endswith("data.pkl"):
                assert content.count(old) >= 1
                content = content.replace(old, new)
            archive.writestr(name, content)


LONG = struct.pack("<i", 2**31 - 1)
FORGED = {
    "a longer storage": (b"M\xb8\x0b", b"J" + LONG, "claims a storage of 8,589,934,588 bytes"),
    "a storage below zero": (b"M\xb8\x0b", b"J" + struct.pack("<i", -1), "damaged"),
    "a storage that is not there": (b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x007q", "claims a storage"),
    "more of it": (b"M\xe8\x03", b"J" + LONG, r"claims a tensor of shape \(2147483647,\)"),
    "a shape beyond it": (b"M\xe8\x03", b"M\xb9\x0b", r"claims a tensor of shape \(3001,\)"),
    "a shape below zero": (b"M\xe8\x03", b"J" + struct.pack("<i", -9), "damaged"),
    "a step beyond it": (b"\x85q\x08K\x01", b"\x85q\x08K\x63", "claims a tensor"),
    "text for a number": (b"M\xe8\x03", b"X\x01\x00\x00\x00x", "damaged"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_tensor(name: str, tmp_path: Path) -> None:
    old, new, reason = FORGED[name]
    file = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(3000)[:1000]}, file)
    rewrite(file, b"", b"")
    assert load_torch_file(file)["x"].shape == (1000,)
    rewrite(file, old, new)
    with pytest.raises(RefusedFile, match=reason):
        load_torch_file(file)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(10**6)}, file)
    rewrite(file, b"", b"", zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 100_000
    with pytest.raises(RefusedFile, match="compressed members"):
        load_torch_file(file)


def test_members_that_overlap_or_repeat_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(10)}, file)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"\x80\x02.")
    with pytest.raises(RefusedFile, match="damaged or not a torch file"):
        load_torch_file(file)


def test_a_longer_storage_in_the_older_form(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(1000)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for count in (2**31 - 1, 5000):
        file.write_bytes(content.replace(b"M\xe8\x03", b"J" + struct.pack("<i", count)))
        with pytest.raises(RefusedFile, match=r"claims a storage|claims storages|claims a tensor"):
            load_torch_file(file)


def test_places_of_the_memory_of_a_pickle_are_names_and_take_no_room(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"x": 1}, file)
    rewrite(file, b"q\x00", b"r\xff\xff\xff\xff")
    assert load_torch_file(file) == {"x": 1}


@pytest.mark.parametrize("name", ["a number of 2 GB", "bytes without end", "a view in a list"])
def test_a_state_asks_for_no_more_than_it_holds(name: str, tmp_path: Path) -> None:
    content, reason = HUGE[name]
    save_state(tmp_path / "state", 1, {"x": content})
    with pytest.warns(UserWarning, match=rf"step_1 is damaged .*{reason}"):
        assert newest_state(tmp_path / "state") is None


def test_other_protocols_are_refused(tmp_path: Path) -> None:
    for protocol in (0, 1, 4, 5):
        (tmp_path / "x.pth").write_bytes(pickle.dumps({"x": 1}, protocol))
        with pytest.raises(RefusedFile, match=re.escape("or not a torch file")):
            load_torch_file(tmp_path / "x.pth")
