"""The output folder of prepare-video: going on beside files of any name, and a list of what is done that is damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.video_files import write_sizes

from vision_peft.cli.prepare_video import main

pytest.importorskip("av", reason="needs PyAV")
SETTINGS = {"short_side": 32, "gop": 12, "crf": 18, "keep_names": False}
ENTRY = {"path": "a/x.ts", "frames": 6, "source_bytes": 100, "source_mtime": 5}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_sizes(tmp_path / "source" / "a.part" / "x.part.ts", (64, 48))
    (tmp_path / "source" / "notes.part").write_text("mine")
    return tmp_path / "source"


def prepare(*arguments: object) -> int:
    return main([*map(str, arguments), "--short-side", "32", "--workers", "1"])


def test_names_that_end_in_part_are_names_like_others(source: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert prepare(source, out) == 0
    (out / "own.part").write_text("of the user")
    left = out / "a.part" / ".prepare-video-0123456789abcdef.part"
    left.write_bytes(b"half")
    (out / ".prepare-video-0123456789abcdef.part").symlink_to(out / "own.part")
    (out / ".prepare-video-fedcba9876543210.part").mkdir()
    capsys.readouterr()
    assert prepare(source, out) == 0
    assert "1 videos, 1 of them are done already" in capsys.readouterr().out
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == ["a.part/x.part.mp4", "notes.part", "own.part", "prepared.jsonl"]
    assert (out / "own.part").read_text() == "of the user"
    assert prepare(source, out, "--verify") == 0


def test_a_source_cannot_have_the_name_of_an_unfinished_file(source: Path, tmp_path: Path) -> None:
    name = source / "a.part" / ".prepare-video-0123456789abcdef.part"
    name.write_bytes(b"half")
    with pytest.raises(ValueError, match="has the name of an unfinished file of this tool: rename or remove it"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_as_long_as_names_can_be_is_prepared(tmp_path: Path) -> None:
    name = "x" * 251
    write_sizes(tmp_path / "source" / "x.ts", (64, 48))
    (tmp_path / "source" / "x.ts").rename(tmp_path / "source" / f"{name}.ts")
    assert prepare(tmp_path / "source", tmp_path / "out") == 0
    assert (tmp_path / "out" / f"{name}.mp4").is_file()


WHOLE = json.dumps(SETTINGS).encode() + b"\n"
DAMAGED: dict[bytes, str] = {
    b"{}\n": "line 1 is damaged: wanted an object with short_side, gop, crf, keep_names, the settings of the folder",
    b"[1]\n": "line 1 is damaged: wanted an object with short_side",
    b"\xff\xfe\n": "line 1 is damaged",
    json.dumps(SETTINGS | {"gop": True}).encode()
    + b"\n": "line 1 is damaged: gop must be a whole number from 0, got True",
    WHOLE + b'{"x": 1}\n': "line 2 is damaged: wanted an object with path, frames, source_bytes, source_mtime",
    WHOLE + b"[1]\n" + WHOLE: "line 2 is damaged: wanted an object with path",
    WHOLE + b'{"path": "a\n' + json.dumps(ENTRY).encode() + b"\n": "line 2 is damaged",
    WHOLE + b"\xff\n": "line 2 is damaged: 'utf-8' codec",
    WHOLE + b'{"path": "a", "frames": 3}\n': "line 2 is damaged: wanted an object with path",
    **{
        WHOLE + json.dumps(ENTRY | {key: value}).encode() + b"\n": f"line 2 is damaged: {message}"
        for key, value, message in (
            ("path", 3, "path must be a text, got 3; wanted a finished video; remove the line"),
            ("path", "../x", "'../x' is no file below the folder"),
            ("path", "/x.mp4", "'/x.mp4' is no file below the folder"),
            ("path", "", "'' is no file below the folder"),
            ("frames", "3", "frames must be a whole number from 0, got '3'"),
            ("frames", -1, "frames must be a whole number from 0, got -1"),
            ("source_mtime", 1.5, "source_mtime must be a whole number from 0, got 1.5"),
        )
    },
}


@pytest.mark.parametrize("content", [*DAMAGED], ids=str)
def test_a_damaged_list_is_one_line_that_names_file_and_line(content: bytes, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepared.jsonl").write_bytes(content)
    for words in ([], ["--verify"]):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            prepare(source, out, *words)
        assert str(error.value).startswith(f"{out / 'prepared.jsonl'} {DAMAGED[content]}")
        assert "\n" not in str(error.value)
    assert (out / "prepared.jsonl").read_bytes() == content


@pytest.mark.parametrize("cut", [b'{"path": "a/x', b'{"path": "a"}', b"\xff", b"\0\0\0"])
def test_a_last_line_that_was_cut_off_is_made_again(cut: bytes, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepared.jsonl").write_bytes(WHOLE + cut)
    assert prepare(source, out) == 0
    settings, entry = map(json.loads, (out / "prepared.jsonl").read_text().splitlines())
    assert (settings, entry["path"]) == (SETTINGS, "a.part/x.part.ts")


def test_times_before_1970_are_times(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    entry = json.dumps(ENTRY | {"source_mtime": -5}).encode()
    (out / "prepared.jsonl").write_bytes(WHOLE + entry + b"\n")
    assert prepare(source, out) == 0
