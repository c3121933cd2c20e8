"""Archives of arrays that unpack to more than they are, or to something else than they say: one line, no memory."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.hostile_inputs import is_one_line
from support.peak_memory import measure_memory

from vision_peft.backbones import create_backbone

KERNEL = "embedding/kernel.npy"


def array(shape: tuple[int, ...], data: bytes, kind: str = "<f4") -> bytes:
    """The bytes of an array whose header may lie."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(content: bytes, method: int = zipfile.ZIP_DEFLATED, times: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat
        for number in range(times):
            made.writestr(KERNEL if number == 0 else f"{number}.npy", content)
    return file.getvalue()


def damaged(content: bytes) -> bytes:
    """With a checksum that is wrong."""
    return content.replace(bytes(40), b"\1" * 40)


FILES: dict[str, Callable[[], tuple[bytes, str]]] = {
    "a bomb": lambda: (archive(array((10**8,), bytes(4 * 10**8))), r"unpacks to 400,000,\d+ bytes, more than 20 times"),
    "many bombs": lambda: (archive(array((10**6,), bytes(4 * 10**6)), times=20), "more than 20 times its size"),
    "a shape beyond its bytes": lambda: (archive(array((10**5, 10**5), b"1234")), "which is not what it holds"),
    "a shape beyond numbers": lambda: (archive(array((2**62, 2**62), b"1234")), "which is not what it holds"),
    "a shape below zero": lambda: (archive(array((-1, -4), b"1234" * 4)), "npz"),
    "an item of 2 GB": lambda: (archive(array((1,), b"1234", "|V2000000000")), "which is not what it holds"),
    "a header of megabytes": lambda: (archive(b"\x93NUMPY\2\0" + struct.pack("<I", 10**7) + b" " * 10**7), "npz"),
    "a header that is no header": lambda: (archive(b"\x93NUMPY\1\0\5\0{{{{{"), "truncated or not an"),
    "nested without end": lambda: (archive(b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535), "truncated or not an"),
    "no array": lambda: (archive(b"text"), "truncated or not an"),
    "a wrong checksum": lambda: (damaged(archive(array((2500,), bytes(10**4)), zipfile.ZIP_STORED)), "npz is"),
    "another way to pack": lambda: (archive(array((1,), b"1234"), zipfile.ZIP_LZMA)[:-80], "truncated or not an"),
    "no archive": lambda: (b"PK\x03\x04" + bytes(100), "truncated or not an"),
    "an empty archive": lambda: (archive(b"", times=0), "lacks|does not|no state|npz"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_archive_is_no_larger_than_it_says(name: str, tmp_path: Path) -> None:
    content, reason = FILES[name]()
    (tmp_path / "vit.npz").write_bytes(content)
    with measure_memory() as taken:
        with pytest.raises(ValueError, match=reason) as refused:
            create_backbone("vit_tiny_patch16_224", checkpoint=tmp_path / "vit.npz", depth=1)
        assert taken() < 300
    assert is_one_line(refused.value)
