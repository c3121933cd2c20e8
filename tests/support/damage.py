"""Damage to files: cut, bits turned, parts exchanged, repeated, taken out of another file."""

from collections.abc import Callable
from random import Random

Damage = Callable[[bytes, bytes, Random], bytes]


def cut(content: bytes, _: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def flip(content: bytes, _: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _number in range(random.choice((1, 1, 2, 8, 64))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def overwrite(content: bytes, _: bytes, random: Random) -> bytes:
    place, value = random.randrange(len(content)), random.choice((b"\x00", b"\xff", b"\x55", b"\x80\x00"))
    length = random.choice((1, 2, 4, 8, 400))
    return content[:place] + (value * length)[:length] + content[place + length :]


def splice(content: bytes, other: bytes, random: Random) -> bytes:
    place, source = random.randrange(len(content)), random.randrange(len(other))
    return content[:place] + other[source : source + random.randrange(1, len(other))]


def exchange(content: bytes, _: bytes, random: Random) -> bytes:
    first, second = sorted(random.sample(range(len(content) + 1), 2))
    return content[second:] + content[first:second] + content[:first]


def repeat(content: bytes, _: bytes, random: Random) -> bytes:
    first, second = sorted(random.sample(range(len(content) + 1), 2))
    return content[:second] + content[first:second] * random.choice((1, 2, 50)) + content[second:]


def remove(content: bytes, _: bytes, random: Random) -> bytes:
    first = random.randrange(len(content))
    return content[:first] + content[first + random.choice((1, 2, 16, 400)) :]


DAMAGES: tuple[Damage, ...] = (cut, flip, flip, overwrite, overwrite, splice, exchange, repeat, remove)


def damage(content: bytes, other: bytes, random: Random) -> bytes:
    """Damage `content` in one to three ways; `other` is a file to take parts from."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = random.choice(DAMAGES)(content or b"\0", other, random)
    return content
