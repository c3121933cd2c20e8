"""Numbers that verbs take, with errors that say which ones."""

from argparse import ArgumentTypeError

from vision_peft.printable import printable


def parse_number(text: str, least: int = 0) -> int:
    """Return a whole number of at least ``least``."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ArgumentTypeError(f"must be a whole number of at least {least}, got {printable(text)}")
    return number


def parse_positive(text: str) -> int:
    """Return a whole number of at least 1."""
    return parse_number(text, 1)


def parse_seeds(text: str) -> list[int]:
    """Return "0,1,2" as numbers, each once."""
    try:
        numbers = [parse_number(word) for word in text.split(",")]
    except ArgumentTypeError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise ArgumentTypeError(f"must be different whole numbers from 0 on, such as 0,1,2, got {printable(text)}")
    return numbers
