"""How the words of a run look on a terminal, in a pipe and in log.txt."""

import io
from pathlib import Path

import pytest

from vision_peft.printable import GuardedStream, show
from vision_peft.runs.texts import LogFile, Terminal, break_lines


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_lines_break_between_words_under_what_the_first_one_says() -> None:
    assert break_lines("device    one two three\nshort", 20) == "device    one two\n          three\nshort"
    assert break_lines("a sentence that goes on", 14) == "a sentence\n    that goes\n    on"


def test_a_number_keeps_its_unit_and_a_path_that_does_not_fit_its_line() -> None:
    assert break_lines("an error of 1.64 %", 17) == "an error of\n    1.64 %"
    assert break_lines("folder    runs/of/a/long/name", 20) == "folder    runs/of/a/long/name"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}, {}], ids=str)
def test_colours_are_left_out_where_the_terminal_has_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = FakeTerminal()
    Terminal(terminal).say("done", "bold")
    assert terminal.getvalue() == "done\n"


def test_only_a_terminal_gets_colours_and_what_files_say_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = FakeTerminal(), io.StringIO()
    for output in (Terminal(terminal), Terminal(pipe), log := LogFile(tmp_path / "log.txt")):
        output.say("a \x1b[31mname", "yellow")
    log.close()
    assert terminal.getvalue() == "\x1b[33ma \\x1b[31mname\x1b[0m\n"
    assert pipe.getvalue() == "a \\x1b[31mname\n"
    assert (tmp_path / "log.txt").read_text().endswith("  a \\x1b[31mname\n")


def test_colours_pass_the_guard_of_the_terminal_and_other_escapes_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class GuardedTerminal(GuardedStream):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    kept = io.BytesIO()
    unguarded = io.TextIOWrapper(kept, encoding="utf-8")
    stream = GuardedTerminal.of(unguarded)
    show("ours \x1b[2J", stream, "red")
    print("theirs \x1b[2J", file=stream, flush=True)
    assert kept.getvalue().decode() == "\x1b[31mours \\x1b[2J\x1b[0m\ntheirs \\x1b[2J\n"
