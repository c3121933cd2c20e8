"""Pickles of strangers: nothing in them runs, wherever they are put."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from support.hostile_inputs import Mark, is_one_line
from support.peak_memory import measure_memory
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from vision_peft.backbones import create_backbone
from vision_peft.formats import read_foreign
from vision_peft.runs.checkpoint import newest_state, save_state
from vision_peft.runs.safe_dcp_reader import ShardReader
from vision_peft.runs.train_state import SHARDS

TENSORS = {"tuned/w": torch.arange(6.0).reshape(2, 3), "moments/w/step": torch.tensor(4.0)}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def bare(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


WRITERS: dict[str, Callable[[Any, Path], None]] = {"zip": torch.save, "legacy": legacy, "bare": bare}


def test_the_mark_is_made_where_a_pickle_does_run(mark: Path) -> None:
    pickle.loads(pickle.dumps(Mark(mark)))
    assert mark.exists()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".tar", ".safetensors", ".npz"])
def test_a_backbone_file_runs_nothing(writer: str, suffix: str, tmp_path: Path, mark: Path) -> None:
    file = tmp_path / f"vit{suffix}"
    WRITERS[writer]({"state_dict": {"cls_token": torch.zeros(1), "x": Mark(mark)}}, file)
    with pytest.raises(ValueError, match=file.name) as refused:
        create_backbone("vit_tiny_patch16_224", checkpoint=file)
    assert is_one_line(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("source", ["adaptformer", "vpt", "ssf", "videomae"])
def test_a_foreign_adapter_runs_nothing(writer: str, source: str, tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "adapter.pth"
    WRITERS[writer]({"model": {"x": torch.zeros(1)}, "args": Mark(mark)}, file)
    with pytest.raises(ValueError, match=r"adapter\.pth (was refused: besides tensors|is damaged)") as refused:
        read_foreign(file, source)
    assert is_one_line(refused.value)
    assert not mark.exists()


def test_arrays_of_objects_in_an_npz_run_nothing(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "vit.npz"
    np.savez(file, **{"embedding/kernel": np.array([Mark(mark)], dtype=object)}, allow_pickle=True)  # pyright: ignore
    with pytest.raises(ValueError, match="npz") as refused:
        create_backbone("vit_tiny_patch16_224", checkpoint=file)
    assert is_one_line(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cls_token", "model"])
def test_a_view_that_claims_more_numbers_than_the_file_holds_is_refused(name: str, tmp_path: Path) -> None:
    file, view = tmp_path / "vit.pth", torch.zeros(1, 1, 1).expand(1, 10**6, 10**6)
    torch.save({name: {"x": view} if name == "model" else view}, file)
    with pytest.raises(ValueError, match=r"claims a tensor of shape \(1, 1000000, 1000000\)"):
        create_backbone("vit_tiny_patch16_224", checkpoint=file)
    with pytest.raises(ValueError, match="larger than the whole file"):
        read_foreign(file, "adaptformer")


def with_sums(folder: Path) -> Path:
    """A state whose checksums a forger wrote anew."""
    from vision_peft.runs.checkpoint import _sha256

    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "sha256"]
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    (folder / "sha256").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return save_state(tmp_path / "state", 1, {"step": 1}, shards=TENSORS)


def refused_state(state: Path) -> str:
    with pytest.warns(UserWarning, match="step_1 is damaged") as warned:
        assert newest_state(with_sums(state).parent) is None
    return str(warned[0].message)


def test_shards_come_back_through_the_plain_reader(state: Path) -> None:
    assert newest_state(state.parent) is not None
    loaded = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    dcp.load(loaded, storage_reader=ShardReader(state / SHARDS), no_dist=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    theirs = dcp.FileSystemReader(state / SHARDS).read_metadata()
    ours = ShardReader(state / SHARDS).read_metadata()
    assert (ours.state_dict_metadata, ours.storage_data) == (theirs.state_dict_metadata, theirs.storage_data)


def test_a_state_runs_nothing(state: Path, mark: Path) -> None:
    torch.save({"step": Mark(mark)}, state / "state.pt")
    refused_state(state)
    assert not mark.exists()


@pytest.mark.parametrize("place", ["whole", "inside"])
def test_the_contents_of_shards_run_nothing(state: Path, mark: Path, place: str) -> None:
    file = state / SHARDS / ".metadata"
    contents: Any = Mark(mark) if place == "whole" else Metadata({"w": Mark(mark)})  # pyright: ignore[reportArgumentType]
    file.write_bytes(pickle.dumps(contents))
    assert "wants to load subprocess.call, which can run any code" in refused_state(state)
    assert not mark.exists()


def forge(state: Path, change: Callable[[Metadata], Any]) -> None:
    file = state / SHARDS / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def test_an_entry_that_torch_would_unpickle_is_refused(state: Path, mark: Path) -> None:
    (state / SHARDS / "__0_0.distcp").write_bytes(pickle.dumps(Mark(mark)))

    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata["tuned/w"] = BytesStorageMetadata()

    forge(state, change)
    assert "BytesStorageMetadata" in refused_state(state)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", "..", "", "a\0b", 3])
def test_shards_outside_their_folder_are_refused(state: Path, name: Any) -> None:
    def change(metadata: Metadata) -> None:
        metadata.storage_data[MetadataIndex("tuned/w", [0, 0])].relative_path = name

    forge(state, change)
    assert ".metadata is refused" in refused_state(state)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname"])
def test_checksums_of_files_elsewhere_are_not_computed(state: Path, name: str) -> None:
    with (state / "sha256").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.warns(UserWarning, match="which is outside the folder"):
        assert newest_state(state.parent) is None


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"not a pickle", pickle.dumps({"a": 1}), pickle.dumps([[]])])
def test_damaged_contents_of_shards_are_refused(state: Path, data: bytes) -> None:
    (state / SHARDS / ".metadata").write_bytes(data)
    assert ".metadata is refused" in refused_state(state)


def nest(depth: int) -> bytes:
    """Opcodes of a tuple of twice the same tuple, and so on: small to write, endless to hash or to print."""
    return b"(I1\ntq\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))


BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "memo of four bytes": b"\x80\x02}r\x00\x00\x00\x10.",
    "bytes": b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00.",
    "text": b"\x80\x04\x8d\xff\xff\xff\xff\x0f\x00\x00\x00.",
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\x0f\x00\x00.",
    "number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "number as text": b"I" + b"9" * 10**6 + b"\n.",
    "a key to hash": b"\x80\x02}" + nest(60) + b"K\x01s.",
    "a set": b"\x80\x04\x8f(" + nest(60) + b"\x90.",
    "sizes": b"\x80\x02](]q\x00(" + b"N" * 10**6 + b"e" + b"ctorch\nSize\nh\x00\x85R" * 200 + b"e.",
    "arguments": b"\x80\x02](("
    + b"N" * 10**5
    + b"tq\x00"
    + b"ctorch.serialization\n_get_layout\nh\x00R" * 1000
    + b"e.",
    "attributes": b"\x80\x02](ctorch.serialization\n_get_layout\n}X\x01\x00\x00\x00xNsbe.",
    "a text to make": b"\x80\x02ctorch.serialization\n_get_layout\n" + nest(60) + b"\x85R.",
}


REASONS = {
    "sizes": "wanted a size",
    "arguments": "it calls something with more than a few arguments",
    "attributes": "it gives a state to what has none",
}


@pytest.mark.parametrize("name", BOMBS)
def test_contents_of_shards_ask_for_no_more_than_they_hold(state: Path, name: str) -> None:
    (state / SHARDS / ".metadata").write_bytes(BOMBS[name])
    with measure_memory() as taken:
        assert f".metadata is refused: {REASONS.get(name, '')}" in refused_state(state)
        assert taken() < 100


@pytest.mark.parametrize("shared", ["parts", "a tensor", "sides"])
def test_tensors_of_the_contents_share_no_parts(state: Path, shared: str) -> None:
    def change(metadata: Metadata) -> None:
        tensor: Any = metadata.state_dict_metadata["tuned/w"]
        if shared == "parts":
            tensor.chunks *= 1000
        elif shared == "a tensor":
            metadata.state_dict_metadata |= {f"{number}": tensor for number in range(1000)}
        else:
            tensor.size = (1,) * 65

    forge(state, change)
    wanted = (
        "a size of at most 64 numbers" if shared == "sides" else r"it has 1,00\d parts of tensors, and places of \d"
    )
    with pytest.raises(ValueError, match=wanted):
        ShardReader(state / SHARDS).read_metadata()


def test_contents_of_gigabytes_are_not_read(state: Path) -> None:
    with (state / SHARDS / ".metadata").open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match="8,589,934,592 bytes, wanted at most"):
        ShardReader(state / SHARDS).read_metadata()


def load_shards(state: Path) -> str:
    """Load the shards of a state, and return why that fails."""
    loaded = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    with pytest.raises(CheckpointException) as failed:
        dcp.load(loaded, storage_reader=ShardReader(state / SHARDS), no_dist=True)
    return " ".join(str(error) for error, _ in failed.value.failures.values())


def test_a_part_of_the_shards_that_claims_more_than_it_holds_is_refused(state: Path, mark: Path) -> None:
    (file,) = (state / SHARDS).glob("*.distcp")
    for content, reason in ((torch.zeros(1).expand(10**6, 10**6), "claims a tensor"), (Mark(mark), "wants to load")):
        torch.save(content, file)
        size = file.stat().st_size

        def change(metadata: Metadata, size: int = size) -> None:
            for place in metadata.storage_data.values():
                place.offset, place.length = 0, size

        forge(state, change)
        assert reason in load_shards(state)
    assert not mark.exists()


def test_a_part_behind_the_end_of_its_file_is_refused(state: Path) -> None:
    def change(metadata: Metadata) -> None:
        for place in metadata.storage_data.values():
            place.length = 2**40

    forge(state, change)
    assert "the table of contents places a tensor there" in load_shards(state)
