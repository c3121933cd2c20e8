"""Files of `torch.save` that copy what they hold once, a thousand times: refused before the copies are made."""

import argparse
import struct
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hostile_inputs import is_one_line
from support.peak_memory import measure_memory

from vision_peft.torch_files import RefusedFile, check_torch_file, load_torch_file

COUNT = 1000


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def keep(opcodes: bytes, place: int) -> bytes:
    """An entry of a dict whose value stays in the memory of the pickle."""
    return text(f"kept {place}") + opcodes + b"q%c" % place + b"s"


def repeat(opcodes: bytes, count: int = COUNT) -> bytes:
    """An entry of a dict that is a list of the same, made anew each time."""
    return text("copies") + b"](" + opcodes * count + b"es"


LONG = text("a" * 2**20)
MANY = b"}(" + b"".join(text(f"k{number}") + b"N" for number in range(20_000)) + b"u"
BYTES = b"c_codecs\nencode\n" + LONG + text("latin1") + b"\x86R"
DTYPE = (
    b"cnumpy\ndtype\n"
    + text("f4")
    + b"\x89\x88\x87R(K\x03"
    + text(">")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C".replace(b"C", text("b")) + b"\x87R"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x04tQK\x00K\x04\x85K\x01\x85\x89N%stR"
)
NESTED = b"](K\x01K\x02\x86q\x09" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(9, 60)) + b"e"  # in h60
COPIES = {
    "bytes": keep(LONG, 0) + keep(text("latin1"), 1) + repeat(b"c_codecs\nencode\nh\x00h\x01\x86R"),
    "an ordered dict": keep(MANY, 0) + repeat(b"ccollections\nOrderedDict\nh\x00\x85R"),
    "a counter": keep(MANY, 0) + repeat(b"ccollections\nCounter\nh\x00\x85R"),
    "attributes": keep(MANY, 0) + repeat(b"cargparse\nNamespace\n)\x81h\x00b"),
    "attributes of a dict": keep(MANY, 0) + repeat(b"ccollections\nOrderedDict\n)Rh\x00b"),
    "attributes in a list": keep(b"](" + (text("ab") + b"N\x86") * 10**5 + b"e", 0)
    + repeat(b"ccollections\nOrderedDict\n)Rh\x00b"),
    "sizes": keep(b"](" + b"K\x01" * 10**6 + b"e", 0) + repeat(b"ctorch\nSize\nh\x00\x85R"),
    "arrays": keep(BYTES, 0)
    + keep(DTYPE, 1)
    + repeat(ARRAY + b"(K\x01J" + struct.pack("<i", 2**18) + b"\x85h\x01\x89h\x00tb"),
    "notes of tensors": keep(MANY, 0) + repeat(TENSOR.replace(b"%s", b"h\x00")),
    "sides without end": keep(b"(" + b"J\xff\xff\xff\x7f" * 10**5 + b"t", 0)
    + text("x")
    + TENSOR.replace(b"K\x04\x85K\x01\x85", b"h\x00h\x00").replace(b"%s", b"")
    + b"s",
    "a kind to print": keep(NESTED, 0) + text("x") + b"cnumpy\ndtype\nh\x3c\x85Rs",
    "a storage to hash": keep(NESTED, 0)
    + text("x")
    + b"("
    + text("storage")
    + b"h\x3c"
    + text("0cpu") * 2
    + b"K\x04tQs",
}
COPIES["a tensor of another size"] = (
    text("x")
    + TENSOR.replace(b"%s", b"")
    + b"("
    + TENSOR[len(b"ctorch._utils\n_rebuild_tensor_v2\n(") :].partition(b"Q")[0]
    + b"QK\x00J\xff\xff\xff\x0f\x85K\x01\x85tbs"
)


def write(path: Path, opcodes: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "data.pkl": b"\x80\x02}" + opcodes + b".",
            "version": b"3\n",
            "data/0": bytes(16),
        }.items():
            archive.writestr(f"x/{name}", content)


@pytest.mark.parametrize("name", COPIES)
def test_what_is_held_once_is_not_copied_a_thousand_times(name: str, tmp_path: Path) -> None:
    write(tmp_path / "x.pth", COPIES[name])
    before = time.process_time()
    with measure_memory() as taken:
        for read in (check_torch_file, load_torch_file):
            with pytest.raises(RefusedFile, match=r"copies what it holds|is damaged or not a torch file") as refused:
                read(tmp_path / "x.pth")
            assert is_one_line(refused.value)
        assert taken() < 200
    assert time.process_time() - before < 10


@pytest.mark.parametrize("name", ["bytes", "an ordered dict", "arrays", "notes of tensors"])
def test_the_pickles_are_those_that_torch_reads_and_once_is_allowed(name: str, tmp_path: Path) -> None:
    opcodes = COPIES[name]
    start = opcodes.index(text("copies"))
    once = {"an ordered dict": b"ccollections\nOrderedDict\n)R", "notes of tensors": TENSOR.replace(b"%s", b"N")}.get(
        name
    )
    once = (
        once
        or opcodes[start + len(text("copies")) + 2 : -2][: (len(opcodes) - start - len(text("copies")) - 4) // COUNT]
    )
    write(tmp_path / "x.pth", opcodes[:start] + text("copies") + b"](" + once + b"es")
    assert len(load_torch_file(tmp_path / "x.pth")["copies"]) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_sound_files_of_little_else_are_read(zipped: bool, tmp_path: Path) -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    content = {
        "zeros": np.zeros(10**5, ">f4"),
        "text": b"a" * 10**5,
        "counts": Counter(range(10**4)),
        "args": argparse.Namespace(**{f"key{number}": None for number in range(1000)}),
        "state": state,
        "numbers": [np.float32(number) for number in range(100)],
        "keys": {b"key": 1},
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = load_torch_file(tmp_path / "x.pth")
    assert (found["counts"], found["args"], found["text"]) == (content["counts"], content["args"], content["text"])
    assert (found["zeros"].shape, found["numbers"], found["keys"]) == ((10**5,), [*range(100)], {b"key": 1})
    assert found["state"]._metadata == getattr(state, "_metadata")  # noqa: B009
