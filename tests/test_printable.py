"""Text out of files, shown: what it holds can be read, and it controls nothing where it is shown."""

import ast
import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from support.hostile_text import HOSTILE, NASTY

from vision_peft.printable import (
    GuardedStream,
    capitalise,
    for_csv,
    for_markdown,
    for_plot,
    for_shell,
    name_some,
    printable,
    printable_lines,
    show,
    show_over,
    warn,
)

# Made for an environment of its own, in which nothing of the package is installed.
ALONE = ["cli/prepare_vtab.py"]


@pytest.mark.parametrize("text", NASTY)
def test_one_line_is_left_of_any_text_and_shows_what_was_in_it(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) == 1
    assert all(letter.isprintable() or letter in "\u200c\u200d" for letter in shown)
    assert shown != "" or text == ""


def test_what_is_printable_stays_as_it_is() -> None:
    for text in ("plain", "é ß 山", "नमस्ते", "a\u00a0b", "می\u200cخواهم", "👩\u200d🚀"):
        assert printable(text) == text


def test_a_long_text_loses_its_middle() -> None:
    assert len(printable("x" * 10**6)) == 200
    assert len(printable("\u202e" * 10**6)) == 6 * 197 + 3


def test_of_many_names_some_are_named() -> None:
    assert name_some(["a", "b\n", "c", "d"], most=2) == "a, b\\n and 2 more"


def test_line_ends_alone_make_lines_of_our_own_text() -> None:
    assert printable_lines("one\ntwo\r\x1b[2Jthree\u2028four") == "one\ntwo\\r\\x1b[2Jthree\\u2028four"


def test_what_is_shown_goes_through_one_function(capsys: pytest.CaptureFixture[str]) -> None:
    show("one\n\x1b[31mtwo")
    assert show_over("half\x1b", 10, sys.stdout) == 8
    assert show_over("", 8, sys.stdout) == 0
    assert capsys.readouterr().out == "one\n\\x1b[31mtwo\n\rhalf\\x1b  \r        \r"


def test_a_warning_is_one_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn(f"{HOSTILE} is odd")
    assert len(str(caught[0].message).splitlines()) == 1
    assert caught[0].filename == __file__


def test_nothing_controls_the_terminal_through_a_guarded_stream() -> None:
    raw = io.BytesIO()
    plain = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    with warnings.catch_warnings():
        stream = GuardedStream.of(plain)
        print("\rprogress", end="", file=stream)
        print("a\x1b[2J\rb\tc", "\u202e±", sep="\n", file=stream, flush=True)
    assert raw.getvalue() == b"\rprogressa\\x1b[2J\\rb\tc\n\\u202e\\xb1\n"
    assert (stream.encoding, stream.errors) == ("ascii", "backslashreplace")


@pytest.mark.parametrize("text", NASTY)
def test_a_cell_of_markdown_holds_no_markup(text: str) -> None:
    shown = for_markdown(text, starts=True)
    plain = shown.replace("\\\\", "").replace("\\|", "").replace("\\`", "")
    assert not {"|", "`", "<"} & {*plain}
    assert not any(mark in shown for mark in ("](", "][", "]:", "://", "www."))
    assert not shown.startswith(("#", ">", "- ", "* ", "+ ", "---", "~~~", "==="))
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\t=1+1", "\\t=1+1"),
        ("-1.5e-3", "-1.5e-3"),
        ("+3", "+3"),
        ("-1_0", "'-1_0"),
        (-1.5, -1.5),
        (None, None),
        ("a=b", "a=b"),
        ("line\nend", "line\\nend"),
    ],
)
def test_a_cell_of_a_csv_file_is_no_formula(value: object, expected: object) -> None:
    assert for_csv(value) == expected


def test_a_text_of_a_picture_holds_no_mathematics() -> None:
    assert for_plot("$\\frac$ \\$ \x1b\nline") == "\\$\\frac\\$ \\\\$ \\x1b\nline"
    assert for_plot("_hidden") == " _hidden"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_command_can_be_pasted_whatever_is_in_its_words() -> None:
    words = [*NASTY, "plain", "a b", "$HOME", "`id`", "$(id)", "!x", "-n", "\udcff", "'\x01'", "\\\x02"]
    line = for_shell(["printf", "%s\\0", "--", *words])
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    printed = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert printed == b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in ["--", *words])


def test_nothing_else_in_the_package_prints_or_warns(repository: Path) -> None:
    package, found = repository / "vision_peft", []
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if name not in ("printable.py", *ALONE) else ():
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "warnings.warn", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc"):
                found.append(f"{name}:{node.lineno}")  # pyright: ignore[reportAttributeAccessIssue]
    assert found == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linear probe", "Linear probe"),
        ("k-NN is best", "k-NN is best"),
        ("LoRA", "LoRA"),
        ("2 runs", "2 runs"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_name_stays(text: str, shown: str) -> None:
    assert capitalise(text) == shown
