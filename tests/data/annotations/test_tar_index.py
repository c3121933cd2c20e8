"""The files of a tar archive by its headers: what `tarfile` finds, and an error for whatever is damaged."""

import io
import tarfile
from pathlib import Path

import pytest

from vision_peft.data.annotations.tar_index import BLOCK, list_members

FILES = {"a.txt": b"one", "folder/b.bin": bytes(range(256)) * 5, "empty": b"", f"{'long/' * 30}c.txt": b"three"}
FILES |= {"größe.txt": b"four"}


def write_tar(path: Path, form: int = tarfile.GNU_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link" * 50)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd" * 20
        archive.addfile(link)
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_file_is_found_where_tarfile_finds_it(tmp_path: Path, form: int) -> None:
    if form == tarfile.USTAR_FORMAT:  # has no room for the target of the link
        path = tmp_path / "plain.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for name, content in FILES.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        path = write_tar(tmp_path / "plain.tar", form)
    with tarfile.open(path) as archive:
        wanted = [(info.name, info.offset_data, info.size) for info in archive if info.isreg() and info.name in FILES]
    found = [member for member in list_members(path) if member.name in FILES]
    assert [tuple(member) for member in found] == wanted
    assert len(found) == len(FILES)
    content = path.read_bytes()
    assert {name: content[offset : offset + size] for name, offset, size in found} == FILES


def test_an_archive_that_stops_between_two_files_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "open.tar")
    place = [*list_members(path)][1].offset - BLOCK
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(ValueError, match=rf"open\.tar is cut short: it stops at byte {place:,}, without the zeros"):
        list(list_members(path))


def test_a_compressed_archive_no_archive_a_pipe_and_a_cut_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tar is compressed, wanted a plain tar archive: decompress it by gunzip"):
        list(list_members(write_tar(tmp_path / "a.tar", mode="w:gz")))
    (tmp_path / "b.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"b\.tar is damaged: it is not a tar archive"):
        list(list_members(tmp_path / "b.tar"))
    with pytest.raises(ValueError, match="is a folder, wanted a file"):
        list(list_members(tmp_path))
    path = write_tar(tmp_path / "c.tar")
    last = [*list_members(path)][1]  # folder/b.bin, 1,280 bytes
    path.write_bytes(path.read_bytes()[: last.offset + 100])
    with pytest.raises(
        ValueError, match=rf"c\.tar is cut short: the file at byte {last.offset - BLOCK:,} has 1,280 bytes, 100"
    ):
        list(list_members(path))


@pytest.mark.parametrize("at", [0, 100, 124, 148, 156, 257])
def test_a_damaged_header_ends_nothing_in_silence(tmp_path: Path, at: int) -> None:
    path = write_tar(tmp_path / "damaged.tar")
    place = [*list_members(path)][1].offset - BLOCK
    content = bytearray(path.read_bytes())
    content[place + at] ^= 0x15
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged\.tar is damaged: there is no header of a file at byte {place:,}"):
        list(list_members(path))


def test_a_size_that_would_go_backwards_or_beyond_the_end_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.jpg")
    for size in (-BLOCK * 4, 2**62):
        info.size = size
        (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10 * BLOCK))
        with pytest.raises(ValueError, match=r"huge\.tar is cut short"):
            list(list_members(tmp_path / "huge.tar"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hard_link_is_the_file_that_it_names(tmp_path: Path, form: int) -> None:
    long = "" if form == tarfile.USTAR_FORMAT else "long/" * 40
    with tarfile.open(tmp_path / "links.tar", "w", format=form) as archive:
        info = tarfile.TarInfo(f"{long}größe.png")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"image"))
        for name, target in ((f"{long}b.png", info.name), ("c.png", f"{long}b.png"), ("d.png", "elsewhere.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
        symbolic = tarfile.TarInfo("e.png")
        symbolic.type, symbolic.linkname = tarfile.SYMTYPE, "c.png"
        archive.addfile(symbolic)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    passed_over: list[tuple[str, str]] = []
    found = [*list_members(tmp_path / "links.tar", passed_over)]
    assert [member.name for member in found] == [f"{long}größe.png", f"{long}b.png", "c.png"]
    assert len({(member.offset, member.size) for member in found}) == 1
    assert passed_over == [
        ("d.png", "a link to 'elsewhere.png', which is not in front of it: pack both"),
        ("e.png", "a symbolic link: pack it with --dereference"),
    ]


def test_what_comes_behind_the_end_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "joined.tar")
    found, content = [*list_members(path)], path.read_bytes()
    path.write_bytes(content + bytes(2**21))
    assert [*list_members(path)] == found
    for behind in (content, bytes(2**21) + b"x"):
        path.write_bytes(content + behind)
        with pytest.raises(
            ValueError, match=r"joined\.tar goes on behind its end, at byte [\d,]+: .* several archives"
        ):
            list(list_members(path))
    place = found[1].offset - BLOCK
    path.write_bytes(content[:place] + bytes(BLOCK) + content[place + BLOCK :])
    with pytest.raises(ValueError, match=r"joined\.tar goes on behind its end"):
        list(list_members(path))


def test_sparse_files_and_broken_pax_headers_are_refused(tmp_path: Path) -> None:
    for records, problem in ((b"22 GNU.sparse.major=1\n", "holds a sparse file"), (b"99 path=a\n", "no pax header")):
        info = tarfile.TarInfo("header")
        info.type, info.size = tarfile.XHDTYPE, len(records)
        (tmp_path / "pax.tar").write_bytes(info.tobuf() + records.ljust(BLOCK, b"\0") + tarfile.TarInfo("a").tobuf())
        with pytest.raises(ValueError, match=problem):
            list(list_members(tmp_path / "pax.tar"))
