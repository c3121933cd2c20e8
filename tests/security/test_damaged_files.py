"""Damaged files of every kind that is read: each is read, or an error in clean words; nothing else, and not for long.

DAMAGED_TABLE=table.md writes how each kind fared.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from support.adapters import tuned_model
from support.damage import damage
from support.families import tiny
from support.hostile_text import is_clean, message_of
from support.official_tuned import official_adaptformer
from support.rows import sample_row
from support.tiny_run import tiny_config

import vision_peft as vp
from vision_peft.backbones import npz
from vision_peft.backbones.checkpoints import read_state
from vision_peft.config.parse import parse_config, to_dict
from vision_peft.data.datasets.list import ImageLists
from vision_peft.results.row import read_row
from vision_peft.runs import checkpoint
from vision_peft.runs.run_config import read_config
from vision_peft.runs.saved_data import read_saved_data

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="alarms of POSIX")]

FILES = 200  # of each kind
SECONDS = 10


def read_data(path: Path) -> None:
    saved = read_saved_data(path)
    assert saved is not None
    for split in saved.splits:
        list(saved.items(split))


@pytest.fixture(scope="module")
def sources(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Of each kind: a true file, and what reads one at a path."""
    folder = tmp_path_factory.mktemp("sources")
    adapter = vp.save_adapter(tuned_model(), folder / "adapter", class_names=["a", "b", "c", "d", "e"])
    state = official_adaptformer()
    torch.save({"model": state, "epoch": 3}, folder / "new.pth")
    torch.save({"model": state}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    np.savez(
        folder / "vit.npz", **{"cls": np.zeros((1, 1, 16), np.float32), "embedding/kernel": np.ones((4, 4, 3, 16))}
    )
    data = {"version": 1, "digest": "x", "classes": ["a", "b"], "splits": {"train": {"items": 2, "digest": "y"}}}
    lines = [json.dumps(data)[:-1] + ",", '"train": [', '["a/1.jpg", 0, 123],', '["b/é.jpg", 1, null]', "]", "}"]
    (folder / "data.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [path.relative_to(photos).as_posix() for path in sorted((photos / "train").rglob("*.png"))]
    listed = "".join(f"{name} {name.split('/')[1]}\n" for name in names)

    def load_adapter(path: Path, name: str) -> None:
        with_other = path.with_suffix(".adapter")
        shutil.copytree(adapter, with_other)
        shutil.copy(path, with_other / name)
        vp.load_adapter(tiny("vit"), with_other)

    def load_config(path: Path) -> None:
        with_config = path.with_suffix(".run")
        with_config.mkdir()
        shutil.copy(path, with_config / "config.yaml")
        parse_config(read_config(with_config))

    def load_list(path: Path, suffix: str) -> None:
        shutil.copy(path, path.with_suffix(suffix))
        ImageLists(root=str(photos), train=str(path.with_suffix(suffix))).load("train")

    def load_torch(path: Path) -> None:
        shutil.copy(path, path.with_suffix(".pth"))
        read_state(path.with_suffix(".pth"))
        vp.read_foreign(path.with_suffix(".pth"), "adaptformer").build(num_heads=2)

    def load_npz(path: Path) -> None:
        shutil.copy(path, path.with_suffix(".npz"))
        npz.head_classes(path.with_suffix(".npz"))
        vp.create_backbone(
            "vit_tiny_patch16_224", checkpoint=path.with_suffix(".npz"), depth=1, embed_dim=16, num_heads=2
        )

    def load_state(path: Path) -> None:
        with_state = path.with_suffix(".step") / "step_1"
        with_state.mkdir(parents=True)
        shutil.copy(path, with_state / "state.pt")
        checkpoint.read_state(with_state)

    def load_foreign(path: Path) -> None:
        shutil.copy(path, path.with_suffix(".safetensors"))
        vp.read_foreign(path.with_suffix(".safetensors"), "adaptformer")

    config = yaml.safe_dump(to_dict(tiny_config(photos, folder))).encode()
    row = json.dumps(sample_row(), indent=1).encode()
    return {
        "adapter.json": ((adapter / "adapter.json").read_bytes(), lambda path: load_adapter(path, "adapter.json")),
        "adapter.safetensors": (
            (adapter / "adapter.safetensors").read_bytes(),
            lambda path: load_adapter(path, "adapter.safetensors"),
        ),
        "result.json": (row, read_row),
        "data.json": ((folder / "data.json").read_bytes(), read_data),
        "config.yaml": (config, load_config),
        "list.txt": (listed.encode(), lambda path: load_list(path, ".txt")),
        "list.csv": (listed.replace(" ", ",").encode(), lambda path: load_list(path, ".csv")),
        "vit.npz": ((folder / "vit.npz").read_bytes(), load_npz),
        "new.pth": ((folder / "new.pth").read_bytes(), load_torch),
        "legacy.pth": ((folder / "legacy.pth").read_bytes(), load_torch),
        "state.pt": ((folder / "new.pth").read_bytes(), load_state),
        "foreign.safetensors": (safetensors.torch.save(state), load_foreign),
    }


@pytest.fixture
def alarm() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


KINDS = ("adapter.json", "adapter.safetensors", "result.json", "data.json", "config.yaml", "list.txt", "list.csv")
KINDS += ("vit.npz", "new.pth", "legacy.pth", "state.pt", "foreign.safetensors")


@pytest.mark.usefixtures("alarm")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(
    kind: str, sources: dict[str, tuple[bytes, Callable[[Path], Any]]], tmp_path: Path
) -> None:
    content, read = sources[kind]
    others, random = [other for other, _ in sources.values()], Random(kind)
    counts = {"read": 0, "refused": 0}
    for number in range(FILES):
        path = tmp_path / f"{number}.file"
        path.write_bytes(damage(content, random.choice(others), random))
        signal.alarm(SECONDS)
        message = message_of(lambda path=path: read(path))  # an error of another kind is one of the test
        signal.alarm(0)
        counts["read" if message is None else "refused"] += 1
        assert is_clean(message or ""), number
    if table := os.environ.get("DAMAGED_TABLE"):
        with Path(table).open("a") as file:
            file.write(f"| {kind} | {counts['read']} | {counts['refused']} |\n")
