"""Bits come back as they went in, and texts of another length or form are refused."""

import base64

import numpy as np
import pytest

from vision_peft.packed_bits import pack_bits, unpack_bits


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 597])
def test_bits_come_back_as_they_went_in(number: int) -> None:
    bits = np.random.default_rng(number).random(number) < 0.5
    assert np.array_equal(unpack_bits(pack_bits(bits), number), bits)


def test_the_first_bit_is_the_highest_of_the_first_byte() -> None:
    assert pack_bits(np.array([True, False, True])) == base64.b64encode(bytes([0b10100000])).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oA==", "wanted one bit for each of 9 items, 2 bytes; got 1"),
        ("oAAA", "2 bytes; got 3"),
        ("o", "wanted base64"),
        ("oA=", "wanted base64"),
        ("*AA=", "wanted base64"),
        ("é" * 8, "wanted base64"),
        ("oAE=", "holds ones behind the last of 9 items"),
    ],
)
def test_another_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_bits(text, 9)
